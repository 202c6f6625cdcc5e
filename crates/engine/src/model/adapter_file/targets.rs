//! Which layers an adapter is on: PEFT's `target_modules`, a list of names, a regular expression
//! or "all-linear".

use serde_json::Value;

use crate::model::brief;

/// For each module path, whether `target` means it. Errors say what is wrong with `target`.
pub(super) fn matched(target: Option<&Value>, paths: &[&str]) -> Result<Vec<bool>, String> {
    match target {
        Some(Value::String(all)) if all == "all-linear" => Ok(vec![true; paths.len()]),
        Some(Value::String(pattern)) => by_pattern(pattern, paths),
        Some(Value::Array(names)) => by_names(names, paths),
        _ => Err("expected a list of module names, a regular expression or \"all-linear\"".into()),
    }
}

/// The last parts of the matched paths (`q_proj`, ...), in order; an error where a name is matched
/// in some layers only.
pub(super) fn names(paths: &[&str], matched: &[bool]) -> Result<Vec<String>, String> {
    let last = |path: &str| path.rsplit('.').next().unwrap_or(path).to_owned();
    let mut out: Vec<String> = Vec::new();
    for (path, _) in paths.iter().zip(matched).filter(|(_, matched)| **matched) {
        let name = last(path);
        if !out.contains(&name) {
            out.push(name);
        }
    }
    let missed =
        paths.iter().zip(matched).find(|(path, matched)| !**matched && out.contains(&last(path)));
    match missed {
        _ if out.is_empty() => Err("names no linear layer of this model".into()),
        Some((path, _)) => Err(format!(
            "an adapter on {} in some layers only (not on {path}) is not supported",
            last(path)
        )),
        None => Ok(out),
    }
}

/// PEFT's rule: a name is the whole path or its end after a dot.
fn by_names(names: &[Value], paths: &[&str]) -> Result<Vec<bool>, String> {
    let mut out = vec![false; paths.len()];
    for name in names {
        let name = name.as_str().ok_or_else(|| format!("{} is no module name", brief(name)))?;
        let mut any = false;
        for (path, matched) in paths.iter().zip(&mut out) {
            let hit =
                path.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
            *matched |= hit;
            any |= hit;
        }
        if !any {
            return Err(format!("{} names no linear layer of this model", brief(name)));
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
    use serde_json::json;

    use super::*;

    #[test]
    fn names_patterns_and_all() {
        let layer = |l: usize| {
            ["self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj"]
                .map(|m| format!("model.layers.{l}.{m}"))
        };
        let paths: Vec<String> = (0..2).flat_map(layer).collect();
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let check = |target: Value, expected: Result<&[&str], &str>| {
            let found = matched(Some(&target), &paths).and_then(|hits| names(&paths, &hits));
            match (found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{target}"),
                (Err(found), Err(part)) => assert!(found.contains(part), "{target}: {found}"),
                (found, expected) => panic!("{target}: {found:?}, expected {expected:?}"),
            }
        };
        check(json!("all-linear"), Ok(&["q_proj", "v_proj", "up_proj"]));
        check(json!(["v_proj", "q_proj"]), Ok(&["q_proj", "v_proj"]));
        check(json!(["self_attn.q_proj"]), Ok(&["q_proj"]));
        check(json!([paths[0], paths[3]]), Ok(&["q_proj"]));
        check(json!([paths[0]]), Err("in some layers only"));
        check(json!(["proj"]), Err("names no linear layer"));
        check(json!([1]), Err("is no module name"));
        check(json!(r".*\.(q|v)_proj"), Ok(&["q_proj", "v_proj"]));
        check(json!(r"^(?!.*mlp).*(?:_proj).*"), Ok(&["q_proj", "v_proj"]));
        check(json!("q_proj"), Err("names no linear layer"));
        check(json!("("), Err("not a regular expression"));
        check(json!(null), Err("expected a list"));
        assert!(matched(None, &paths).unwrap_err().contains("expected a list"));
    }
}
