//! Templates: how a conversation becomes text pieces, and the pieces token ids.
//!
//! A template is data (templates.json): a few slots for each kind of message. Every text slot is tokenised by itself
//! and no token ever spans two of them, so the slots are part of what a model learns. The names and texts are
//! LLaMA-Factory's; `NAME@0.8.3` is a template as that older release had it.

mod encode;
mod fix;
mod jinja;
mod parse;
mod render;
pub mod show;

use std::sync::OnceLock;

use indexmap::IndexMap;
use serde::Deserialize;

pub use encode::Encoder;

use super::error::{DataError, nearest};
use super::tools::{RunDate, ToolFormat};

/// Who says a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The person.
    User,
    /// The model.
    Assistant,
    /// The model, calling functions; the content is JSON.
    Function,
    /// What a function answered.
    Observation,
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }
}

/// A piece of a message. In a template a text may hold `{{content}}`; in a rendered message it is final.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "SlotData")]
pub enum Slot {
    /// A text that is tokenised by itself.
    Text(String),
    /// The tokenizer's bos token, or nothing where it has none.
    Bos,
    /// The tokenizer's eos token, or nothing where it has none.
    Eos,
    /// One token by its name.
    Token(String),
}

/// A slot as templates.json has it.
#[derive(Deserialize)]
#[serde(untagged)]
enum SlotData {
    Text(String),
    Token {
        token: String,
    },
    Bos {
        #[serde(rename = "bos")]
        _bos: bool,
    },
    Eos {
        #[serde(rename = "eos")]
        _eos: bool,
    },
}

impl From<SlotData> for Slot {
    fn from(data: SlotData) -> Self {
        match data {
            SlotData::Text(text) => Self::Text(text),
            SlotData::Token { token } => Self::Token(token),
            SlotData::Bos { .. } => Self::Bos,
            SlotData::Eos { .. } => Self::Eos,
        }
    }
}

/// How a template treats the system message and thoughts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The system message is a piece of its own.
    #[default]
    Plain,
    /// The system message goes inside the first user message.
    Llama2,
    /// Answers carry a thought, an empty one where the data has none.
    Reasoning,
    /// As `Reasoning`, but an empty thought is the closing word alone.
    Glm47,
    /// A vision model's own way, which is not known here.
    MossVl,
}

/// An entry of templates.json; what is left out has the default.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(default)]
    class: Class,
    #[serde(default)]
    prefix: Vec<Slot>,
    #[serde(default)]
    separator: Vec<Slot>,
    system: Option<Vec<Slot>>,
    user: Option<Vec<Slot>>,
    assistant: Option<Vec<Slot>>,
    function: Option<Vec<Slot>>,
    observation: Option<Vec<Slot>>,
    tools: Option<String>,
    tools_wrap: Option<[String; 2]>,
    #[serde(default)]
    default_system: String,
    #[serde(default)]
    stop_words: Vec<String>,
    thought_words: Option<[String; 2]>,
    tool_call_words: Option<[String; 2]>,
    #[serde(default)]
    efficient_eos: bool,
    #[serde(default)]
    replace_eos: bool,
    #[serde(default)]
    replace_jinja: bool,
    media: Option<String>,
}

/// How tools are described to the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolText {
    /// In a format.
    Format(ToolFormat),
    /// As the data has them, between two texts.
    Between([String; 2]),
}

/// A template, with the run's own settings applied.
#[derive(Clone, Debug)]
pub struct Template {
    /// Its name; `chat_template` where it was derived from the tokenizer.
    pub name: String,
    /// How it treats system message and thoughts.
    pub class: Class,
    /// Comes once, before everything.
    pub prefix: Vec<Slot>,
    /// Comes before every user message but the first (older releases only).
    pub separator: Vec<Slot>,
    /// The system message.
    pub system: Vec<Slot>,
    /// A user message, with the header of the answer that follows.
    pub user: Vec<Slot>,
    /// An answer.
    pub assistant: Vec<Slot>,
    /// A function call.
    pub function: Vec<Slot>,
    /// A function's result.
    pub observation: Vec<Slot>,
    /// How function calls are written.
    pub call_format: ToolFormat,
    /// How tools are described.
    pub tool_text: ToolText,
    /// The system message where the data has none; may be empty.
    pub default_system: String,
    /// Tokens that end a generated answer besides eos.
    pub stop_words: Vec<String>,
    /// What opens and closes a thought.
    pub thought_words: [String; 2],
    /// What opens and closes a function call in the data.
    pub tool_call_words: [String; 2],
    /// The eos token is put where the next turn begins instead of after each answer.
    pub efficient_eos: bool,
    /// The first stop word becomes the eos token.
    pub replace_eos: bool,
    /// The tokenizer's chat template is replaced by this template's.
    pub replace_jinja: bool,
    /// `Some(true)`: empty thoughts are trained. `None`: they are in the masked prompt. `Some(false)`: and thoughts in
    /// the data are removed.
    pub enable_thinking: Option<bool>,
    /// Earlier thoughts stay in the conversation.
    pub preserve_thinking: bool,
    /// Made for a model that also reads images, video or audio. Text rows work all the same.
    pub multimodal: bool,
    /// The day that llama3's tool text carries.
    pub date: Option<RunDate>,
}

/// What a run changes about a template.
#[derive(Clone, Debug, Default)]
pub struct TemplateOptions {
    /// Another tool format.
    pub tool_format: Option<String>,
    /// Another default system message.
    pub default_system: Option<String>,
    /// See [`Template::enable_thinking`]; only reasoning templates look at it.
    pub enable_thinking: Option<bool>,
    /// See [`Template::preserve_thinking`]; only reasoning templates look at it.
    pub preserve_thinking: bool,
    /// The run's day.
    pub date: Option<RunDate>,
}

/// Why a template cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// No template has this name.
    #[error("template: Template {name} does not exist.{}", suggestion(nearest))]
    Unknown {
        /// The name that was asked for.
        name: String,
        /// Known names that resemble it.
        nearest: Vec<String>,
    },
    /// The template is known but its behaviour is not.
    #[error("template: {name} is made for a vision model and is not supported; {remedy}")]
    Refused {
        /// The name.
        name: String,
        /// What to use instead.
        remedy: &'static str,
    },
    /// A sample conversation cannot be rendered.
    #[error("template: {name} cannot be shown: {reason}")]
    NotShown {
        /// The name.
        name: String,
        /// Why.
        reason: String,
    },
    /// The tokenizer's chat template gives no template.
    #[error(
        "template: none was given and none can be derived from the tokenizer's chat template ({0}); name one, such as `template: chatml`"
    )]
    NotDerived(String),
}

fn suggestion(names: &[String]) -> String {
    match names {
        [] => " See `tallow template`.".to_string(),
        names => format!(" Did you mean {}?", names.join(" or ")),
    }
}

fn registry() -> &'static IndexMap<String, Entry> {
    static REGISTRY: OnceLock<IndexMap<String, Entry>> = OnceLock::new();
    // The file is part of the program and a test reads every entry of it.
    REGISTRY
        .get_or_init(|| serde_json::from_str(include_str!("templates.json")).unwrap_or_default())
}

impl Template {
    /// The template of this name, as it is registered.
    ///
    /// # Errors
    /// When there is none of that name; the error names the nearest.
    pub fn get(name: &str) -> Result<Self, TemplateError> {
        let entry = registry().get(name).ok_or_else(|| TemplateError::Unknown {
            name: name.to_string(),
            nearest: nearest(name, Self::names()),
        })?;
        if entry.class == Class::MossVl {
            return Err(TemplateError::Refused {
                name: name.to_string(),
                remedy: "for text, use qwen3_nothink",
            });
        }
        Ok(Self::from_entry(name, entry.clone()))
    }

    /// All registered names.
    pub fn names() -> impl Iterator<Item = &'static str> {
        registry().keys().map(String::as_str)
    }

    fn from_entry(name: &str, entry: Entry) -> Self {
        let content = || Slot::Text("{{content}}".to_string());
        let user = entry.user.unwrap_or_else(|| vec![content()]);
        let assistant = entry.assistant.unwrap_or_else(|| answer_slots(entry.efficient_eos));
        let format =
            entry.tools.as_deref().and_then(ToolFormat::named).unwrap_or(ToolFormat::Default);
        let words = |given: Option<[String; 2]>, open: &str, close: &str| {
            given.unwrap_or_else(|| [open.to_string(), close.to_string()])
        };
        Self {
            name: name.to_string(),
            class: entry.class,
            prefix: entry.prefix,
            separator: entry.separator,
            system: entry.system.unwrap_or_else(|| vec![content()]),
            function: entry.function.unwrap_or_else(|| assistant.clone()),
            observation: entry.observation.unwrap_or_else(|| user.clone()),
            user,
            assistant,
            call_format: format,
            tool_text: entry.tools_wrap.map_or(ToolText::Format(format), ToolText::Between),
            default_system: entry.default_system,
            stop_words: entry.stop_words,
            thought_words: words(entry.thought_words, "<think>\n", "\n</think>\n\n"),
            tool_call_words: words(entry.tool_call_words, "<tool_call>", "</tool_call>"),
            efficient_eos: entry.efficient_eos,
            replace_eos: entry.replace_eos,
            replace_jinja: entry.replace_jinja,
            enable_thinking: Some(true),
            preserve_thinking: false,
            multimodal: entry.media.is_some(),
            date: None,
        }
    }

    /// Applies a run's settings.
    ///
    /// # Errors
    /// When the tool format is not known.
    pub fn configure(&mut self, options: &TemplateOptions) -> Result<(), DataError> {
        if let Some(name) = &options.tool_format {
            let format = ToolFormat::named(name).ok_or_else(|| {
                let known: Vec<_> = ToolFormat::names().collect();
                DataError::invalid(format!(
                    "tool_format: {name} is not known; choose from {}",
                    known.join(", ")
                ))
            })?;
            self.function = answer_slots(self.efficient_eos);
            self.call_format = format;
            self.tool_text = ToolText::Format(format);
        }
        if let Some(system) = &options.default_system {
            self.default_system.clone_from(system);
        }
        if self.is_reasoning() {
            self.enable_thinking = options.enable_thinking;
            self.preserve_thinking = options.preserve_thinking;
        }
        self.date = options.date;
        Ok(())
    }

    /// Whether answers carry thoughts.
    pub fn is_reasoning(&self) -> bool {
        matches!(self.class, Class::Reasoning | Class::Glm47)
    }
}

/// The slots of an answer or a call where a template does not say.
fn answer_slots(efficient_eos: bool) -> Vec<Slot> {
    let content = Slot::Text("{{content}}".to_string());
    if efficient_eos { vec![content] } else { vec![content, Slot::Eos] }
}
