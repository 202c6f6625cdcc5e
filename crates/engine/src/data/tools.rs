//! Tool descriptions and function calls, in the thirteen formats that templates name.
//!
//! A conversation's tools are a JSON list; [`ToolFormat::describe`] turns it into the text that joins the system
//! message. A function turn is JSON too; [`ToolFormat::calls`] turns it into what the model is to write.

mod calls;
mod prompts;

use serde_json::{Map, Value};

use super::pyjson::{dumps, dumps_indented, to_str, truthy};

/// A day, for the templates whose tool text carries the date. The engine has no clock: the run's start decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunDate {
    /// The year, such as 2026.
    pub year: i32,
    /// The month, 1 to 12.
    pub month: u8,
    /// The day of the month, 1 to 31.
    pub day: u8,
}

impl RunDate {
    /// The UTC day of a Unix time in seconds.
    pub fn from_unix(seconds: i64) -> Self {
        // Days since 1 March 0000, counted in eras of 400 years, so that leap days come last.
        let days = seconds.div_euclid(86_400) + 719_468;
        let era = days.div_euclid(146_097);
        let day_of_era = days.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        Self {
            year: year as i32,
            month: month as u8,
            day: (day_of_year - (153 * march_month + 2) / 5 + 1) as u8,
        }
    }

    /// The day as `24 Nov 2026`.
    pub fn short(&self) -> String {
        format!("{:02} {} {}", self.day, &self.month_name()[..3], self.year)
    }

    /// The English name of the month.
    pub(super) fn month_name(&self) -> &'static str {
        const MONTHS: [&str; 12] = [
            "January",
            "February",
            "March",
            "April",
            "May",
            "June",
            "July",
            "August",
            "September",
            "October",
            "November",
            "December",
        ];
        MONTHS.get(usize::from(self.month.wrapping_sub(1))).copied().unwrap_or("January")
    }
}

/// How a template writes tools and function calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "each is a model family's own format, named as LLaMA-Factory names it"
)]
pub enum ToolFormat {
    Default,
    Gemma4,
    Glm4,
    Glm4Moe,
    Lfm2,
    Ling,
    Llama3,
    Minimax1,
    Minimax2,
    Mistral,
    Qwen,
    Qwen35,
    SeedOss,
}

/// Writes one tool.
type Writer<'a> = dyn Fn(&Map<String, Value>) -> Result<String, String> + 'a;

/// Names as `tool_format` has them.
const NAMES: [(&str, ToolFormat); 13] = [
    ("default", ToolFormat::Default),
    ("gemma4", ToolFormat::Gemma4),
    ("glm4", ToolFormat::Glm4),
    ("glm4_moe", ToolFormat::Glm4Moe),
    ("lfm2", ToolFormat::Lfm2),
    ("ling", ToolFormat::Ling),
    ("llama3", ToolFormat::Llama3),
    ("minimax1", ToolFormat::Minimax1),
    ("minimax2", ToolFormat::Minimax2),
    ("mistral", ToolFormat::Mistral),
    ("qwen", ToolFormat::Qwen),
    ("qwen3_5", ToolFormat::Qwen35),
    ("seed_oss", ToolFormat::SeedOss),
];

impl ToolFormat {
    /// The format of this name.
    pub fn named(name: &str) -> Option<Self> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, format)| *format)
    }

    /// All names, in alphabetical order.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMES.iter().map(|(name, _)| *name)
    }

    /// The text that describes `tools` (a JSON list) to the model; empty for an empty list.
    ///
    /// # Errors
    /// A sentence saying what is wrong with the list.
    pub fn describe(self, tools: &str, date: Option<RunDate>) -> Result<String, String> {
        let parsed: Value = serde_json::from_str(tools)
            .map_err(|e| format!("the tool description is not valid JSON ({e})"))?;
        let Value::Array(tools) = parsed else {
            return Err("the tool description must be a JSON list of tools".to_string());
        };
        if tools.is_empty() {
            return Ok(String::new());
        }
        let tools = tools
            .iter()
            .map(|tool| tool.as_object().ok_or("every tool must be a JSON object".to_string()))
            .collect::<Result<Vec<_>, _>>()?;
        self.describe_objects(&tools, date)
    }

    fn describe_objects(
        self,
        tools: &[&Map<String, Value>],
        date: Option<RunDate>,
    ) -> Result<String, String> {
        let lines = |write: &Writer<'_>| {
            tools.iter().map(|tool| write(tool)).collect::<Result<String, _>>()
        };
        let bare =
            |tool: &Map<String, Value>| unwrapped(tool).map(|t| dumps(&Value::Object(t.clone())));
        let whole = |tool: &Map<String, Value>| Ok(format!("\n{}", dumps(&wrapped(tool))));
        Ok(match self {
            Self::Default => describe_default(tools)?,
            Self::Gemma4 => calls::gemma4_declarations(tools)?,
            Self::Glm4 => {
                let block = |tool: &Map<String, Value>| {
                    let tool = unwrapped(tool)?;
                    let body = dumps_indented(&Value::Object(tool.clone()));
                    Ok(format!("\n\n## {}\n\n{body}{}", name_of(tool)?, prompts::GLM4_AFTER_TOOL))
                };
                format!("{}{}", prompts::GLM4, lines(&block)?)
            }
            Self::Glm4Moe => fill(prompts::GLM4_MOE, &lines(&whole)?),
            Self::Lfm2 => {
                let list = tools.iter().map(|t| unwrapped(t).map(|t| Value::Object(t.clone())));
                fill(prompts::LFM2, &dumps(&Value::Array(list.collect::<Result<_, _>>()?)))
            }
            Self::Ling => fill(prompts::LING, &lines(&whole)?),
            Self::Llama3 => {
                let day = date
                    .ok_or("this template's tool text carries the date, and the run has none")?
                    .short();
                let block = |tool: &Map<String, Value>| {
                    Ok(format!("{}\n\n", dumps_indented(&wrapped(tool))))
                };
                fill(&prompts::LLAMA3.replacen("{date}", &day, 1), &lines(&block)?)
            }
            Self::Minimax1 => fill(prompts::MINIMAX1, &lines(&|tool| Ok(bare(tool)? + "\n"))?),
            Self::Minimax2 => fill(
                prompts::MINIMAX2,
                &lines(&|tool| Ok(format!("<tool>{}</tool>\n", bare(tool)?)))?,
            ),
            Self::Mistral => {
                let list = Value::Array(tools.iter().map(|tool| wrapped(tool)).collect());
                format!("[AVAILABLE_TOOLS] {}[/AVAILABLE_TOOLS]", dumps(&list))
            }
            Self::Qwen => fill(prompts::QWEN, &lines(&whole)?),
            Self::Qwen35 => {
                fill(prompts::QWEN35, &lines(&|tool| Ok(format!("\n{}", bare(tool)?)))?)
            }
            Self::SeedOss => {
                let list =
                    Value::Array(tools.iter().map(|tool| Value::Object((*tool).clone())).collect());
                fill(prompts::SEED_OSS, &format!("\n{}", dumps(&list)))
            }
        })
    }

    /// The text of a function turn: `content` is a JSON object or list of {"name", "arguments"}, alone, after a
    /// thought, or between the words that mark a call.
    ///
    /// # Errors
    /// A sentence saying what is wrong with the content.
    pub fn calls(
        self,
        content: &str,
        thought_words: Option<&[String; 2]>,
        call_words: Option<&[String; 2]>,
    ) -> Result<String, String> {
        if let Some((whole, inner)) = call_words.and_then(|words| between(content, words)) {
            let before = content.replace(whole, "");
            return Ok(before + &calls::write(self, inner)?);
        }
        match thought_words.and_then(|words| between(content, words)) {
            Some((thought, _)) => {
                Ok(thought.to_string() + &calls::write(self, &content.replace(thought, ""))?)
            }
            None => calls::write(self, content),
        }
    }
}

/// The first stretch from `words[0]` to the next `words[1]`: with the words, and without.
pub(super) fn between<'a>(text: &'a str, words: &[String; 2]) -> Option<(&'a str, &'a str)> {
    let start = text.find(&words[0])?;
    let inner = start + words[0].len();
    let end = inner + text[inner..].find(&words[1])?;
    Some((&text[start..end + words[1].len()], &text[inner..end]))
}

/// Puts the tools' text into a prompt.
fn fill(prompt: &str, tools: &str) -> String {
    prompt.replacen("{tools}", tools, 1)
}

fn is_wrapped(tool: &Map<String, Value>) -> bool {
    tool.get("type").and_then(Value::as_str) == Some("function")
}

/// The tool as {"type": "function", "function": ...}.
fn wrapped(tool: &Map<String, Value>) -> Value {
    if is_wrapped(tool) {
        return Value::Object(tool.clone());
    }
    serde_json::json!({"type": "function", "function": tool})
}

/// The tool without its {"type": "function"} wrapping.
fn unwrapped(tool: &Map<String, Value>) -> Result<&Map<String, Value>, String> {
    if !is_wrapped(tool) {
        return Ok(tool);
    }
    tool.get("function")
        .and_then(Value::as_object)
        .ok_or("a tool of type function has no `function`".to_string())
}

fn name_of(tool: &Map<String, Value>) -> Result<String, String> {
    tool.get("name").map(to_str).ok_or("a tool has no `name`".to_string())
}

/// The ReAct-style list of names, descriptions and arguments.
fn describe_default(tools: &[&Map<String, Value>]) -> Result<String, String> {
    let mut text = String::new();
    let mut names = Vec::new();
    for tool in tools {
        let tool = unwrapped(tool)?;
        let name = name_of(tool)?;
        let parameters =
            tool.get("parameters").ok_or(format!("tool `{name}` has no `parameters`"))?;
        let properties = parameters.get("properties").and_then(Value::as_object);
        let properties =
            properties.ok_or(format!("tool `{name}` has no `parameters.properties`"))?;
        let description = tool.get("description").map(to_str).unwrap_or_default();
        text += &format!("> Tool Name: {name}\nTool Description: {description}\nTool Args:\n");
        for (argument, schema) in properties {
            text += &describe_argument(argument, schema, parameters.get("required"))
                .map_err(|reason| format!("tool `{name}`: {reason}"))?;
        }
        text.push('\n');
        names.push(name);
    }
    Ok(fill(&prompts::DEFAULT.replacen("{names}", &names.join(", "), 1), &text))
}

fn describe_argument(
    name: &str,
    schema: &Value,
    required: Option<&Value>,
) -> Result<String, String> {
    let Value::Object(schema) = schema else {
        return Err(format!("argument `{name}` is not an object"));
    };
    let required = match required {
        Some(Value::Array(names)) if names.iter().any(|n| n.as_str() == Some(name)) => ", required",
        _ => "",
    };
    let text = |key: &str| schema.get(key).map(to_str).unwrap_or_default();
    let choices = match schema.get("enum").filter(|v| truthy(v)) {
        None => String::new(),
        Some(Value::Array(values)) if values.iter().all(Value::is_string) => {
            let values: Vec<_> = values.iter().filter_map(Value::as_str).collect();
            format!(", should be one of [{}]", values.join(", "))
        }
        Some(_) => {
            return Err(format!("the `enum` of argument `{name}` is not a list of strings"));
        }
    };
    let items = match schema.get("items").filter(|v| truthy(v)) {
        None => String::new(),
        Some(Value::Object(items)) => {
            format!(
                ", where each item should be {}",
                items.get("type").map(to_str).unwrap_or_default()
            )
        }
        Some(_) => return Err(format!("the `items` of argument `{name}` is not an object")),
    };
    Ok(format!(
        "  - {name} ({}{required}): {}{choices}{items}\n",
        text("type"),
        text("description")
    ))
}
