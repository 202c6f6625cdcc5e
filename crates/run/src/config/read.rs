//! A config file as pairs of name and value.

use std::fmt;
use std::fs;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_yaml_ng::Value as Yaml;

use super::error::ConfigError;

/// Larger files are no configs.
const LARGEST_FILE: u64 = 4 << 20;

type Pairs = Vec<(String, Value)>;

/// Reads a `.yaml`, `.yml` or `.json` file.
pub(super) fn file(path: &Path) -> Result<Pairs, ConfigError> {
    let kind = path.extension().and_then(|name| name.to_str()).map(str::to_ascii_lowercase);
    let read: fn(&str) -> Result<Pairs, String> = match kind.as_deref() {
        Some("yaml" | "yml") => yaml,
        Some("json") => json,
        _ => return Err(whole("a config file ends in .yaml, .yml or .json")),
    };
    let length = fs::metadata(path).map_err(|error| whole(error.to_string()))?.len();
    if length > LARGEST_FILE {
        return Err(whole(format!("{length} bytes are too many for a config file")));
    }
    let text = fs::read_to_string(path).map_err(|error| whole(error.to_string()))?;
    let pairs = read(text.trim_start_matches('\u{feff}')).map_err(whole)?;
    for (name, value) in &pairs {
        if value.as_str().is_some_and(|text| text.starts_with("${") && text.ends_with('}')) {
            return Err(ConfigError::one(
                name,
                "${...} is not replaced here; write the value itself",
            ));
        }
    }
    Ok(pairs)
}

fn whole(message: impl Into<String>) -> ConfigError {
    ConfigError::one("", message)
}

/// YAML as PyYAML and OmegaConf read it: the field's type decides, not the spelling.
pub(super) fn yaml(text: &str) -> Result<Pairs, String> {
    let value: Yaml = serde_yaml_ng::from_str(text).map_err(|error| match error.location() {
        Some(at) => format!("line {}: {error}", at.line()),
        None => error.to_string(),
    })?;
    match value {
        Yaml::Null => Ok(Vec::new()),
        Yaml::Mapping(map) => {
            map.into_iter().map(|(name, value)| Ok((key(name)?, plain(value)?))).collect()
        }
        _ => Err("the file does not hold `name: value` lines".to_owned()),
    }
}

fn json(text: &str) -> Result<Pairs, String> {
    let pairs: JsonPairs = serde_json::from_str(text)
        .map_err(|error| format!("line {} column {}: {error}", error.line(), error.column()))?;
    Ok(pairs.0)
}

/// A YAML value as JSON. What JSON cannot hold becomes text, which the field's type refuses.
pub(super) fn plain(value: Yaml) -> Result<Value, String> {
    Ok(match value {
        Yaml::Null => Value::Null,
        Yaml::Bool(yes) => Value::Bool(yes),
        Yaml::Number(number) => number
            .as_i64()
            .map(Number::from)
            .or_else(|| number.as_u64().map(Number::from))
            .or_else(|| number.as_f64().and_then(Number::from_f64))
            .map_or_else(|| Value::String(number.to_string()), Value::Number),
        Yaml::String(text) => Value::String(text),
        Yaml::Sequence(items) => {
            Value::Array(items.into_iter().map(plain).collect::<Result<_, _>>()?)
        }
        Yaml::Mapping(map) => Value::Object(
            map.into_iter()
                .map(|(name, value)| Ok((key(name)?, plain(value)?)))
                .collect::<Result<Map<_, _>, String>>()?,
        ),
        Yaml::Tagged(tagged) => return Err(format!("the tag {} is not supported", tagged.tag)),
    })
}

fn key(name: Yaml) -> Result<String, String> {
    match plain(name)? {
        Value::String(text) => Ok(text),
        Value::Bool(yes) => Ok(yes.to_string()),
        Value::Number(number) => Ok(number.to_string()),
        other => Err(format!("{other} is no argument's name")),
    }
}

/// A JSON object that says so when a name comes twice.
struct JsonPairs(Pairs);

impl<'de> Deserialize<'de> for JsonPairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = JsonPairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of names and values")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<JsonPairs, A::Error> {
                let mut pairs = Pairs::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if pairs.iter().any(|(known, _)| *known == name) {
                        return Err(serde::de::Error::custom(format!("`{name}` comes twice")));
                    }
                    pairs.push((name, value));
                }
                Ok(JsonPairs(pairs))
            }
        }
        deserializer.deserialize_map(Object)
    }
}
