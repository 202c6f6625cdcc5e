//! From messages to pieces: slots filled with content.

use super::super::error::RowError;
use super::{Class, Message, Role, Slot, Template, ToolText};

impl Template {
    /// The pieces of each message. Prefix and system message are pieces of the first.
    ///
    /// # Errors
    /// When tools or a function call are not the JSON that their format wants.
    pub fn render(
        &self,
        messages: &[Message],
        system: &str,
        tools: &str,
    ) -> Result<Vec<Vec<Slot>>, RowError> {
        let mut rendered = Vec::with_capacity(messages.len());
        for (i, message) in messages.iter().enumerate() {
            let mut pieces = Vec::new();
            let mut folded_system = String::new();
            if i == 0 {
                pieces.extend(self.prefix.iter().cloned());
                let system_pieces = self.render_system(system, tools)?;
                if self.class == Class::Llama2 {
                    if let Some(Slot::Text(text)) = system_pieces.into_iter().next() {
                        folded_system = text;
                    }
                } else {
                    pieces.extend(system_pieces);
                }
            } else if i % 2 == 0 {
                pieces.extend(self.separator.iter().cloned());
            }
            pieces.extend(self.render_message(message, folded_system, i / 2)?);
            rendered.push(pieces);
        }
        Ok(rendered)
    }

    /// The system block; nothing where there is neither system message nor tools.
    fn render_system(&self, system: &str, tools: &str) -> Result<Vec<Slot>, RowError> {
        let system = if system.is_empty() { &self.default_system } else { system };
        if system.is_empty() && tools.is_empty() {
            return Ok(Vec::new());
        }
        let tool_text = match &self.tool_text {
            _ if tools.is_empty() => String::new(),
            ToolText::Format(format) => format.describe(tools, self.date)?,
            ToolText::Between([open, close]) => format!("{open}{tools}{close}"),
        };
        Ok(fill(&self.system, &(system.to_string() + &tool_text), 0))
    }

    fn render_message(
        &self,
        message: &Message,
        folded_system: String,
        turn: usize,
    ) -> Result<Vec<Slot>, RowError> {
        Ok(match message.role {
            Role::User => fill(&self.user, &(folded_system + &message.content), turn),
            Role::Assistant => fill(&self.assistant, &message.content, turn),
            Role::Observation => fill(&self.observation, &message.content, turn),
            Role::Function => {
                // The reference passes these words on for every class but this one.
                let words = (self.class != Class::Llama2)
                    .then_some((&self.thought_words, &self.tool_call_words));
                let text = self.call_format.calls(
                    &message.content,
                    words.map(|w| w.0),
                    words.map(|w| w.1),
                )?;
                fill(&self.function, &text, turn)
            }
        })
    }
}

/// The slots with content, and the number of the turn, put in.
fn fill(slots: &[Slot], content: &str, turn: usize) -> Vec<Slot> {
    let put = |slot: &Slot| match slot {
        Slot::Text(text) => {
            let text = text.replacen("{{idx}}", &turn.to_string(), 1);
            Slot::Text(text.replacen("{{content}}", content, 1))
        }
        other => other.clone(),
    };
    slots.iter().map(put).collect()
}
