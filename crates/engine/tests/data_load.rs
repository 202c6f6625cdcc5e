//! The data stage on files of our own: what it makes of them, and what it says when they are wrong.
#![expect(clippy::unwrap_used, reason = "a broken test may panic")]

mod data_support;

use data_support::{byte_tokenizer, dataset, run};
use engine::data::load::Dataset;
use engine::data::order::Mix;
use engine::data::{DataArgs, DataError, Stage, Tokenizer, load, prepare_template, preview_row};
use serde_json::{Value, json};

fn texts(dataset: &Dataset) -> Vec<String> {
    let text = |ids: &[u32]| ids.iter().map(|id| char::from(*id as u8)).collect();
    dataset.train.iter().map(|row| text(&row.input_ids)).collect()
}

const ROWS: &str =
    r#"[{"instruction":"a","input":"","output":"b"},{"instruction":"c","input":"d","output":"e"}]"#;

#[test]
fn files_of_every_type_are_read() {
    let file = |name: &str| json!({"file_name": name});
    let named = |name: &str, columns: Value| json!({"file_name": name, "columns": columns});
    let check = |info: Value, files: &[(&str, &str)], expected: &[&str]| {
        let dataset = run(&info, files, |_| {}).unwrap();
        assert_eq!(texts(&dataset), expected, "{info}");
    };
    let lines = "{\"instruction\":\"a\",\"input\":\"\",\"output\":\"b\"}\n\n{\"instruction\":\"c\",\"input\":\"d\",\"output\":\"e\"}";
    check(file("x.json"), &[("x.json", ROWS)], &["ab", "c\nde"]);
    check(file("x.json"), &[("x.json", &format!("\u{feff}  \n{lines}"))], &["ab", "c\nde"]);
    check(file("x.jsonl"), &[("x.jsonl", lines)], &["ab", "c\nde"]);
    let one = "{\n \"instruction\": \"a\",\n \"input\": \"[,]\\\"{\",\n \"output\": \"b\"\n}";
    check(file("x.json"), &[("x.json", one)], &["a\n[,]\"{b"]);
    check(
        file("x.csv"),
        &[("x.csv", "instruction,input,output\na,,b\n\"c\",\"d,\n\",12\n")],
        &["ab", "c\nd,\n12"],
    );
    let csv = named("x.csv", json!({"prompt": "q", "response": "r"}));
    check(csv, &[("x.csv", "q,r\r\n1,2\r\n")], &["12"]);
}

#[test]
fn a_directory_is_read_in_the_order_of_names() {
    let folder = dataset(&json!({"x": {"file_name": "parts"}}), &[]);
    let parts = folder.path().join("parts");
    std::fs::create_dir(&parts).unwrap();
    for (name, text) in
        [("b.json", ROWS), ("a.jsonl", r#"{"instruction":"z","input":"","output":"y"}"#)]
    {
        std::fs::write(parts.join(name), text).unwrap();
    }
    std::fs::write(parts.join(".hidden"), "").unwrap();
    let args = DataArgs {
        dataset: vec!["x".to_string()],
        dataset_dir: folder.path().display().to_string(),
        template: Some("empty".to_string()),
        ..DataArgs::default()
    };
    let files = byte_tokenizer(&json!({}));
    let mut tokenizer = Tokenizer::from_folder(files.path()).unwrap();
    let (template, _) = prepare_template(&args, &mut tokenizer).unwrap();
    let dataset = load(&args, Some((&tokenizer, &template)), &mut |_, _| {}).unwrap();
    assert_eq!(texts(&dataset), ["zy", "ab", "c\nde"]);
}

#[test]
fn errors_name_the_place_and_the_remedy() {
    let file = json!({"file_name": "x.json"});
    let check = |info: &Value, text: &str, parts: &[&str]| {
        let error = run(info, &[("x.json", text)], |_| {}).unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{info} {text}: {error}");
        }
        assert!(!error.contains('\n'), "{error}");
    };
    check(&file, "[\n{\"instruction\": \"a\",\n\"output\" \"b\"}\n]", &["x.json:3:", "wrong JSON"]);
    check(
        &file,
        "[\n{\"instruction\": \"a\"},\n{\"output\"",
        &["x.json:3:", "the file ends inside the row"],
    );
    check(&file, "[{}", &["x.json:1:", "wrong JSON"]);
    check(&file, "[{}] x", &["text after"]);
    check(&file, "[{\"instruction\":\"a\"},]", &["comma"]);
    check(&file, "nonsense", &["x.json:1:", "wrong JSON"]);
    check(&file, "[]", &["x is empty"]);
    check(&file, "", &["x is empty"]);
    check(
        &file,
        r#"[{"instruction":"a","output":"b"}]"#,
        &["x.json: row 1 (line 1)", "column `input` is missing"],
    );
    check(
        &file,
        r#"[{"instruction":"a","input":""}]"#,
        &["Cannot find valid samples", "row 1", "`output` is missing"],
    );
    check(&file, r#"[{"input":"","output":""}]"#, &["`instruction` is missing"]);
    check(&file, "[1, null]", &["Cannot find valid samples", "row 2", "not a JSON object"]);
    check(&json!({"file_name": "y.json"}), ROWS, &["File ", "y.json not found."]);
    check(
        &json!({"file_name": "x.json", "ranking": true}),
        ROWS,
        &["not applicable in the current training stage"],
    );
    check(
        &json!({"file_name": "x.json", "formatting": "chat"}),
        ROWS,
        &["dataset_info.json: x:", "choose alpaca"],
    );
    check(&json!({"hf_hub_url": "a/b"}), ROWS, &["Hugging Face", "`file_name`"]);
    check(&json!({"script_url": "a.py"}), ROWS, &["never run"]);
    check(&json!({"cloud_file_name": "s3://b/c"}), ROWS, &["is not downloaded"]);
    let change = |change: fn(&mut DataArgs)| {
        run(&file, &[("x.json", ROWS)], change).unwrap_err().to_string()
    };
    assert!(
        change(|a| a.dataset = vec!["y".into()])
            .starts_with("Undefined dataset y in dataset_info.json.")
    );
    assert!(change(|a| a.template = Some("qwen33".into())).contains("Did you mean qwen3"));
    assert!(change(|a| a.dataset_dir = "ONLINE".into()).contains("dataset_dir"));
    assert!(
        change(|a| a.dataset_dir = "/nowhere".into())
            .starts_with("Cannot open /nowhere/dataset_info.json due to")
    );
    assert!(change(|a| a.val_size = 2.0).contains("val_size"));
    assert!(change(|a| a.cutoff_len = 0).contains("cutoff_len"));
}

#[test]
fn bad_rows_are_counted_and_dropped() {
    let rows = "[{\"instruction\":\"a\",\"input\":\"\",\"output\":\"b\"},\n{\"instruction\":1,\"input\":\"\",\"output\":\"b\"},\n\n{\"instruction\":\"c\",\"input\":null,\"output\":null},{\"instruction\":\"d\",\"output\":\"e\"}]";
    let dataset = run(&json!({"file_name": "x.json"}), &[("x.json", rows)], |_| {}).unwrap();
    assert_eq!(texts(&dataset), ["ab", "de"]);
    let places: Vec<_> = dataset
        .report
        .bad_rows
        .iter()
        .map(|bad| (bad.row, bad.line, bad.reason.as_str()))
        .collect();
    assert_eq!(
        places,
        [(2, 2, "column `instruction` is not a text"), (3, 4, "column `output` is not a text")]
    );
    assert_eq!((dataset.report.rows, dataset.report.bad), (4, 2));
    let lines = dataset.report.lines();
    assert!(lines[0].starts_with("Dropped ") && lines[2].starts_with("2 of 4 rows"), "{lines:?}");
}

#[test]
fn held_out_rows_and_samples_are_the_references() {
    let rows: Vec<Value> =
        (0..10).map(|i| json!({"instruction": "", "input": "", "output": i.to_string()})).collect();
    let rows = json!(rows).to_string();
    let files = [("x.json", rows.as_str())];
    let file = json!({"file_name": "x.json"});
    let eval =
        |dataset: &Dataset| dataset.eval.iter().map(|(_, rows)| rows.len()).collect::<Vec<_>>();
    let dataset = run(&file, &files, |args| args.val_size = 0.25).unwrap();
    // numpy.random.default_rng(42).permutation(10) = 5 6 0 7 3 2 4 9 1 8
    assert_eq!((texts(&dataset).concat().as_str(), eval(&dataset)), ("7324918", vec![3]));
    let dataset = run(&file, &files, |args| args.val_size = 4.0).unwrap();
    assert_eq!((dataset.train.len(), eval(&dataset)), (6, vec![4]));
    let dataset = run(&file, &files, |args| args.max_samples = Some(4)).unwrap();
    assert_eq!(texts(&dataset).concat(), "0123");
    // numpy.random.seed(42); numpy.random.permutation(10) = 8 1 5 0 7 2 9 4 3 6
    let sampled = json!({"file_name": "x.json", "num_samples": 3});
    assert_eq!(texts(&run(&sampled, &files, |_| {}).unwrap()).concat(), "815");
}

#[test]
fn datasets_are_mixed_as_asked() {
    let rows = |texts: &str| {
        let rows: Vec<Value> = texts
            .chars()
            .map(|c| json!({"instruction": "", "input": "", "output": c.to_string()}))
            .collect();
        json!(rows).to_string()
    };
    let folder = dataset(
        &json!({"x": {"file_name": "x.json"}, "y": {"file_name": "y.json"}}),
        &[("x.json", &rows("abc")), ("y.json", &rows("12"))],
    );
    let files = byte_tokenizer(&json!({}));
    let check = |mix_strategy: Mix, expected: &str| {
        let args = DataArgs {
            dataset: vec!["x".to_string(), "y".to_string()],
            dataset_dir: folder.path().display().to_string(),
            template: Some("empty".to_string()),
            mix_strategy,
            ..DataArgs::default()
        };
        let mut tokenizer = Tokenizer::from_folder(files.path()).unwrap();
        let (template, _) = prepare_template(&args, &mut tokenizer).unwrap();
        let dataset = load(&args, Some((&tokenizer, &template)), &mut |_, _| {}).unwrap();
        assert_eq!(texts(&dataset).concat(), expected, "{mix_strategy:?}");
    };
    check(Mix::Concat, "abc12");
    check(Mix::InterleaveUnder, "a1b2");
    check(Mix::InterleaveOver, "a1b2c1");
    check(Mix::InterleaveOnce, "a1b2c");
}

#[test]
fn token_rows_are_taken_as_they_are() {
    let info = json!({"x": {"file_name": "x.jsonl", "formatting": "tokens"}});
    let rows = "{\"input_ids\":[1,2,3],\"labels\":[-100,2,3]}\n{\"input_ids\":[1],\"labels\":[1,2]}\n\
                {\"input_ids\":[9],\"labels\":[9]}\n{\"input_ids\":[1.5],\"labels\":[1]}\n{\"input_ids\":[1],\"labels\":[-1]}";
    let folder = dataset(&info, &[("x.jsonl", rows)]);
    let args = DataArgs {
        dataset: vec!["x".to_string()],
        dataset_dir: folder.path().display().to_string(),
        vocab_size: Some(9),
        ..DataArgs::default()
    };
    let dataset = load(&args, None, &mut |_, _| {}).unwrap();
    assert_eq!(
        preview_row(&dataset.train[0], None),
        json!({"input_ids": [1, 2, 3], "labels": [-100, 2, 3]})
    );
    let reasons: Vec<_> = dataset.report.bad_rows.iter().map(|bad| bad.reason.clone()).collect();
    let expected =
        ["has 1 entries and `labels` 2", "id 9 is outside the vocabulary of 9", "is 1.5", "is -1"];
    assert_eq!((dataset.train.len(), reasons.len()), (1, 4));
    for (reason, part) in reasons.iter().zip(expected) {
        assert!(reason.contains(part), "{reason}");
    }
}

#[test]
fn pretraining_texts_are_run_together() {
    let info = json!({"file_name": "x.txt", "columns": {"prompt": "text"}});
    let files = [("x.txt", "abc\r\nde\nf")];
    let dataset =
        run(&info, &files, |args| (args.stage, args.cutoff_len) = (Stage::Pt, 4)).unwrap();
    let ids = |dataset: &Dataset| {
        dataset.train.iter().map(|row| row.input_ids.clone()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&dataset), [[97, 98, 99, 257], [100, 101, 257, 102]]);
    assert_eq!((dataset.report.remainder_tokens, dataset.train[0].labels[3]), (1, -100));
    let change = |args: &mut DataArgs| {
        (args.stage, args.cutoff_len, args.packing) = (Stage::Pt, 2, Some(false));
    };
    let dataset = run(&info, &files, change).unwrap();
    assert_eq!(ids(&dataset), [[97, 98], [100, 101], [102, 257]]);
    assert_eq!((dataset.report.truncated, dataset.report.truncated_tokens), (2, 3));
}

#[test]
fn conversations_follow_their_tags() {
    let info = json!({"file_name": "x.json", "formatting": "openai", "columns": {"messages": "messages", "tools": "tools"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant",
                 "observation_tag": "tool", "function_tag": "function", "system_tag": "system"}});
    let rows = json!([
        {"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]},
        {"messages": [{"role": "user", "content": "u"}, {"role": "robot", "content": "a"}]},
        {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": null}]},
        {"messages": [{"role": "user", "content": "u"}]},
        {"messages": [{"role": "assistant", "content": "u"}, {"role": "user", "content": "u"}]},
        {"messages": {}}, {}, {"messages": [1]}, {"messages": [{"content": "u"}]}, {"messages": []},
    ]);
    let dataset = run(&info, &[("x.json", &rows.to_string())], |_| {}).unwrap();
    assert_eq!((texts(&dataset), dataset.report.bad), (vec!["Sua".to_string()], 9));
}

#[test]
fn a_tokenizer_is_fixed_and_saved() {
    let files = byte_tokenizer(&json!({"eos_token": "</s>", "model_max_length": 9}));
    std::fs::write(files.path().join("merges.txt"), "#version").unwrap();
    let mut tokenizer = Tokenizer::from_folder(files.path()).unwrap();
    assert_eq!((tokenizer.vocab_size(), tokenizer.pad_token()), (260, None));
    let args = DataArgs { template: Some("glm4".to_string()), ..DataArgs::default() };
    let (template, notices) = prepare_template(&args, &mut tokenizer).unwrap();
    assert_eq!(notices.len(), 3, "{notices:?}");
    assert_eq!(tokenizer.encode("<|user|>a").unwrap(), [260, 97]);
    let saved = tempfile::tempdir().unwrap();
    tokenizer.save(saved.path()).unwrap();
    let again = Tokenizer::from_folder(saved.path()).unwrap();
    assert_eq!((again.eos_id(), again.pad_id(), again.vocab_size()), (Some(257), Some(257), 262));
    assert_eq!(again.encode("<|observation|>").unwrap(), [261]);
    assert_eq!(again.chat_template(), template.to_jinja(None, Some("</s>")).as_deref());
    assert_eq!(again.stop_ids(&template.stop_words), [257, 260, 261]);
    assert!(saved.path().join("merges.txt").is_file());
    tokenizer.set_split_special_tokens(true);
    assert_eq!(tokenizer.encode("</s>").unwrap().len(), 4);
}

#[test]
fn a_template_is_derived_from_the_chat_template() {
    let jinja = "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nBe.<|im_end|>\n' }}{% endif %}\
        {% for m in messages %}{% generation %}{{ '<|im_start|>' + m['role'] + '\n' + m.content.strip() + '<|im_end|>\n' }}\
        {% endgeneration %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
    let info = json!({"file_name": "x.json"});
    let load_with = |jinja: &str| {
        let folder = dataset(&json!({ "x": info }), &[("x.json", ROWS)]);
        let files = byte_tokenizer(&json!({"eos_token": "<|im_end|>", "chat_template": jinja}));
        let args = DataArgs {
            dataset: vec!["x".to_string()],
            dataset_dir: folder.path().display().to_string(),
            ..DataArgs::default()
        };
        let mut tokenizer = Tokenizer::from_folder(files.path()).unwrap();
        let (template, _) = prepare_template(&args, &mut tokenizer)?;
        let dataset = load(&args, Some((&tokenizer, &template)), &mut |_, _| {})?;
        Ok::<_, DataError>(tokenizer.decode(&dataset.train[0].input_ids))
    };
    let expected = "<|im_start|>system\nBe.<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n";
    assert_eq!(load_with(jinja).unwrap(), expected);
    for (wrong, part) in [
        ("{{ raise_exception('no system message') }}", "no system message"),
        (
            "{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}",
            "fuel",
        ),
        ("always the same", "does not appear"),
        ("{{ unclosed", "template"),
    ] {
        let error = load_with(wrong).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("template: chatml"), "{error}");
    }
}
