//! Function calls as each model family writes them, and Gemma's way of declaring functions.

use serde_json::{Map, Value};

use super::super::pyjson::{dumps, to_str, truthy};
use super::{ToolFormat, name_of, unwrapped};

/// One call: the function's name and its arguments.
struct Call {
    name: String,
    arguments: Value,
}

/// The text of the calls in `json`: one {"name", "arguments"} or a list of them.
pub(super) fn write(format: ToolFormat, json: &str) -> Result<String, String> {
    let calls = parse(json)?;
    let each = |write: fn(&Call) -> Result<String, String>| {
        calls.iter().map(write).collect::<Result<Vec<_>, _>>()
    };
    Ok(match format {
        ToolFormat::Default => {
            each(|c| Ok(format!("Action: {}\nAction Input: {}", c.name, dumps(&c.arguments))))?
                .join("\n")
        }
        ToolFormat::Gemma4 => each(gemma4)?.concat(),
        ToolFormat::Glm4 => match calls.as_slice() {
            [call] => format!("{}\n{}", call.name, dumps(&call.arguments)),
            _ => return Err("GLM-4 writes exactly one function call in a turn".to_string()),
        },
        ToolFormat::Glm4Moe => each(|c| {
            let open = format!("\n<tool_call>{}", c.name);
            tagged(
                c,
                open,
                |k, v| format!("\n<arg_key>{k}</arg_key>\n<arg_value>{v}</arg_value>"),
                "",
            )
        })?
        .join("\n"),
        ToolFormat::Lfm2 => {
            format!("<|tool_call_start|>[{}]<|tool_call_end|>", each(pythonic)?.join(", "))
        }
        ToolFormat::Llama3 => {
            let call = |c: &Call| serde_json::json!({"name": c.name, "parameters": c.arguments});
            match calls.as_slice() {
                [one] => dumps(&call(one)),
                many => dumps(&Value::Array(many.iter().map(call).collect())),
            }
        }
        ToolFormat::Minimax1 => {
            format!("<tool_calls>\n{}\n</tool_calls>", each(|c| Ok(dumps(&object(c))))?.join("\n"))
        }
        ToolFormat::Minimax2 => each(|c| {
            let open = format!("<invoke name=\"{}\">", c.name);
            tagged(
                c,
                open,
                |k, v| format!("\n<parameter name=\"{k}\">{v}</parameter>"),
                "\n</invoke>",
            )
        })?
        .join("\n"),
        ToolFormat::Mistral => dumps(&Value::Array(calls.iter().map(object).collect())),
        ToolFormat::Qwen | ToolFormat::Ling => {
            each(|c| Ok(format!("<tool_call>\n{}\n</tool_call>", dumps(&object(c)))))?.join("\n")
        }
        ToolFormat::Qwen35 => each(|c| {
            let open = format!("<tool_call>\n<function={}>", c.name);
            tagged(
                c,
                open,
                |k, v| format!("\n<parameter={k}>\n{v}\n</parameter>"),
                "\n</function>\n</tool_call>",
            )
        })?
        .join("\n"),
        ToolFormat::SeedOss => each(|c| {
            let open = format!("\n<seed:tool_call>\n<function={}", c.name);
            tagged(
                c,
                open,
                |k, v| format!("\n<parameter={k}>{v}</parameter>"),
                "\n</function>\n</seed:tool_call>",
            )
        })?
        .join("\n"),
    })
}

fn parse(json: &str) -> Result<Vec<Call>, String> {
    let value: Value = serde_json::from_str(json)
        .map_err(|e| format!("Invalid JSON format in function message ({e})"))?;
    let list = match value {
        Value::Array(list) => list,
        one => vec![one],
    };
    let call = |value: Value| match value {
        Value::Object(mut map) => {
            let name = map.get("name").map(to_str).ok_or("a function call has no `name`")?;
            let arguments =
                map.shift_remove("arguments").ok_or("a function call has no `arguments`")?;
            Ok(Call { name, arguments })
        }
        _ => Err("a function call must be a JSON object".to_string()),
    };
    list.into_iter().map(call).collect()
}

fn object(call: &Call) -> Value {
    serde_json::json!({"name": call.name, "arguments": call.arguments})
}

fn arguments(call: &Call) -> Result<&Map<String, Value>, String> {
    call.arguments
        .as_object()
        .ok_or(format!("the arguments of `{}` must be a JSON object", call.name))
}

/// A value inside tags: a string as it is, anything else as JSON.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| dumps(value), str::to_string)
}

/// `open`, each argument through `write`, `close`.
fn tagged(
    call: &Call,
    open: String,
    write: impl Fn(&str, &str) -> String,
    close: &str,
) -> Result<String, String> {
    let mut text = open;
    for (key, value) in arguments(call)? {
        text += &write(key, &plain(value));
    }
    Ok(text + close)
}

/// `name(key="text", key=json)`.
fn pythonic(call: &Call) -> Result<String, String> {
    let argument = |(key, value): (&String, &Value)| match value {
        Value::String(text) => format!("{key}=\"{text}\""),
        other => format!("{key}={}", dumps(other)),
    };
    Ok(format!(
        "{}({})",
        call.name,
        arguments(call)?.iter().map(argument).collect::<Vec<_>>().join(", ")
    ))
}

fn gemma4(call: &Call) -> Result<String, String> {
    let inside = match &call.arguments {
        Value::Object(map) => gemma4_entries(map),
        Value::String(text) => text.clone(),
        other => gemma4_value(other),
    };
    Ok(format!("<|tool_call>call:{}{{{inside}}}<tool_call|>", call.name))
}

fn gemma4_value(value: &Value) -> String {
    match value {
        Value::Null => "null".to_string(),
        Value::Bool(b) => b.to_string(),
        Value::String(text) => gemma4_quoted(text),
        Value::Object(map) => format!("{{{}}}", gemma4_entries(map)),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(gemma4_value).collect::<Vec<_>>().join(","))
        }
        number => to_str(number),
    }
}

/// `key:value,...` with keys in code point order.
fn gemma4_entries(map: &Map<String, Value>) -> String {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_by_key(|(key, _)| *key);
    entries
        .iter()
        .map(|(key, value)| format!("{key}:{}", gemma4_value(value)))
        .collect::<Vec<_>>()
        .join(",")
}

fn gemma4_quoted(text: &str) -> String {
    format!("<|\"|>{text}<|\"|>")
}

/// Gemma's declarations, one a line.
pub(super) fn gemma4_declarations(tools: &[&Map<String, Value>]) -> Result<String, String> {
    let lines = tools
        .iter()
        .map(|tool| gemma4_declaration(unwrapped(tool)?))
        .collect::<Result<Vec<_>, String>>()?;
    Ok(lines.join("\n"))
}

fn gemma4_declaration(tool: &Map<String, Value>) -> Result<String, String> {
    let description = tool.get("description").map(to_str).unwrap_or_default();
    let mut text =
        format!("declaration:{}{{description:{}", name_of(tool)?, gemma4_quoted(&description));
    if let Some(parameters) = object_field(tool, "parameters")? {
        let mut parts = Vec::new();
        if let Some(properties) = object_field(parameters, "properties")? {
            let entries = properties.iter().map(|(name, schema)| {
                let schema =
                    schema.as_object().ok_or(format!("argument `{name}` is not an object"))?;
                Ok(format!(
                    "{name}:{{{}}}",
                    gemma4_fields(schema, &["description", "type"]).join(",")
                ))
            });
            parts.push(format!(
                "properties:{{{}}}",
                entries.collect::<Result<Vec<_>, String>>()?.join(",")
            ));
        }
        if let Some(required) = parameters.get("required").filter(|v| truthy(v)) {
            let names = required.as_array().ok_or("`required` is not a list")?;
            let names: Vec<_> = names.iter().map(|name| gemma4_quoted(&to_str(name))).collect();
            parts.push(format!("required:[{}]", names.join(",")));
        }
        parts.extend(gemma4_fields(parameters, &["type"]));
        text += &format!(",parameters:{{{}}}", parts.join(","));
    }
    if let Some(response) = object_field(tool, "response")? {
        let mut parts = gemma4_fields(response, &["description"]);
        if response.get("type").map(to_str).is_some_and(|kind| kind.to_uppercase() == "OBJECT") {
            parts.extend(gemma4_fields(response, &["type"]));
        }
        text += &format!(",response:{{{}}}", parts.join(","));
    }
    Ok(text + "}")
}

/// A field that must be an object where it is present and not empty.
fn object_field<'a>(
    map: &'a Map<String, Value>,
    key: &str,
) -> Result<Option<&'a Map<String, Value>>, String> {
    match map.get(key).filter(|v| truthy(v)) {
        None => Ok(None),
        Some(Value::Object(inner)) => Ok(Some(inner)),
        Some(_) => Err(format!("`{key}` is not a JSON object")),
    }
}

/// `key:value` of the fields that are there; a type in capitals.
fn gemma4_fields(map: &Map<String, Value>, keys: &[&str]) -> Vec<String> {
    let field = |key: &&str| {
        let text = map.get(*key).filter(|v| truthy(v)).map(to_str)?;
        let text = if *key == "type" { text.to_uppercase() } else { text };
        Some(format!("{key}:{}", gemma4_quoted(&text)))
    };
    keys.iter().filter_map(field).collect()
}
