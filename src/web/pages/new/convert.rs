//! Form, YAML and command line in step: any of them edited, the others follow.

use run::config::Config;
use serde_json::Value;

use super::super::view::plain;
use crate::web::forms::Typed;
use crate::web::presets::Preset;

/// What was asked for, and the texts that were edited.
#[derive(Debug, Default)]
pub struct Asked {
    /// `yaml`, `command`, `preset:KEY` or `set:NAME=VALUE`.
    apply: String,
    yaml: String,
    command: String,
}

/// A text that cannot be read, as it was typed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Unread {
    /// The YAML, where that is the one.
    pub yaml: Option<String>,
    /// The command, where that is the one.
    pub command: Option<String>,
    /// What is wrong with it.
    pub why: String,
}

impl Unread {
    /// Whether there is such a text.
    pub fn any(&self) -> bool {
        self.yaml.is_some() || self.command.is_some()
    }
}

impl Asked {
    /// Takes what is no argument out of a form.
    pub fn take(typed: &mut Typed) -> Self {
        let mut text = |name: &str| typed.take(name).unwrap_or_default();
        Self { apply: text("apply"), yaml: text("yaml"), command: text("command") }
    }

    /// The form's values after what was asked for.
    ///
    /// # Errors
    /// The text as it was typed, where it cannot be read; the form stays as it is.
    pub fn apply(self, mut typed: Typed) -> Result<Typed, (Typed, Unread)> {
        let read = match self.apply.as_str() {
            "yaml" => Config::pairs_of_yaml(&self.yaml),
            "command" => Config::pairs_of_command(&self.command),
            other => {
                other_changes(other, &mut typed);
                return Ok(typed);
            }
        };
        match read {
            Ok(pairs) => {
                let text = |(name, value): (String, Value)| (name, plain(&value));
                Ok(Typed::sent(pairs.into_iter().map(text).collect()))
            }
            Err(error) => {
                let why = error.to_string();
                let is = |name: &str| self.apply == name;
                let (yaml, command) = (is("yaml"), is("command"));
                let unread = Unread {
                    yaml: yaml.then_some(self.yaml),
                    command: command.then_some(self.command),
                    why,
                };
                Err((typed, unread))
            }
        }
    }
}

fn other_changes(apply: &str, typed: &mut Typed) {
    match apply.split_once(':') {
        Some(("preset", key)) => {
            for (name, value) in Preset::named(key).into_iter().flat_map(Preset::values) {
                typed.set(name.to_owned(), value.to_owned());
            }
        }
        Some(("set", pair)) => {
            if let Some((name, value)) = pair.split_once('=') {
                typed.set(name.to_owned(), value.to_owned());
            }
        }
        _ => {}
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn apply(pairs: &[(&str, &str)]) -> Result<Typed, (Typed, Unread)> {
        let pairs = pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let mut typed = Typed::sent(pairs);
        Asked::take(&mut typed).apply(typed)
    }

    #[test]
    fn each_of_the_three_may_be_edited() {
        let yaml = [("apply", "yaml"), ("seed", "1"), ("yaml", "lora_rank: 16\ndataset: [a, b]\n")];
        let typed = apply(&yaml).unwrap();
        assert_eq!((typed.get("lora_rank"), typed.get("dataset")), (Some("16"), Some("a,b")));
        assert_eq!(typed.get("seed"), None, "the YAML is the whole");
        let command =
            [("apply", "command"), ("command", "tallow train \\\n --lora_rank 4 --plot_loss")];
        assert_eq!(apply(&command).unwrap().get("lora_rank"), Some("4"));
        let preset = apply(&[("apply", "preset:badam"), ("dataset", "d")]).unwrap();
        assert_eq!((preset.get("use_badam"), preset.get("dataset")), (Some("true"), Some("d")));
        let set = apply(&[("apply", "set:template=qwen"), ("template", "")]).unwrap();
        assert_eq!(set.get("template"), Some("qwen"));
        for wrong in ["preset:none", "set:x", "odd", ""] {
            assert_eq!(apply(&[("apply", wrong), ("seed", "3")]).unwrap().get("seed"), Some("3"));
        }
        let (typed, unread) =
            apply(&[("apply", "yaml"), ("yaml", "a: ["), ("seed", "1")]).unwrap_err();
        assert_eq!((typed.get("seed"), unread.yaml.as_deref()), (Some("1"), Some("a: [")));
        assert!(unread.command.is_none() && !unread.why.is_empty());
    }
}
