//! The words of the pages, by key: one JSON file a language below static/locales, compiled in.
//!
//! The help of the arguments is written in the field table, in English; `fields.CODE.json` has it in another language.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::LazyLock;

use axum::http::{HeaderMap, header};
use run::fields::Field;

use super::shell::cookie;

/// A language that the pages speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lang {
    /// English.
    En,
    /// Chinese, simplified.
    Zh,
}

type Words = BTreeMap<String, String>;

static EN: LazyLock<Words> =
    LazyLock::new(|| parse(include_str!("../../../static/locales/en.json")));
static ZH: LazyLock<Words> =
    LazyLock::new(|| parse(include_str!("../../../static/locales/zh.json")));
static ZH_HELP: LazyLock<Words> =
    LazyLock::new(|| parse(include_str!("../../../static/locales/fields.zh.json")));

/// The cookie that the switch in the rail sets.
pub const COOKIE: &str = "lang";

/// Words that the scripts need too.
const SCRIPT: &[&str] = &[
    "chart.",
    "copied",
    "data.js.",
    "link.",
    "new.starting",
    "phase.",
    "plot.",
    "queue.moved",
    "run.gpu",
    "run.usage",
    "samples.",
    "say.",
    "status.",
    "time.",
    "unit.",
];

impl Lang {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::En, Self::Zh];

    /// The language of a request: the cookie's, else the best of `Accept-Language` that there is, else English.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        if let Some(lang) = cookie(headers, COOKIE).and_then(Self::named) {
            return lang;
        }
        let wanted = headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok());
        let mut best = (0.0, Self::En);
        for item in wanted.unwrap_or_default().split(',') {
            let (tag, quality) = item.split_once(';').unwrap_or((item, "q=1"));
            let quality = quality.trim().strip_prefix("q=").and_then(|q| q.parse::<f32>().ok());
            let main = tag.trim().split('-').next().unwrap_or_default().to_ascii_lowercase();
            // of equals the first counts
            if let (Some(quality), Some(lang)) = (quality, Self::named(&main))
                && quality > best.0
            {
                best = (quality, lang);
            }
        }
        best.1
    }

    /// The language of a code.
    #[must_use]
    pub fn named(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|lang| lang.code() == code)
    }

    /// Its name in itself.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::En => "English",
            Self::Zh => "中文",
        }
    }

    /// What an argument means, in one sentence; the table's own words where there are no others.
    #[must_use]
    pub fn help(self, field: &'static Field) -> &'static str {
        match self {
            Self::En => field.help,
            Self::Zh => ZH_HELP.get(field.name).map_or(field.help, String::as_str),
        }
    }

    /// As in `<html lang>`.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::En => "en",
            Self::Zh => "zh",
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
            Self::Zh => &ZH,
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
    fn every_argument_is_explained() {
        use run::fields::{Class, FIELDS};
        let shown = |field: &&Field| field.class == Class::Done && !field.help.is_empty();
        for field in FIELDS.iter().filter(shown) {
            let known = ZH_HELP.contains_key(field.name);
            assert!(known, "static/locales/fields.zh.json: no help for `{}`", field.name);
        }
        for name in ZH_HELP.keys() {
            let known = Field::find(name).is_some();
            assert!(known, "static/locales/fields.zh.json: there is no argument `{name}`");
        }
    }

    #[test]
    fn the_language_of_a_request() {
        let check = |cookie: &str, accept: &str, expected: Lang| {
            let mut headers = HeaderMap::new();
            headers.insert(header::COOKIE, cookie.parse().unwrap());
            headers.insert(header::ACCEPT_LANGUAGE, accept.parse().unwrap());
            assert_eq!(Lang::of(&headers), expected, "{cookie} {accept}");
        };
        check("", "", Lang::En);
        check("", "de, fr;q=0.5", Lang::En);
        check("", "zh-CN,zh;q=0.9,en;q=0.8", Lang::Zh);
        check("", "en-GB, zh;q=0.9", Lang::En);
        check("", "en;q=0.1, ZH-Hant;q=0.2", Lang::Zh);
        check("", "zh;q=0, zh;q=x, \"", Lang::En);
        check("lang=zh", "en", Lang::Zh);
        check("lang=en; theme=dark", "zh", Lang::En);
        check("lang=tlh", "zh", Lang::Zh);
        assert_eq!(Lang::of(&HeaderMap::new()), Lang::En);
    }

    #[test]
    fn words_are_filled_in() {
        assert_eq!(Lang::En.fill("runs.progress", &[&"x"]), "Progress of x");
        assert_eq!(Lang::En.text("no.such.key"), "no.such.key");
        assert!(!Lang::En.script_words().contains('<'));
    }
}
