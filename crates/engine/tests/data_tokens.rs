//! Token ids and labels of real rows against LLaMA-Factory's, and how long they take.
#![expect(clippy::unwrap_used, reason = "a broken test may panic")]

mod data_support;

use std::time::Instant;

use data_support::{recorded, shared};
use engine::data::{DataArgs, Tokenizer, load, prepare_template, preview_row};
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
            shared(&format!(
                "parity/tokenizers/{}",
                case["tokenizer"].as_str().unwrap()
            )),
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
fn a_thousand_rows_take_less_than_a_second() {
    let Some(folder) = shared("parity/tokenizers/qwen3") else {
        return;
    };
    let Some(datasets) = shared("datasets") else {
        return;
    };
    let args = DataArgs {
        dataset: vec!["alpaca_zh_demo".to_string()],
        dataset_dir: datasets.display().to_string(),
        template: Some("qwen".to_string()),
        max_samples: Some(1000),
        cutoff_len: 1024,
        val_size: 0.1,
        ..DataArgs::default()
    };
    let mut tokenizer = Tokenizer::from_folder(&folder).unwrap();
    let (template, _) = prepare_template(&args, &mut tokenizer).unwrap();
    let begin = Instant::now();
    let mut last = (0, 0);
    let dataset = load(&args, Some((&tokenizer, &template)), &mut |done, total| {
        last = (done, total)
    })
    .unwrap();
    let took = begin.elapsed();
    println!("1,000 rows: {took:?}");
    assert_eq!(
        (dataset.train.len(), dataset.eval[0].1.len(), last),
        (900, 100, (1000, 1000))
    );
    assert!(took.as_secs_f64() < 1.0, "{took:?}");
}
