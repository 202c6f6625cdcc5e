//! A template derived from a tokenizer's own chat template: conversations with placeholders are rendered and compared.

use super::super::chat;
use super::super::tokenizer::Tokenizer;
use super::super::tools::{RunDate, ToolFormat};
use super::{Class, Slot, Template, TemplateError, ToolText};

const CONTENT: &str = "{{content}}";

impl Template {
    /// The template that `tokenizer.chat_template` amounts to, or `empty` where the tokenizer has none.
    ///
    /// # Errors
    /// When the chat template cannot be rendered or has no place for the content.
    pub fn from_tokenizer(
        tokenizer: &Tokenizer,
        date: Option<RunDate>,
    ) -> Result<Self, TemplateError> {
        match tokenizer.chat_template() {
            Some(source) => derive(tokenizer, source, date).map_err(TemplateError::NotDerived),
            None => Self::get("empty"),
        }
    }
}

fn derive(tokenizer: &Tokenizer, source: &str, date: Option<RunDate>) -> Result<Template, String> {
    let prefix = tokenizer.default_prefix()?;
    let skip = prefix.chars().count();
    let render = |messages: &[(&str, &str)], prompt: bool| {
        let text = chat::render(source, messages, prompt, &tokenizer.chat_variables(), date)?;
        Ok::<String, String>(after(&text, skip))
    };
    let system = render(&[("system", CONTENT)], false)?;
    let user_after_empty_system = render(&[("system", ""), ("user", CONTENT)], true)?;
    let mut user = render(&[("user", CONTENT)], true)?;
    let conversation = render(&[("user", CONTENT), ("assistant", CONTENT)], false)?;
    let assistant = after(&conversation, user.chars().count());
    let class = if assistant.contains("<think>") { Class::Reasoning } else { Class::Plain };
    let assistant = assistant.replace("<think>", "").replace("</think>", "");
    let assistant = assistant.trim_start_matches('\n');
    let mut default_system = String::new();
    if user.chars().count() > user_after_empty_system.chars().count() {
        default_system = surplus(&user_after_empty_system, &user);
        let block = system.replacen(CONTENT, &default_system, 1);
        user = after(&user, block.chars().count());
    }
    for (what, slot) in
        [("system message", system.as_str()), ("user message", &user), ("answer", assistant)]
    {
        if !slot.contains(CONTENT) {
            return Err(format!("the {what} does not appear in what it renders"));
        }
    }
    let mut template = Template::get("empty").map_err(|e| e.to_string())?;
    let slot = |text: &str| vec![Slot::Text(text.to_string())];
    template.name = "chat_template".to_string();
    template.class = class;
    template.prefix = if prefix.is_empty() { Vec::new() } else { slot(&prefix) };
    template.system = slot(&system);
    template.observation = slot(&user);
    template.user = slot(&user);
    template.function = slot(assistant);
    template.assistant = slot(assistant);
    template.call_format = ToolFormat::Default;
    template.tool_text = ToolText::Format(ToolFormat::Default);
    template.default_system = default_system;
    template.efficient_eos = false;
    template.replace_jinja = false;
    Ok(template)
}

/// The text without its first `count` characters.
fn after(text: &str, count: usize) -> String {
    text.chars().skip(count).collect()
}

/// The characters of `long` that are passed over while walking through `short` inside it.
fn surplus(short: &str, long: &str) -> String {
    let mut wanted = short.chars().peekable();
    let mut surplus = String::new();
    for c in long.chars() {
        match wanted.peek() {
            None => break,
            Some(next) if *next == c => {
                wanted.next();
            }
            Some(_) => surplus.push(c),
        }
    }
    surplus
}
