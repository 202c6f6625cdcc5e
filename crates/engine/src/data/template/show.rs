//! A template as a person reads it: its slots, its flags and a conversation in it.

use std::fmt::Write;

use super::super::error::RowError;
use super::{Class, Message, Role, Slot, Template, TemplateError, ToolText, registry};

/// The sample conversation's tool.
const TOOLS: &str = r#"[{"name": "get_weather", "description": "The weather of a place", "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "Name of the city"}}, "required": ["city"]}}]"#;

/// Every registered template with what sets it apart, in the order of the names.
pub fn list() -> Vec<(&'static str, String)> {
    let mut all: Vec<_> = registry()
        .iter()
        .map(|(name, entry)| {
            let mut traits = Vec::new();
            match entry.class {
                Class::Plain => {}
                Class::Llama2 => traits.push("system in the first user turn"),
                Class::Reasoning | Class::Glm47 => traits.push("reasoning"),
                Class::MossVl => traits.push("not supported"),
            }
            if entry.tools.is_some() || entry.tools_wrap.is_some() {
                traits.push("tools");
            }
            if entry.media.is_some() {
                traits.push("multimodal (text works)");
            }
            if entry.efficient_eos {
                traits.push("efficient eos");
            }
            (name.as_str(), traits.join(", "))
        })
        .collect();
    all.sort_by_key(|(name, _)| *name);
    all
}

impl Template {
    /// Slots, flags, stop words and a two-turn sample with a system message and a tool, as text.
    ///
    /// # Errors
    /// When the tool text cannot be made.
    pub fn show(&self) -> Result<String, RowError> {
        let mut out = String::new();
        let mut line = |name: &str, value: &str| {
            // Writing to a text does not fail.
            let _ = writeln!(out, "{name:<18}{value}");
        };
        line("template", &self.name);
        line("class", &format!("{:?}", self.class));
        for (name, slots) in [
            ("prefix", &self.prefix),
            ("system", &self.system),
            ("user", &self.user),
            ("assistant", &self.assistant),
            ("function", &self.function),
            ("observation", &self.observation),
            ("separator", &self.separator),
        ] {
            let shown: Vec<String> = slots.iter().map(shown).collect();
            line(name, if shown.is_empty() { "-" } else { "" });
            for slot in &shown {
                line("", slot);
            }
        }
        let tools = match &self.tool_text {
            ToolText::Format(format) => {
                format!("format {}", format!("{format:?}").to_lowercase())
            }
            ToolText::Between([open, close]) => format!("between {open:?} and {close:?}"),
        };
        line("tools", &tools);
        line("default_system", &format!("{:?}", self.default_system));
        line("stop_words", &self.stop_words.join(" "));
        if self.is_reasoning() {
            line("thought_words", &format!("{:?}", self.thought_words));
            line("enable_thinking", &format!("{:?}", self.enable_thinking));
            line("preserve_thinking", &self.preserve_thinking.to_string());
        }
        for (name, flag) in [
            ("efficient_eos", self.efficient_eos),
            ("replace_eos", self.replace_eos),
            ("replace_jinja", self.replace_jinja),
            ("multimodal", self.multimodal),
        ] {
            line(name, if flag { "yes" } else { "no" });
        }
        out += "\nsample, every slot on its own:\n";
        for message in self.sample()? {
            for slot in message {
                let _ = writeln!(out, "  {}", shown(&slot));
            }
        }
        Ok(out)
    }

    /// The pieces of a two-turn conversation with a system message, a tool and a call of it.
    fn sample(&self) -> Result<Vec<Vec<Slot>>, RowError> {
        let call = r#"{"name": "get_weather", "arguments": {"city": "Paris"}}"#;
        let messages = [
            Message::new(Role::User, "How is the weather in Paris?"),
            Message::new(Role::Function, call),
            Message::new(Role::Observation, r#"{"sky": "clear"}"#),
            Message::new(Role::Assistant, "The sky is clear."),
        ];
        self.render(&messages, "You help.", TOOLS)
    }
}

/// A slot on one line.
fn shown(slot: &Slot) -> String {
    match slot {
        Slot::Text(text) => format!("{text:?}"),
        Slot::Bos => "{bos_token}".to_string(),
        Slot::Eos => "{eos_token}".to_string(),
        Slot::Token(token) => format!("{{token {token}}}"),
    }
}

/// The text of `tallow template NAME --show`.
///
/// # Errors
/// When the template is not known; the error names the nearest ones.
pub fn show(name: &str, date: super::RunDate) -> Result<String, TemplateError> {
    let mut template = Template::get(name)?;
    template.date = Some(date);
    template.show().map_err(|e| TemplateError::NotShown { name: name.to_string(), reason: e.0 })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::RunDate;
    use super::*;

    #[test]
    fn every_template_can_be_shown() {
        let date = RunDate { year: 2026, month: 11, day: 24 };
        let all = list();
        assert!(all.len() >= 125, "{}", all.len());
        for (name, traits) in &all {
            let shown = show(name, date);
            assert_eq!(shown.is_err(), traits.starts_with("not supported"), "{name}: {shown:?}");
        }
        let qwen = show("qwen", date).unwrap();
        for part in [
            "<|im_start|>user\\n{{content}}",
            "<tool_call>",
            "You help.",
            "stop_words        <|im_end|>",
        ] {
            assert!(qwen.contains(part), "{part}: {qwen}");
        }
        assert!(show("llama3", date).unwrap().contains("24 Nov 2026"));
        let old = show("qwen@0.8.3", date).unwrap();
        assert!(
            old.contains("You are a helpful assistant.") && old.contains("{eos_token}"),
            "{old}"
        );
        assert!(show("qwenn", date).unwrap_err().to_string().contains("Did you mean qwen"));
    }
}
