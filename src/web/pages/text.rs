//! The words of the pages, by key: one JSON file a language below static/locales, compiled in.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::LazyLock;

/// A language that the pages speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lang {
    /// English.
    En,
}

type Words = BTreeMap<String, String>;

static EN: LazyLock<Words> =
    LazyLock::new(|| parse(include_str!("../../../static/locales/en.json")));

/// Words that the scripts need too.
const SCRIPT: &[&str] = &[
    "chart.",
    "copied",
    "link.",
    "new.starting",
    "phase.",
    "plot.",
    "samples.",
    "say.",
    "status.",
    "time.",
    "unit.",
];

impl Lang {
    /// All of them.
    pub const ALL: [Self; 1] = [Self::En];

    /// As in `<html lang>`.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::En => "en",
        }
    }

    /// The text of a key; the key itself where there is none (a test keeps that from happening).
    #[must_use]
    pub fn text(self, key: &str) -> &str {
        self.words().get(key).map_or(key, String::as_str)
    }

    /// The same with `{0}`, `{1}` ... filled in.
    #[must_use]
    pub fn fill(self, key: &str, values: &[&dyn Display]) -> String {
        let mut text = self.text(key).to_owned();
        for (place, value) in values.iter().enumerate() {
            text = text.replace(&format!("{{{place}}}"), &value.to_string());
        }
        text
    }

    /// The scripts' words as JSON, for an attribute (the template escapes it).
    #[must_use]
    pub fn script_words(self) -> String {
        let wanted = |key: &str| SCRIPT.iter().any(|prefix| key.starts_with(prefix));
        let words: BTreeMap<_, _> = self.words().iter().filter(|(key, _)| wanted(key)).collect();
        serde_json::to_string(&words).unwrap_or_default()
    }

    fn words(self) -> &'static Words {
        match self {
            Self::En => &EN,
        }
    }
}

fn parse(json: &str) -> Words {
    serde_json::from_str(json).unwrap_or_default()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// Every quoted word in a file that could be a key.
    fn quoted(text: &str, found: &mut BTreeSet<String>) {
        let key = |c: char| {
            c.is_ascii_lowercase()
                || c.is_ascii_digit()
                || c == '_'
                || c == '.'
                || c == '{'
                || c == '}'
                || c == '$'
        };
        for mark in ['"', '\'', '`'] {
            found.extend(
                text.split(mark)
                    .filter(|word| !word.is_empty() && word.chars().all(key))
                    .map(str::to_owned),
            );
        }
    }

    fn files(dir: &Path, suffixes: &[&str], visit: &mut dyn FnMut(&str, &str)) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                files(&path, suffixes, visit);
            } else if path
                .extension()
                .is_some_and(|suffix| suffixes.iter().any(|wanted| suffix == *wanted))
            {
                visit(path.to_str().unwrap(), &std::fs::read_to_string(&path).unwrap());
            }
        }
    }

    #[test]
    fn every_key_exists_and_is_used() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let (mut called, mut words) = (BTreeSet::new(), BTreeSet::new());
        for (dir, suffix) in [("templates", "html"), ("src/web", "rs"), ("static", "js")] {
            files(&root.join(dir), &[suffix], &mut |path, text| {
                if path.contains("vendor") {
                    return;
                }
                quoted(text, &mut words);
                for call in
                    ["shell.t(\"", "shell.f(\"", "shell.f2(\"", ".text(\"", ".fill(\"", "word('"]
                {
                    for rest in text.split(call).skip(1) {
                        let key = rest.split(['"', '\'']).next().unwrap();
                        called.insert((path.to_owned(), key.to_owned()));
                    }
                }
            });
        }
        for (path, key) in called.iter().filter(|(path, _)| !path.ends_with("text.rs")) {
            assert!(EN.contains_key(key), "{path}: no text for `{key}` in static/locales/en.json");
        }
        // keys made from a value: `status.{}` and the like
        let made: Vec<&str> = words
            .iter()
            .filter_map(|word| word.split_once(['{', '$']).map(|(head, _)| head))
            .filter(|head| head.len() > 2)
            .collect();
        for key in EN.keys() {
            let used = words.contains(key) || made.iter().any(|head| key.starts_with(head));
            assert!(used, "static/locales/en.json: nobody uses `{key}`");
        }
    }

    #[test]
    fn languages_have_the_same_keys_and_places() {
        for lang in Lang::ALL {
            assert!(!lang.words().is_empty());
            for (key, text) in lang.words() {
                for place in ["{0}", "{1}"] {
                    assert_eq!(
                        text.contains(place),
                        EN[key].contains(place),
                        "{}: {key}",
                        lang.code()
                    );
                }
            }
            assert!(lang.words().keys().eq(EN.keys()), "{}", lang.code());
        }
    }

    #[test]
    fn words_are_filled_in() {
        assert_eq!(Lang::En.fill("runs.progress", &[&"x"]), "Progress of x");
        assert_eq!(Lang::En.text("no.such.key"), "no.such.key");
        assert!(!Lang::En.script_words().contains('<'));
    }
}
