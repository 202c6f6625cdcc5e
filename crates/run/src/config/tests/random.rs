//! Random values: nothing panics, and what is taken comes back.

use proptest::prelude::*;
use serde_json::Value;

use super::super::{Config, read};
use crate::fields::FIELDS;

/// Words of a command as a shell splits it.
fn shell_split(command: &str) -> Vec<String> {
    let (mut words, mut word, mut begun, mut quoted) = (Vec::new(), String::new(), false, false);
    let mut chars = command.chars();
    while let Some(char) = chars.next() {
        match char {
            '\'' => (quoted, begun) = (!quoted, true),
            '\\' if !quoted => match chars.next() {
                Some('\n') | None => {}
                Some(other) => (begun, word) = (true, word + &other.to_string()),
            },
            ' ' if !quoted => {
                if begun {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            other => {
                word.push(other);
                begun = true;
            }
        }
    }
    if begun {
        words.push(word);
    }
    words
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (0_i64..50).prop_map(Value::from),
        (0.0..1.0).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[a-z0-9_.,/ '\"$\\\\-]{0,12}".prop_map(Value::from),
        "[0-9._e+-]{1,8}".prop_map(Value::from),
        prop::sample::select(vec![
            "True", "no", "none", "all", "cosine", "steps", "full", "nan", "-inf", "{}"
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::hash_map("[a-z]{1,4}", inner, 0..3).prop_map(Value::from_iter),
        ]
    })
}

fn any_pair() -> impl Strategy<Value = (String, Value)> {
    let name = prop_oneof![
        20 => prop::sample::select(FIELDS.iter().map(|field| field.name.to_owned()).collect::<Vec<_>>()),
        1 => any::<String>(),
    ];
    (name, any_value())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    /// No value panics, and what is taken comes back from every way of writing it.
    #[test]
    fn whatever_is_taken_comes_back(pairs in prop::collection::vec(any_pair(), 1..6)) {
        let taken: Vec<_> = pairs
            .into_iter()
            .filter(|pair| match Config::from_pairs(std::slice::from_ref(pair)) {
                Ok(_) => true,
                Err(error) => {
                    assert_eq!(error.errors.len(), 1);
                    assert_eq!(&error.errors[0].field, &pair.0);
                    assert!(!error.to_string().is_empty());
                    false
                }
            })
            .collect();
        let (config, _) = Config::from_pairs(&taken).unwrap();
        let _ = (config.check().is_ok(), config.warmup(100), config.eval_every(100));
        let map = config.to_map();
        let (again, _) = Config::from_map(&map).unwrap();
        prop_assert_eq!(again.to_map(), map.clone());
        let yaml = config.to_yaml();
        let pairs = read::yaml(&yaml).map_err(|why| TestCaseError::fail(format!("{yaml}: {why}")))?;
        prop_assert_eq!(Config::from_pairs(&pairs).unwrap().0.to_map(), map.clone(), "{}", yaml);
        let words = shell_split(&config.to_command());
        prop_assert_eq!(Config::from_flags(&words[2..]).unwrap().0.to_map(), map, "{:?}", words);
    }

    /// No file and no command line panics.
    #[test]
    fn no_text_panics(text in "[a-z_:{}\\[\\]&*!|>'\"0-9 \n.-]{0,60}", words in prop::collection::vec("(--)?[a-z_=]{0,8}", 0..5)) {
        let _ = read::yaml(&text);
        let _ = Config::from_flags(&words);
        let _ = Config::default().apply_overrides(&words);
    }
}
