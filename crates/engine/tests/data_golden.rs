//! Templates, processors and converters against what LLaMA-Factory itself did.
#![expect(clippy::unwrap_used, reason = "a broken test may panic")]

mod data_support;

use data_support::{messages, recorded};
use engine::data::convert::{Converted, Example, convert};
use engine::data::encode::{Labelling, infer_seqlen, prompt_and_answer, supervised};
use engine::data::error::RowError;
use engine::data::info;
use engine::data::order::{permutation, randperm};
use engine::data::pack::{greedy_knapsack, pack};
use engine::data::template::{Encoder, Slot};
use engine::data::{RunDate, Template};
use serde_json::{Value, json};

/// The recordings' tokenizer: a character is one token.
struct Toy;

impl Encoder for Toy {
    fn encode(&self, text: &str) -> Result<Vec<u32>, RowError> {
        Ok(text.chars().map(|c| c as u32 + 1000).collect())
    }
    fn bos_id(&self) -> Option<u32> {
        Some(1)
    }
    fn eos_id(&self) -> Option<u32> {
        Some(2)
    }
    fn pad_id(&self) -> Option<u32> {
        Some(0)
    }
    fn token_id(&self, _: &str) -> Option<u32> {
        None
    }
}

fn template(name: &str) -> Template {
    let mut template = Template::get(name).unwrap();
    template.date = Some(RunDate { year: 2026, month: 11, day: 24 });
    template
}

fn piece(slot: &Slot) -> Value {
    match slot {
        Slot::Text(text) => json!(text),
        Slot::Bos => json!({"special": "bos_token"}),
        Slot::Eos => json!({"special": "eos_token"}),
        Slot::Token(token) => json!({"token": token}),
    }
}

fn text(slots: &[Slot]) -> String {
    let text = |slot: &Slot| match slot {
        Slot::Text(text) => text.clone(),
        Slot::Bos => "<BOS>".to_string(),
        Slot::Eos => "<EOS>".to_string(),
        Slot::Token(token) => format!("<TOK:{token}>"),
    };
    slots.iter().map(text).collect()
}

#[test]
fn every_template_is_registered() {
    let Some(recorded) = recorded("templates.json") else {
        return;
    };
    for (name, expected) in recorded.as_object().unwrap() {
        if expected["cls"] == "MossVLTemplate" {
            assert!(Template::get(name).is_err(), "{name}");
            continue;
        }
        let t = Template::get(name).unwrap();
        let slots = |slots: &[Slot]| slots.iter().map(piece).collect::<Vec<_>>();
        // A special token that is neither bos nor eos emits nothing.
        let prefix = expected["prefix"].as_array().unwrap().iter();
        let prefix: Vec<_> = prefix.filter(|slot| slot["special"] != "<|endoftext|>").collect();
        let mine = slots(&t.prefix);
        assert_eq!(mine.iter().collect::<Vec<_>>(), prefix, "{name}");
        for (key, mine) in [
            ("system", &t.system),
            ("user", &t.user),
            ("assistant", &t.assistant),
            ("function", &t.function),
            ("observation", &t.observation),
        ] {
            assert_eq!(json!(slots(mine)), expected[key], "{name} {key}");
        }
        assert_eq!(json!(t.default_system), expected["default_system"], "{name}");
        assert_eq!(json!(t.stop_words), expected["stop_words"], "{name}");
        assert_eq!(json!(t.thought_words), expected["thought_words"], "{name}");
        assert_eq!(json!(t.tool_call_words), expected["tool_call_words"], "{name}");
        assert_eq!(json!(t.efficient_eos), expected["efficient_eos"], "{name}");
        assert_eq!(json!(t.replace_eos), expected["replace_eos"], "{name}");
        assert_eq!(json!(t.replace_jinja), expected["replace_jinja_template"], "{name}");
    }
}

#[test]
fn templates_render_as_recorded() {
    let Some(recorded) = recorded("render_golden.json") else {
        return;
    };
    let chat = json!([
        {"role": "user", "content": "How are you"}, {"role": "assistant", "content": "I am fine!"},
        {"role": "user", "content": "你好"}, {"role": "assistant", "content": "很高兴认识你！"},
    ]);
    let tools = &recorded["tool_case"];
    for (name, expected) in recorded["templates"].as_object().unwrap() {
        let template = template(name);
        for (key, system) in [("no_system", ""), ("system", "SYS")] {
            let pieces = template.render(&messages(&chat), system, "").unwrap();
            let pieces: Vec<Vec<Value>> =
                pieces.iter().map(|p| p.iter().map(piece).collect()).collect();
            assert_eq!(json!(pieces), expected[key], "{name} {key}");
        }
        let pieces = template
            .render(&messages(&tools["messages"]), "SYS", tools["tools"].as_str().unwrap())
            .unwrap();
        let turns: Vec<[String; 2]> =
            pieces.chunks(2).map(|pair| [text(&pair[0]), text(&pair[1])]).collect();
        assert_eq!(json!(turns), expected["tools_turns"], "{name} tools");
    }
}

fn example(value: &Value) -> Example {
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_string();
    Example {
        prompt: messages(&value["_prompt"]),
        response: messages(&value["_response"]),
        system: text("_system"),
        tools: text("_tools"),
        trouble: None,
    }
}

#[test]
fn processors_label_as_recorded() {
    let Some(recorded) = recorded("supervised_golden.json") else {
        return;
    };
    let cases = recorded["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 58);
    for case in cases {
        let name = &case["name"];
        let options = &case["data_args"];
        let flag = |key: &str| options[key].as_bool().unwrap_or(false);
        let cutoff_len = options["cutoff_len"].as_u64().unwrap_or(2048) as usize;
        let mut template = template(case["template"].as_str().unwrap());
        for (key, value) in case["template_overrides"].as_object().into_iter().flatten() {
            match key.as_str() {
                "enable_thinking" => template.enable_thinking = value.as_bool(),
                "preserve_thinking" => template.preserve_thinking = value.as_bool().unwrap(),
                "default_system" => template.default_system = value.as_str().unwrap().to_string(),
                other => panic!("override {other}"),
            }
        }
        let examples = case["examples"].as_array().unwrap().iter().map(example);
        let out = &case["out"];
        if name == "predict_with_generate" {
            let pairs: Vec<_> = examples
                .map(|e| prompt_and_answer(&Toy, &template, &e, cutoff_len).unwrap())
                .collect();
            let (prompts, answers): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            assert_eq!(json!(prompts), out["input_ids"], "{name}");
            assert_eq!(json!(answers), out["labels"], "{name}");
            continue;
        }
        let how = Labelling {
            cutoff_len,
            train_on_prompt: flag("train_on_prompt"),
            mask_history: flag("mask_history"),
        };
        let mut rows: Vec<_> =
            examples.filter_map(|e| Some(supervised(&Toy, &template, &e, how).ok()?.row)).collect();
        if flag("packing") {
            rows = pack(rows, cutoff_len, flag("neat_packing")).0;
            let masks: Vec<_> = rows.iter().map(|row| row.attention_mask()).collect();
            let positions: Vec<_> = rows.iter().map(|row| row.position_ids()).collect();
            assert_eq!(json!(masks), out["attention_mask"], "{name}");
            assert_eq!(json!(positions), out["position_ids"], "{name}");
            for row in &mut rows {
                row.input_ids.resize(cutoff_len + 1, 0);
                row.labels.resize(cutoff_len + 1, -100);
            }
        }
        let ids: Vec<_> = rows.iter().map(|row| &row.input_ids).collect();
        let labels: Vec<_> = rows.iter().map(|row| &row.labels).collect();
        assert_eq!(json!(ids), out["input_ids"], "{name} {}", case["template"]);
        assert_eq!(json!(labels), out["labels"], "{name} {} {options}", case["template"]);
    }
}

#[test]
fn converters_align_as_recorded() {
    let Some(recorded) = recorded("supervised_golden.json") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let cases = recorded["converters"].as_array().unwrap();
    assert_eq!(cases.len(), 17);
    for case in cases {
        let mut entry = case["attr"].clone();
        entry["formatting"] = case["formatting"].clone();
        entry["file_name"] = json!("x.json");
        std::fs::write(folder.path().join(info::FILE_NAME), json!({"x": entry}).to_string())
            .unwrap();
        let infos = info::read(&folder.path().display().to_string(), &["x".to_string()]).unwrap();
        let converted = convert(&infos[0], &case["example"]);
        if !case["out"]["error"].is_null() {
            // A column that no row has is an error of the dataset: see data_load.rs.
            continue;
        }
        let mut expected = example(&case["out"]);
        if case["formatting"] == "openai" {
            // The reference adds a word for one model family here, which is not copied.
            expected.system =
                expected.system.trim_end_matches("detailed thinking off").trim_end().to_string();
        }
        let Ok(Converted::Example(mut mine)) = converted else { panic!("{case}: {converted:?}") };
        mine.trouble = None;
        assert_eq!(mine, expected, "{case}");
    }
}

#[test]
fn lengths_packs_and_chat_templates_are_as_recorded() {
    let Some(recorded) = recorded("golden.json") else {
        return;
    };
    let number = |value: &Value| value.as_u64().unwrap() as usize;
    for case in recorded["infer_seqlen"].as_array().unwrap() {
        let (prompt, answer) =
            infer_seqlen(number(&case[0][0]), number(&case[0][1]), number(&case[0][2]));
        assert_eq!(json!([prompt, answer]), case[1], "{case}");
    }
    for case in recorded["greedy_knapsack"].as_array().unwrap() {
        let lengths: Vec<usize> = case[0].as_array().unwrap().iter().map(number).collect();
        assert_eq!(json!(greedy_knapsack(&lengths, number(&case[1]))), case[2], "{case}");
    }
    for (name, expected) in recorded["jinja"].as_object().unwrap() {
        let bos = if name == "llama3" { "<|begin_of_text|>" } else { "<s>" };
        let eos = if name == "default" { "<|im_end|>" } else { "</s>" };
        assert_eq!(json!(template(name).to_jinja(Some(bos), Some(eos))), *expected, "{name}");
    }
}

#[test]
fn orders_are_as_recorded() {
    let Some(recorded) = recorded("order.json") else {
        return;
    };
    let check = |case: &Value, order: Vec<usize>| {
        let first = case["first"].as_array().unwrap().len();
        let last = case["last"].as_array().unwrap().len();
        assert_eq!(json!(&order[..first]), case["first"], "{case}");
        assert_eq!(json!(&order[order.len() - last..]), case["last"], "{case}");
    };
    let number = |value: &Value| value.as_u64().unwrap();
    for case in recorded["row_order"].as_array().unwrap() {
        check(case, randperm(number(&case["n"]) as usize, number(&case["seed_plus_epoch"])));
    }
    for case in recorded["split"].as_array().unwrap() {
        check(case, permutation(number(&case["n"]) as usize, number(&case["seed"])));
    }
}
