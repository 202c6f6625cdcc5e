//! The words after `train`, `data` and `eval`: a file with overrides, or flags.

use std::fmt::Write;

use run::config::{Config, ConfigError, FieldError, Notice, Purpose};
use run::fields::{Class, FIELDS, Group};

/// Every argument that does something here, by group, for `--help`.
#[must_use]
pub fn explained() -> String {
    let mut text = String::from("Arguments, as LLaMA-Factory names them, with their defaults:\n");
    for group in Group::ALL {
        let _ = write!(text, "\n{}:\n", group.title());
        let here = |field: &&run::fields::Field| field.group == group && field.class == Class::Done;
        for field in FIELDS.iter().filter(here) {
            let default = if field.default.is_empty() { "\"\"" } else { field.default };
            let _ = write!(text, "  --{} {default}\n      {}\n", field.name, field.help);
        }
    }
    text
}

/// Reads and checks them. The text says where they come from.
///
/// # Errors
/// Every mistake.
pub fn read(
    words: &[String],
    purpose: Purpose,
) -> Result<(Config, Vec<Notice>, String), ConfigError> {
    let (config, notices, source) = match words.first() {
        Some(first) if !first.starts_with('-') => {
            let overrides = overrides(words.get(1..).unwrap_or_default())?;
            let (config, notices) = Config::load(first, &overrides)?;
            (config, notices, first.clone())
        }
        _ => match split_file(words) {
            Some((file, rest)) => {
                let (config, notices) = Config::load(&file, &overrides(&rest)?)?;
                (config, notices, file)
            }
            None => {
                let (config, notices) = Config::from_flags(words)?;
                (config, notices, "cli".to_owned())
            }
        },
    };
    config.check_for(purpose)?;
    Ok((config, notices, source))
}

/// Takes `--name N` out of the words.
///
/// # Errors
/// Where N is no number.
pub fn take_count(
    name: &str,
    words: &[String],
) -> Result<(Vec<String>, Option<usize>), ConfigError> {
    let flag = format!("--{name}");
    let mut rest = Vec::new();
    let mut limit = None;
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let value = match word.strip_prefix(&*flag) {
            Some("") => words.next().map(String::as_str),
            Some(tail) if tail.starts_with('=') => tail.get(1..),
            _ => {
                rest.push(word.clone());
                continue;
            }
        };
        let number = value.and_then(|value| value.parse().ok());
        limit = Some(number.ok_or_else(|| mistake(name, &format!("takes a number: {flag} 10")))?);
    }
    Ok((rest, limit))
}

/// `--threads 2 config.yaml ...`: the one flag that may stand before the file.
fn split_file(words: &[String]) -> Option<(String, Vec<String>)> {
    let (threads, rest) = match words {
        [flag, number, rest @ ..] if flag == "--threads" => (format!("threads={number}"), rest),
        [flag, rest @ ..] if flag.starts_with("--threads=") => (flag.get(2..)?.to_owned(), rest),
        _ => return None,
    };
    let (file, rest) = rest.split_first()?;
    let is_file = !file.starts_with('-')
        && [".yaml", ".yml", ".json"].iter().any(|suffix| file.ends_with(suffix));
    is_file.then(|| (file.clone(), std::iter::once(threads).chain(rest.iter().cloned()).collect()))
}

/// `key=value`, `--key=value` and `--key value`, all as `key=value`.
fn overrides(words: &[String]) -> Result<Vec<String>, ConfigError> {
    let mut pairs = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        pairs.push(match word.strip_prefix("--") {
            None => word.clone(),
            Some(flag) if flag.contains('=') => flag.to_owned(),
            Some(flag) => match words.next() {
                Some(value) => format!("{flag}={value}"),
                None => return Err(mistake(flag, "wants a value")),
            },
        });
    }
    Ok(pairs)
}

fn mistake(field: &str, message: &str) -> ConfigError {
    ConfigError {
        file: None,
        errors: vec![FieldError { field: field.to_owned(), message: message.to_owned() }],
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn files_flags_and_overrides() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.yaml");
        std::fs::write(&file, "model_name_or_path: m\ndataset: d\ntemplate: qwen\noutput_dir: o\nseed: 1\ndo_train: true\n")
            .unwrap();
        let file = file.display();
        let check = |line: &str, seed: u64, threads: Option<usize>| {
            let (config, _, _) = read(&words(line), Purpose::Train).unwrap();
            assert_eq!((config.seed, config.threads), (seed, threads), "{line}");
        };
        check(&format!("{file}"), 1, None);
        check(&format!("{file} seed=7 threads=2"), 7, Some(2));
        check(&format!("{file} --threads 2"), 1, Some(2));
        check(&format!("{file} --threads=2 seed=3"), 3, Some(2));
        check(&format!("--threads 2 {file} seed=3"), 3, Some(2));
        let flags = "--model_name_or_path m --dataset d --template qwen --output_dir o --stage sft --do_train True";
        check(&format!("{flags} --seed 9 --threads 1"), 9, Some(1));
        check(&format!("--threads 1 {flags} --seed 9"), 9, Some(1));
        for wrong in [
            format!("{file} sed=3"),
            format!("{file} seed"),
            format!("{file} --seed"),
            "none.yaml".to_owned(),
            String::new(),
        ] {
            assert!(read(&words(&wrong), Purpose::Train).is_err(), "{wrong}");
        }
    }

    #[test]
    fn limits() {
        let check = |line: &str, rest: &str, limit: Option<usize>| {
            assert_eq!(take_count("limit", &words(line)).unwrap(), (words(rest), limit));
        };
        check("c.yaml --limit 3", "c.yaml", Some(3));
        check("--limit=3 c.yaml a=b", "c.yaml a=b", Some(3));
        check("c.yaml", "c.yaml", None);
        assert!(take_count("limit", &words("c.yaml --limit x")).is_err());
        assert!(take_count("limit", &words("c.yaml --limit")).is_err());
    }
}
