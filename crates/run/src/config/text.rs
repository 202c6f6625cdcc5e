//! A config as a person edits it: the text of a YAML file, or a command for a shell.

use serde_json::Value;

use super::error::ConfigError;
use super::{Config, flags, read};

/// Longer texts are no configs.
const LONGEST: usize = 1 << 20;

impl Config {
    /// The arguments that a YAML text names, as they stand there: names and values are not checked yet.
    ///
    /// # Errors
    /// When it is no YAML mapping; the error names the line.
    pub fn pairs_of_yaml(text: &str) -> Result<Vec<(String, Value)>, ConfigError> {
        let whole = |message: String| ConfigError::one("", message);
        if text.len() > LONGEST {
            return Err(whole("the text is too long for a config".to_owned()));
        }
        read::yaml(text.trim_start_matches('\u{feff}')).map_err(whole)
    }

    /// The arguments of a command as a shell would read it, with or without `tallow train` before them.
    ///
    /// # Errors
    /// When a quote is not closed, or a word belongs to no flag.
    pub fn pairs_of_command(text: &str) -> Result<Vec<(String, Value)>, ConfigError> {
        let whole = |message: &str| ConfigError::one("", message);
        if text.len() > LONGEST {
            return Err(whole("the text is too long for a command"));
        }
        let words = shell_words(text).ok_or_else(|| whole("a quote is not closed"))?;
        let first = words.iter().position(|word| word.starts_with("--")).unwrap_or(words.len());
        let program = words.get(..first).unwrap_or_default();
        let known = |word: &String| {
            let name = word.rsplit('/').next().unwrap_or_default();
            matches!(name, "tallow" | "llamafactory-cli" | "train")
        };
        if let Some(word) = program.iter().find(|word| !known(word)) {
            let message = format!("`{word}` belongs to no argument; they look like --name value");
            return Err(ConfigError::one("", message));
        }
        flags::flags(words.get(first..).unwrap_or_default())
    }
}

/// The words of a POSIX shell's line: quotes, backslashes and continued lines, nothing that runs. `None` where a quote
/// is not closed.
fn shell_words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => match chars.next() {
                Some('\n') | None => {}
                Some('\r') => {
                    chars.next();
                }
                Some(next) => word.get_or_insert_default().push(next),
            },
            '\'' => loop {
                match chars.next()? {
                    '\'' => {
                        word.get_or_insert_default();
                        break;
                    }
                    inside => word.get_or_insert_default().push(inside),
                }
            },
            '"' => loop {
                match chars.next()? {
                    '"' => {
                        word.get_or_insert_default();
                        break;
                    }
                    '\\' => word.get_or_insert_default().push(chars.next()?),
                    inside => word.get_or_insert_default().push(inside),
                }
            },
            space if space.is_whitespace() => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    Some(words)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_shell() {
        for (text, expected) in [
            ("", &[][..]),
            ("a  b\tc", &["a", "b", "c"]),
            ("a \\\n    --b 'c d' \"e \\\"f\" g\\ h", &["a", "--b", "c d", "e \"f", "g h"]),
            ("'it'\\''s' ''", &["it's", ""]),
            ("a\\\r\nb", &["ab"]),
        ] {
            assert_eq!(shell_words(text).unwrap(), expected, "{text}");
        }
        assert!(shell_words("'a").is_none() && shell_words("\"a").is_none());
    }

    #[test]
    fn both_texts_give_the_config_back() {
        let pairs = [
            ("model_name_or_path", "/m x"),
            ("dataset", "a,b"),
            ("learning_rate", "1e-4"),
            ("logging_steps", "1"),
            ("default_system", "It's \"so\""),
            ("do_train", "true"),
        ];
        let pairs: Vec<_> =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value))).collect();
        let (config, _) = Config::from_pairs(&pairs).unwrap();
        let yaml = Config::pairs_of_yaml(&config.to_yaml()).unwrap();
        assert_eq!(Config::from_pairs(&yaml).unwrap().0, config);
        let command = Config::pairs_of_command(&config.to_command()).unwrap();
        assert_eq!(Config::from_pairs(&command).unwrap().0, config);
        assert!(config.to_yaml().contains("logging_steps: 1\n"), "{}", config.to_yaml());
        for wrong in ["rm -rf /", "tallow train config.yaml", "--a 'b", "tallow train --seed 1 2"] {
            assert!(Config::pairs_of_command(wrong).is_err(), "{wrong}");
        }
        for wrong in ["- a", "a: [", "a"] {
            assert!(Config::pairs_of_yaml(wrong).is_err(), "{wrong}");
        }
    }
}
