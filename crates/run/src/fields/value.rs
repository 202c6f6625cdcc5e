//! How an argument's text, JSON or YAML value becomes a Rust value, and back.
//!
//! YAML, a form and the command line disagree about types (`5e-05` is text to PyYAML, everything
//! is text in a form), so each type reads every spelling of its values.

use serde_json::{Map, Number, Value};

use super::Kind;

/// Whole numbers beyond this are not exact in JSON.
const LARGEST_INT: f64 = 9_007_199_254_740_992.0;
/// Longer text is a mistake.
const LONGEST_TEXT: usize = 1 << 20;

/// A type that an argument can have.
pub trait Argument: Sized + Default {
    /// What a form shows.
    const KIND: Kind;
    /// All values, where they can be listed.
    const CHOICES: &'static [&'static str] = &[];
    /// True where `null` is a value of its own.
    const OPTIONAL: bool = false;

    /// Reads any spelling of a value.
    ///
    /// # Errors
    /// What is wrong with it, without the argument's name.
    fn read(value: &Value) -> Result<Self, String>;

    /// The value as JSON.
    fn emit(&self) -> Value;
}

impl Argument for bool {
    const KIND: Kind = Kind::Bool;

    fn read(value: &Value) -> Result<Self, String> {
        let text = match value {
            Value::Bool(yes) => return Ok(*yes),
            other => scalar(other)?.to_ascii_lowercase(),
        };
        match text.as_str() {
            "true" | "yes" | "on" | "y" | "t" | "1" => Ok(true),
            "false" | "no" | "off" | "n" | "f" | "0" => Ok(false),
            _ => Err(format!("`{}` is not true or false", short(&text))),
        }
    }

    fn emit(&self) -> Value {
        Value::Bool(*self)
    }
}

macro_rules! whole_numbers {
    ($($type:ty)*) => {$(
        impl Argument for $type {
            const KIND: Kind = Kind::Int;

            fn read(value: &Value) -> Result<Self, String> {
                let number = whole(value)?;
                <$type>::try_from(number).map_err(|_| format!("`{number}` is out of range"))
            }

            fn emit(&self) -> Value {
                Value::from(*self)
            }
        }
    )*};
}

whole_numbers!(usize u64 i64);

impl Argument for f64 {
    const KIND: Kind = Kind::Float;

    fn read(value: &Value) -> Result<Self, String> {
        let number = match value {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => digits(text).parse().ok(),
            _ => None,
        };
        match number {
            Some(number) if number.is_finite() => Ok(number),
            Some(number) => Err(format!("`{number}` is not a finite number")),
            None => Err(format!("`{}` is not a number", shown(value))),
        }
    }

    fn emit(&self) -> Value {
        Number::from_f64(*self).map_or(Value::Null, Value::Number)
    }
}

impl Argument for String {
    const KIND: Kind = Kind::Text;

    fn read(value: &Value) -> Result<Self, String> {
        let text = scalar(value)?;
        if text.len() > LONGEST_TEXT {
            return Err(format!("{} bytes of text are too many", text.len()));
        }
        if text.contains('\0') {
            return Err("the text holds a zero byte".to_owned());
        }
        Ok(text)
    }

    fn emit(&self) -> Value {
        Value::String(self.clone())
    }
}

impl<T: Argument> Argument for Option<T> {
    const KIND: Kind = T::KIND;
    const CHOICES: &'static [&'static str] = T::CHOICES;
    const OPTIONAL: bool = true;

    fn read(value: &Value) -> Result<Self, String> {
        let none = match value {
            Value::Null => true,
            Value::String(text) => {
                matches!(text.as_str(), "null" | "Null" | "NULL" | "None" | "none" | "~")
                    || (text.is_empty() && !matches!(T::KIND, Kind::Text))
            }
            _ => false,
        };
        if none { Ok(None) } else { T::read(value).map(Some) }
    }

    fn emit(&self) -> Value {
        self.as_ref().map_or(Value::Null, T::emit)
    }
}

/// Comma-separated names, or a list of them; names with commas come as the text of a JSON list.
impl Argument for Vec<String> {
    const KIND: Kind = Kind::List;

    fn read(value: &Value) -> Result<Self, String> {
        let items = match value {
            Value::Null => Vec::new(),
            Value::Array(items) => items.iter().map(String::read).collect::<Result<_, _>>()?,
            other => {
                let text = String::read(other)?;
                match serde_json::from_str::<Self>(&text) {
                    Ok(items) => items,
                    Err(_) => text.split(',').map(str::to_owned).collect(),
                }
            }
        };
        Ok(items
            .iter()
            .map(|item| item.trim().to_owned())
            .filter(|item| !item.is_empty())
            .collect())
    }

    fn emit(&self) -> Value {
        let text = self.join(",");
        if self.iter().any(|item| item.contains(',')) || text.starts_with('[') {
            return Value::from(self.as_slice());
        }
        Value::String(text)
    }
}

/// Comma-separated numbers, or a list of them.
impl Argument for Vec<f64> {
    const KIND: Kind = Kind::List;

    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Null => Ok(Vec::new()),
            Value::Array(items) => items.iter().map(f64::read).collect(),
            Value::Number(_) => Ok(vec![f64::read(value)?]),
            other => Vec::<String>::read(other)?
                .into_iter()
                .map(|item| f64::read(&item.into()))
                .collect(),
        }
    }

    fn emit(&self) -> Value {
        let items: Vec<String> = self.iter().map(|item| item.emit().to_string()).collect();
        Value::String(items.join(","))
    }
}

/// Named values, as a mapping or as the text of a JSON object.
impl Argument for Map<String, Value> {
    const KIND: Kind = Kind::Json;

    fn read(value: &Value) -> Result<Self, String> {
        let parsed = match value {
            Value::Object(map) => return Ok(map.clone()),
            Value::String(text) => serde_json::from_str(text).map_err(|error| error.to_string()),
            _ => Err("it is a single value".to_owned()),
        };
        parsed.map_err(|why| format!("`{}` is not a JSON object: {why}", shown(value)))
    }

    fn emit(&self) -> Value {
        Value::Object(self.clone())
    }
}

/// A whole number, also spelled `1000.0`, `1e3` or `1_000`.
fn whole(value: &Value) -> Result<i64, String> {
    let exact = match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => digits(text).parse().ok(),
        _ => None,
    };
    if let Some(exact) = exact.filter(|exact| exact.unsigned_abs() <= LARGEST_INT as u64) {
        return Ok(exact);
    }
    let number = f64::read(value)?;
    if number.fract() != 0.0 {
        return Err(format!("`{}` is not a whole number", shown(value)));
    }
    if number.abs() > LARGEST_INT {
        return Err(format!("`{}` is out of range", shown(value)));
    }
    Ok(number as i64)
}

/// Python's digit separators do not matter.
fn digits(text: &str) -> String {
    let text = text.trim();
    let inside = |at: usize| {
        let around = |at: Option<usize>| {
            at.and_then(|at| text.as_bytes().get(at)).is_some_and(u8::is_ascii_digit)
        };
        around(at.checked_sub(1)) && around(Some(at + 1))
    };
    text.char_indices()
        .filter(|(at, char)| *char != '_' || !inside(*at))
        .map(|(_, char)| char)
        .collect()
}

/// Text, a number's text, or true/false; not a list, a mapping or null.
pub(super) fn scalar(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(yes) => Ok(yes.to_string()),
        Value::Null => Err("null is no value here; leave it out to get the default".to_owned()),
        Value::Array(_) => Err("a list is no value here".to_owned()),
        Value::Object(_) => Err("a mapping is no value here".to_owned()),
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => short(text),
        other => short(&other.to_string()),
    }
}

/// At most 60 characters, on one line.
pub(super) fn short(text: &str) -> String {
    let line: String =
        text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect();
    if line.chars().count() <= 60 {
        return line;
    }
    line.chars().take(57).chain("...".chars()).collect()
}
