//! Rows and files of any content: nothing makes the data stage panic.

mod data_support;

use data_support::run;
use proptest::prelude::*;
use serde_json::{Value, json};

/// Any JSON, often with the keys that the converters look for.
fn any_json() -> impl Strategy<Value = Value> {
    let keys = "instruction|input|output|conversations|messages|from|value|role|content|tools|tool_calls|function|\
                name|arguments|input_ids|labels|system|history";
    let text = prop_oneof![
        "human|gpt|user|assistant|tool|system|observation|function_call",
        "\\PC{0,8}",
        Just("[]".into()),
        Just(r#"[{"name":"f","parameters":{"properties":{}}}]"#.into()),
        Just(r#"{"name":"f","arguments":{}}"#.into())
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text.prop_map(Value::from)
    ];
    leaf.prop_recursive(5, 48, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((keys, inner), 0..6)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_row_makes_it_panic(rows in prop::collection::vec(any_json(), 1..5), cutoff in 1_usize..40, way in 0..6_usize) {
        let names = ["alpaca", "sharegpt", "openai", "tokens"];
        let tags = json!({"role_tag": "role", "content_tag": "content", "user_tag": "user",
            "assistant_tag": "assistant", "observation_tag": "tool", "system_tag": "system"});
        for name in names {
            let mut info = json!({"file_name": "x.json", "formatting": name});
            if name == "openai" {
                info["tags"] = tags.clone();
                info["columns"] = json!({"messages": "messages", "tools": "tools"});
            }
            let text = Value::from(rows.clone()).to_string();
            let _ = run(&info, &[("x.json", &text)], |args| {
                let templates = ["llama2", "llama3", "qwen3", "falcon", "gemma4", "lfm2"];
                args.template = Some(templates[way].to_string());
                args.cutoff_len = cutoff;
                args.mask_history = way % 2 == 0;
                args.neat_packing = way % 3 == 0;
            });
        }
    }

    #[test]
    fn no_file_makes_it_panic(text in "[\\[\\]{}\",:a1\\\\ \n]{0,40}", kind in 0..4_usize) {
        let name = ["x.json", "x.jsonl", "x.csv", "x.txt"][kind];
        let _ = run(&json!({"file_name": name}), &[(name, &text)], |_| {});
    }
}
