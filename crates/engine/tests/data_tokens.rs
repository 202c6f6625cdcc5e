//! Token ids and labels of real rows against LLaMA-Factory's.
#![expect(clippy::unwrap_used, reason = "a broken test may panic")]

mod data_support;

use data_support::{recorded, shared};
use engine::data::{DataArgs, Template, Tokenizer, load, prepare_template, preview_row};
use serde_json::Value;

fn args(case: &Value) -> Option<DataArgs> {
    let options = &case["options"];
    let text = |key: &str| case[key].as_str().unwrap().to_string();
    let mut args = DataArgs {
        dataset: vec![text("dataset")],
        dataset_dir: shared("datasets")?.display().to_string(),
        template: Some(text("template")),
        max_samples: case["max_samples"].as_u64().map(|n| n as usize),
        ..DataArgs::default()
    };
    for (key, value) in options.as_object().unwrap() {
        match key.as_str() {
            "cutoff_len" => args.cutoff_len = value.as_u64().unwrap() as usize,
            "mask_history" => args.mask_history = value.as_bool().unwrap(),
            "train_on_prompt" => args.train_on_prompt = value.as_bool().unwrap(),
            "packing" => args.packing = value.as_bool(),
            "neat_packing" => args.neat_packing = value.as_bool().unwrap(),
            "enable_thinking" => args.template_options.enable_thinking = value.as_bool(),
            other => panic!("option {other}"),
        }
    }
    Some(args)
}

#[test]
fn tokens_are_as_recorded() {
    let Some(recorded) = recorded("tokens.json") else {
        return;
    };
    let cases = recorded["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 12);
    for case in cases {
        let name = format!(
            "{} {} {} {}",
            case["tokenizer"], case["template"], case["dataset"], case["options"]
        );
        let (Some(args), Some(folder)) = (
            args(case),
            shared(&format!("parity/tokenizers/{}", case["tokenizer"].as_str().unwrap())),
        ) else {
            return;
        };
        let mut tokenizer = Tokenizer::from_folder(&folder).unwrap();
        let (template, _) = prepare_template(&args, &mut tokenizer).unwrap();
        assert_eq!(tokenizer.eos_token(), case["eos_token"].as_str(), "{name}");
        assert_eq!(tokenizer.pad_token(), case["pad_token"].as_str(), "{name}");
        let dataset = load(&args, Some((&tokenizer, &template)), &mut |_, _| {}).unwrap();
        let expected = case["rows"].as_array().unwrap();
        assert_eq!(dataset.train.len(), expected.len(), "{name}");
        for (i, (row, expected)) in dataset.train.iter().zip(expected).enumerate() {
            let shown = preview_row(row, Some(&tokenizer));
            for (key, value) in expected.as_object().unwrap() {
                assert_eq!(&shown[key], value, "{name}: row {i}: {key}");
            }
        }
    }
}

#[test]
fn chat_templates_of_real_tokenizers_are_understood() {
    for (name, registered, system) in [
        ("qwen3", "qwen3", ""),
        (
            "smollm2",
            "smollm2",
            "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
        ),
    ] {
        let Some(folder) = shared(&format!("parity/tokenizers/{name}")) else {
            return;
        };
        let mut tokenizer = Tokenizer::from_folder(&folder).unwrap();
        let (derived, _) = prepare_template(&DataArgs::default(), &mut tokenizer).unwrap();
        let expected = Template::get(registered).unwrap();
        assert_eq!(derived.default_system, system, "{name}");
        assert_eq!(derived.class, expected.class, "{name}");
        assert_eq!(derived.prefix, expected.prefix, "{name}");
        assert_eq!(derived.system, expected.system, "{name}");
        assert_eq!(derived.user, expected.user, "{name}");
        assert_eq!(derived.assistant, expected.assistant, "{name}");
    }
}
