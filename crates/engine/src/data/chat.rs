//! Rendering a chat template as transformers does: Jinja with its whitespace rules, Python's string methods and JSON,
//! within limits of work and size, since the template comes from a file.

use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind};

use super::pyjson;
use super::tools::RunDate;

/// Instructions that one rendering may take.
const FUEL: u64 = 2_000_000;
/// Bytes that a chat template may have.
const MAX_SOURCE: usize = 1 << 20;
/// Bytes that a rendering may have.
const MAX_OUTPUT: usize = 16 << 20;

/// The text of a conversation of (role, content) messages. `variables` are the tokenizer's special tokens, such as
/// `bos_token`.
///
/// # Errors
/// What the template raised, or which limit it ran into.
pub fn render(
    source: &str,
    messages: &[(&str, &str)],
    add_generation_prompt: bool,
    variables: &[(String, String)],
    date: Option<RunDate>,
) -> Result<String, String> {
    if source.len() > MAX_SOURCE {
        return Err(format!("it has {} bytes, more than {MAX_SOURCE}", source.len()));
    }
    let env = environment(date).map_err(|e| e.to_string())?;
    let messages: Vec<Value> = messages
        .iter()
        .map(|(role, content)| {
            Value::from_pairs([("role", Value::from(*role)), ("content", Value::from(*content))])
        })
        .collect();
    let mut context = vec![
        ("messages".to_string(), Value::from(messages)),
        ("tools".to_string(), Value::from(())),
        ("documents".to_string(), Value::from(())),
        ("add_generation_prompt".to_string(), Value::from(add_generation_prompt)),
    ];
    context
        .extend(variables.iter().map(|(name, token)| (name.clone(), Value::from(token.as_str()))));
    let text = env
        .render_str(&without_generation_marks(source), Value::from_pairs(context))
        .map_err(|e| e.to_string().replace('\n', " "))?;
    if text.len() > MAX_OUTPUT {
        return Err(format!("its output has {} bytes, more than {MAX_OUTPUT}", text.len()));
    }
    Ok(text)
}

fn environment(date: Option<RunDate>) -> Result<Environment<'static>, Error> {
    let mut env = Environment::new();
    env.set_fuel(Some(FUEL));
    env.set_recursion_limit(100);
    env.set_syntax(
        minijinja::syntax::SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?,
    );
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.add_function("raise_exception", |text: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, text))
    });
    env.add_function("strftime_now", move |format: String| -> Result<String, Error> {
        let date = date
            .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "it asks for today's date"))?;
        Ok(strftime(date, &format))
    });
    env.add_filter("tojson", |value: Value, kwargs: Kwargs| -> Result<Value, Error> {
        let indent: Option<u32> = kwargs.get("indent")?;
        let json = serde_json::to_value(&value).map_err(|e| {
            Error::new(ErrorKind::BadSerialization, "a value has no JSON form").with_source(e)
        })?;
        let text =
            if indent == Some(4) { pyjson::dumps_indented(&json) } else { pyjson::dumps(&json) };
        Ok(Value::from_safe_string(text))
    });
    Ok(env)
}

/// The few directives that chat templates use.
fn strftime(date: RunDate, format: &str) -> String {
    format
        .replace("%d", &format!("{:02}", date.day))
        .replace("%m", &format!("{:02}", date.month))
        .replace("%Y", &date.year.to_string())
        .replace("%B", date.month_name())
        .replace("%b", date.month_name().get(..3).unwrap_or_default())
}

/// transformers marks what the model writes with `{% generation %}`, which changes no text.
fn without_generation_marks(source: &str) -> String {
    let mut kept = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else {
            break;
        };
        let tag = &rest[start..start + length + 2];
        let word = tag
            .trim_start_matches("{%")
            .trim_end_matches("%}")
            .trim_matches(['-', '+', ' ', '\t', '\n']);
        kept += &rest[..start];
        // An `if` that always holds keeps the tag's own trimming of whitespace.
        kept += &match word {
            "generation" => tag.replacen("generation", "if true", 1),
            "endgeneration" => tag.replacen("endgeneration", "endif", 1),
            _ => tag.to_string(),
        };
        rest = &rest[start + length + 2..];
    }
    kept + rest
}

#[cfg(test)]
mod tests {
    use super::render;
    use crate::data::RunDate;

    #[test]
    fn renders_as_transformers_does() {
        let check = |source: &str, expected: &str| {
            let messages = [("system", "s"), ("user", " é ")];
            let variables = [("bos_token".to_string(), "<s>".to_string())];
            let date = Some(RunDate { year: 2026, month: 11, day: 4 });
            let text = render(source, &messages, true, &variables, date);
            assert_eq!(text, Ok(expected.to_string()), "{source}");
        };
        check("{{ bos_token }}{{ messages[1].content.strip() }}", "<s>é");
        check(
            "{% for m in messages %}\n  {% if m['role'] == 'user' %}\nU{% endif %}\n{% endfor %}",
            "U",
        );
        check("{{ messages[1] | tojson }}", "{\"role\": \"user\", \"content\": \" é \"}");
        check("{{ strftime_now('%d %b %Y') }}", "04 Nov 2026");
        check("{% generation %}\n{{ 1 + 1 }}{% endgeneration %}", "2");
        check(
            "{% if tools is not none %}T{% endif %}{% if add_generation_prompt %}P{% endif %}",
            "P",
        );
        check(
            "{{ messages[0]['content'].split('s') | length }}{% if x is defined and x.y %}{% endif %}",
            "2",
        );
    }
}
