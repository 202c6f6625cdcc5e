//! The table is whole, agrees with upstream's, and with the page made from it.
#![expect(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::PathBuf;

use serde_json::Map;

use super::*;
use crate::config::Config;

/// What LLaMA-Factory's table lacks: our own, and names that transformers 4 has.
const NOT_UPSTREAM: [&str; 6] = [
    "activation_memory",
    "group_by_length",
    "sample_max_new_tokens",
    "sample_prompt",
    "save_safetensors",
    "threads",
];

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn shared() -> PathBuf {
    env::var_os("TALLOW_SHARED").map_or_else(|| repository().join("../shared"), PathBuf::from)
}

/// Nothing, spelled in three ways, and numbers of one type.
fn plain(value: &Value) -> Value {
    match value {
        Value::Number(number) => Value::from(number.as_f64()),
        Value::String(text) if text.is_empty() => Value::Null,
        Value::Array(items) if items.is_empty() => Value::Null,
        other => other.clone(),
    }
}

#[test]
fn every_upstream_argument_is_there_with_its_default() {
    let path = shared().join("reference/arguments.json");
    let Ok(text) = fs::read_to_string(&path) else {
        println!("left out: {} is not here", path.display());
        return;
    };
    let upstream: Map<String, Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(upstream.len(), 346);
    for (name, facts) in &upstream {
        let field = Field::find(name).unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!(plain(&field.default_value()), plain(&facts["default"]), "{name}");
    }
    let ours: BTreeSet<&str> = FIELDS
        .iter()
        .map(|field| field.name)
        .filter(|name| !upstream.contains_key(*name))
        .collect();
    assert_eq!(ours, BTreeSet::from(NOT_UPSTREAM));
}

#[test]
fn rows_are_sound() {
    let mut names = BTreeSet::new();
    let config = Config::default();
    for field in FIELDS {
        let name = field.name;
        assert!(names.insert(name), "{name} comes twice");
        let default =
            field.read(&Value::from(field.default)).unwrap_or_else(|why| panic!("{name}: {why}"));
        assert_eq!(default, field.default_value(), "{name}");
        assert_eq!(field.read(&default).unwrap(), default, "{name}: a read value reads back");
        assert!(field.asks_nothing(&default) && field.asks_nothing(&Value::Null), "{name}");
        assert_eq!(config.get(name).unwrap_or(default.clone()), default, "{name}");
        let member = config.get(name).is_some();
        assert_eq!(!field.help.is_empty(), member, "{name}: members have a help text");
        assert!(field.help.is_empty() || field.help.ends_with('.'), "{name}: {}", field.help);
        assert!(member || !matches!(field.class, Class::Done), "{name} is done without a member");
        assert!(field.not_yet.iter().all(|choice| field.choices.contains(choice)), "{name}");
        if let Class::NoEffect(why) | Class::Refused(why) = field.class {
            assert!(!why.is_empty() && !why.ends_with('.'), "{name}: {why}");
        }
        if let Some((other, value)) = field.needs {
            let other = Field::find(other).unwrap();
            let read = other.read(&Value::from(value));
            assert!(
                read.is_ok()
                    || other.not_yet.contains(&value)
                    || !matches!(other.class, Class::Done),
                "{name}"
            );
        }
    }
}

#[test]
fn a_beginner_sees_seven() {
    let basic = FIELDS.iter().filter(|field| field.level == Level::Basic);
    let names: BTreeSet<&str> = basic.map(|field| field.name).collect();
    let expected = [
        "model_name_or_path",
        "dataset",
        "finetuning_type",
        "num_train_epochs",
        "learning_rate",
        "cutoff_len",
        "per_device_train_batch_size",
    ];
    assert_eq!(names, BTreeSet::from(expected));
}

#[test]
fn the_page_of_all_arguments_is_up_to_date() {
    let path = repository().join("docs/arguments.md");
    let made = Config::documented_markdown();
    if env::var_os("UPDATE").is_some() {
        fs::write(&path, &made).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == made, "{} is stale: run this test with UPDATE=1", path.display());
}

#[test]
fn values_are_read_in_every_spelling() {
    let check = |name: &str, given: Value, expected: Value| {
        assert_eq!(Field::find(name).unwrap().read(&given), Ok(expected), "{name} {given}");
    };
    for (given, expected) in
        [("True", true), ("yes", true), ("on", true), ("1", true), ("False", false), ("off", false)]
    {
        check("plot_loss", given.into(), expected.into());
    }
    check("plot_loss", 1.into(), true.into());
    for given in ["5e-05", "5.0e-5", "0.00005", " 5e-5 ", "0.000_05"] {
        check("learning_rate", given.into(), 5e-5.into());
    }
    check("learning_rate", 1.into(), 1.0.into());
    for given in [Value::from(1000.0), "1000".into(), "1000.0".into(), "1e3".into(), "1_000".into()]
    {
        check("max_samples", given, 1000.into());
    }
    for given in [Value::Null, "null".into(), "None".into(), "~".into(), "".into()] {
        check("max_samples", given, Value::Null);
    }
    check("seed", "".into(), 42.into());
    check("template", "".into(), Value::Null);
    check("default_system", "".into(), "".into());
    check("default_system", Value::Null, Value::Null);
    check("run_name", 7.into(), "7".into());
    check("run_name", true.into(), "true".into());
    check("resume_from_checkpoint", false.into(), Value::Null);
    check("resume_from_checkpoint", "False".into(), Value::Null);
    check("resume_from_checkpoint", true.into(), "true".into());
    check("dataset", "a, b,".into(), "a,b".into());
    check("dataset", serde_json::json!(["a", "b"]), "a,b".into());
    check("dataset", serde_json::json!(["a,b", "c"]), serde_json::json!(["a,b", "c"]));
    for given in [Value::Null, "".into(), ",".into(), serde_json::json!([])] {
        check("dataset", given.clone(), "".into());
        check("lora_target", given, "all".into());
    }
    check("interleave_probs", "0.5, 1".into(), "0.5,1.0".into());
    check("eval_strategy", false.into(), "no".into());
    check("include_num_input_tokens_seen", true.into(), "all".into());
    check("lr_scheduler_type", "COSINE".into(), "cosine".into());
    check("lr_scheduler_kwargs", "{\"min_lr\": 1e-6}".into(), serde_json::json!({"min_lr": 1e-6}));
}

#[test]
fn values_that_are_wrong_say_why() {
    let check = |name: &str, given: Value, expected: &str| {
        assert_eq!(
            Field::find(name).unwrap().read(&given),
            Err(expected.to_owned()),
            "{name} {given}"
        );
    };
    check("plot_loss", "maybe".into(), "`maybe` is not true or false");
    check("cutoff_len", "2k".into(), "`2k` is not a number");
    check("cutoff_len", 10.5.into(), "`10.5` is not a whole number");
    check("cutoff_len", (-5).into(), "`-5` is out of range");
    check("cutoff_len", 0.into(), "0 is not between 1 and 1048576");
    check("seed", 1e300.into(), "`1e+300` is out of range");
    check("seed", "99999999999999999999".into(), "`99999999999999999999` is out of range");
    check("learning_rate", "nan".into(), "`NaN` is not a finite number");
    check("learning_rate", "-inf".into(), "`-inf` is not a finite number");
    check("learning_rate", (-1e-5).into(), "-0.00001 is not between 0 and 1000");
    check("learning_rate", Value::Null, "`null` is not a number");
    check("lora_dropout", 1.into(), "1 is not between 0 and 0.999");
    check("stage", "dpo".into(), "`dpo` is none of sft, pt");
    check("finetuning_type", "oft".into(), "`oft` is none of lora, full, freeze");
    check("template", serde_json::json!(["a"]), "a list is no value here");
    check("template", "a\0b".into(), "the text holds a zero byte");
    check("lr_scheduler_kwargs", 5.into(), "`5` is not a JSON object: it is a single value");
}

#[test]
fn a_form_shows_values_that_read_back() {
    for field in FIELDS {
        // The one field where an empty input differs from none: a form leaves it out.
        assert_eq!(field.keep_empty, field.name == "default_system");
        let read = field.read(&field.placeholder().into());
        assert!(field.keep_empty || read == Ok(field.default_value()), "{}", field.name);
        assert!(!field.label().is_empty());
        assert_eq!(field.reason().is_none(), field.class == Class::Done);
    }
    let check = |name: &str, label: &str, placeholder: &str| {
        let field = Field::find(name).unwrap();
        assert_eq!((field.label().as_str(), field.placeholder().as_str()), (label, placeholder));
    };
    check("learning_rate", "Learning rate", "5e-05");
    check("lora_rank", "LoRA rank", "8");
    check("lora_alpha", "LoRA alpha", "");
    check("num_train_epochs", "Epochs", "3.0");
    check("packing", "Packing", "");
    check("ignore_pad_token_for_loss", "Ignore pad token for loss", "True");
    let method = Field::find("finetuning_type").unwrap();
    assert_eq!(method.open_choices().collect::<Vec<_>>(), ["lora", "full", "freeze"]);
}
