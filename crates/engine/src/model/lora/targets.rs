//! Which layers an adapter is on: PEFT's `target_modules`, a list of names, a regular expression
//! or "all-linear"; and `lora_target`, which says the same.

use serde_json::{Value, json};

use crate::model::brief;

/// The layers that get an adapter.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Targets {
    /// Every linear layer but the head.
    #[default]
    All,
    /// Modules with these names: the whole path, or its end after a dot.
    Names(Vec<String>),
    /// Modules whose whole path this regular expression matches.
    Pattern(String),
}

impl Targets {
    /// As `lora_target` has them: names, `all`, or one regular expression (anything that could be
    /// no name). None at all means all.
    #[must_use]
    pub fn of_argument(given: &[String]) -> Self {
        let name = |text: &str| text.chars().all(|c| c.is_alphanumeric() || "_.-".contains(c));
        match given {
            [] => Self::All,
            [one] if one == "all" || one == "all-linear" => Self::All,
            [one] if !name(one) => Self::Pattern(one.clone()),
            names if names.iter().any(|n| n == "all") => Self::All,
            names => Self::Names(names.to_vec()),
        }
    }

    /// As `target_modules` has them.
    ///
    /// # Errors
    /// What is wrong with the value.
    pub fn of_json(value: Option<&Value>) -> Result<Self, String> {
        match value {
            Some(Value::String(all)) if all == "all-linear" => Ok(Self::All),
            Some(Value::String(pattern)) => Ok(Self::Pattern(pattern.clone())),
            Some(Value::Array(names)) => {
                let name = |v: &Value| {
                    let text = v.as_str().map(str::to_owned);
                    text.ok_or_else(|| format!("{} is no module name", brief(v)))
                };
                names.iter().map(name).collect::<Result<_, _>>().map(Self::Names)
            }
            _ => {
                Err("expected a list of module names, a regular expression or \"all-linear\""
                    .into())
            }
        }
    }

    /// As PEFT writes them.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match self {
            Self::All => json!("all-linear"),
            Self::Names(names) => json!(names),
            Self::Pattern(pattern) => json!(pattern),
        }
    }

    /// For each module's path, whether an adapter is on it. `outer` are modules beside the layers
    /// (embedding, head): only what is named outright is among them.
    ///
    /// # Errors
    /// A name that is no module's, or a pattern that is none or matches nothing.
    pub fn matched(&self, paths: &[&str], outer: &[&str]) -> Result<Vec<bool>, String> {
        let all: Vec<&str> = paths.iter().chain(outer).copied().collect();
        let hits = match self {
            Self::All => (0..all.len()).map(|i| i < paths.len()).collect(),
            Self::Names(names) => by_names(names, &all)?,
            Self::Pattern(pattern) => by_pattern(pattern, &all)?,
        };
        match hits.contains(&true) {
            true => Ok(hits),
            false => {
                Err(format!("names no linear layer of this model; known are: {}", known(&all)))
            }
        }
    }
}

/// PEFT's rule: a name is the whole path or its end after a dot.
pub(super) fn ends_path(path: &str, name: &str) -> bool {
    path.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The last parts of the paths (`q_proj`, ...), each once, in order.
pub(super) fn last_parts<'a>(paths: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for path in paths {
        let last = path.rsplit('.').next().unwrap_or(path);
        if !out.iter().any(|name| name == last) {
            out.push(last.to_owned());
        }
    }
    out
}

fn known(paths: &[&str]) -> String {
    last_parts(paths.iter().copied()).join(", ")
}

fn by_names(names: &[String], paths: &[&str]) -> Result<Vec<bool>, String> {
    let mut out = vec![false; paths.len()];
    for name in names {
        let mut any = false;
        for (path, matched) in paths.iter().zip(&mut out) {
            let hit = ends_path(path, name);
            *matched |= hit;
            any |= hit;
        }
        if !any {
            let (name, known) = (brief(name), known(paths));
            return Err(format!("{name} names no linear layer of this model; known are: {known}"));
        }
    }
    Ok(out)
}

/// The pattern must match a whole path, as Python's `re.fullmatch` does.
fn by_pattern(pattern: &str, paths: &[&str]) -> Result<Vec<bool>, String> {
    let bad = |e: fancy_regex::Error| format!("not a regular expression: {}", brief(e));
    let regex = fancy_regex::Regex::new(&format!(r"\A(?:{pattern})\z")).map_err(bad)?;
    paths.iter().map(|path| regex.is_match(path).map_err(bad)).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const ONE: [&str; 2] = ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"];

    fn paths() -> Vec<String> {
        let layer = |l: usize| {
            ["self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj"]
                .map(|m| format!("model.layers.{l}.{m}"))
        };
        (0..2).flat_map(layer).collect()
    }

    fn check(targets: Result<Targets, String>, expected: Result<&[&str], &str>) {
        let paths = paths();
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let outer = ["model.embed_tokens", "lm_head"];
        let shown = format!("{targets:?}");
        let found = targets.and_then(|t| t.matched(&paths, &outer)).map(|hits| {
            let all: Vec<&str> = paths.iter().chain(&outer).copied().collect();
            let hit = all.iter().zip(&hits).filter(|(_, hit)| **hit);
            hit.map(|(path, _)| path.trim_start_matches("model.layers."))
                .collect::<Vec<_>>()
                .join(" ")
        });
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected.join(" "), "{shown}"),
            (Err(found), Err(part)) => assert!(found.contains(part), "{shown}: {found}"),
            (found, expected) => panic!("{shown}: {found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn names_patterns_and_all() {
        let json = |value: Value| Targets::of_json(Some(&value));
        let qv = [
            "0.self_attn.q_proj",
            "0.self_attn.v_proj",
            "1.self_attn.q_proj",
            "1.self_attn.v_proj",
        ];
        let q = [qv[0], qv[2]];
        let all = [qv[0], qv[1], "0.mlp.up_proj", qv[2], qv[3], "1.mlp.up_proj"];
        check(json(json!("all-linear")), Ok(&all));
        check(json(json!(["v_proj", "q_proj"])), Ok(&qv));
        check(json(json!(["self_attn.q_proj"])), Ok(&q));
        check(json(json!(ONE)), Ok(&q));
        check(json(json!([ONE[0]])), Ok(&q[..1]));
        check(
            json(json!(["proj"])),
            Err("proj names no linear layer of this model; known are: q_proj"),
        );
        check(json(json!(["embed_tokens"])), Ok(&["model.embed_tokens"]));
        check(json(json!([1])), Err("is no module name"));
        check(json(json!(r".*\.(q|v)_proj")), Ok(&qv));
        check(json(json!(r"^(?!.*mlp).*(?:_proj).*")), Ok(&qv));
        check(json(json!("q_proj")), Err("names no linear layer"));
        check(json(json!("(")), Err("not a regular expression"));
        check(json(json!(null)), Err("expected a list"));
        check(Targets::of_json(None), Err("expected a list"));
    }

    #[test]
    fn lora_target_in_all_its_forms() {
        let given = |names: &[&str]| {
            Ok(Targets::of_argument(&names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()))
        };
        let q = ["0.self_attn.q_proj", "1.self_attn.q_proj"];
        check(given(&["q_proj"]), Ok(&q));
        check(given(&[r".*\.1\.self_attn\.q_proj"]), Ok(&q[1..]));
        check(given(&["1.self_attn.q_proj"]), Ok(&q[1..]));
        check(given(&["q_proj", "lm_head"]), Ok(&[q[0], q[1], "lm_head"]));
        for all in [&["all"][..], &[], &["all-linear"], &["q_proj", "all"]] {
            assert_eq!(given(all), Ok(Targets::All));
        }
    }

    #[test]
    fn written_as_read() {
        for value in [json!("all-linear"), json!(["q_proj", "x.y"]), json!(".*q_proj")] {
            assert_eq!(Targets::of_json(Some(&value)).unwrap().to_json(), value);
        }
    }
}
