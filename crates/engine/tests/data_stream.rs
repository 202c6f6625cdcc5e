//! Streaming, the cache of encoded rows and `tokenized_path`, on files of our own.
#![expect(clippy::unwrap_used, reason = "a broken test may panic")]

mod data_support;

use data_support::{byte_tokenizer, dataset, shared};
use engine::data::load::saved;
use engine::data::load::stream::Stream;
use engine::data::order::Mix;
use engine::data::{DataArgs, DataError, Row, Template, Tokenizer, load, prepare_template};
use serde_json::{Value, json};

fn rows(texts: impl IntoIterator<Item = String>) -> String {
    let row = |text| json!({"instruction": "", "input": "", "output": text});
    Value::from(texts.into_iter().map(row).collect::<Vec<_>>()).to_string()
}

fn kit(args: &DataArgs) -> (Tokenizer, Template) {
    let files = byte_tokenizer(&json!({"eos_token": "</s>"}));
    let mut tokenizer = Tokenizer::from_folder(files.path()).unwrap();
    let (template, _) = prepare_template(args, &mut tokenizer).unwrap();
    (tokenizer, template)
}

fn args(folder: &std::path::Path, names: &[&str]) -> DataArgs {
    DataArgs {
        dataset: names.iter().map(ToString::to_string).collect(),
        dataset_dir: folder.display().to_string(),
        template: Some("empty".to_string()),
        ..DataArgs::default()
    }
}

fn text(row: &Row) -> String {
    row.input_ids.iter().filter(|id| **id < 256).map(|id| char::from(*id as u8)).collect()
}

#[test]
fn a_stream_gives_every_row_once_an_epoch_and_never_a_held_out_one() {
    let info = json!({"x": {"file_name": "x.json"}});
    let letters: Vec<String> = ('a'..='t').map(String::from).collect();
    let folder = dataset(&info, &[("x.json", &rows(letters.clone()))]);
    let args = DataArgs { val_size: 3.0, ..args(folder.path(), &["x"]) };
    let (tokenizer, template) = kit(&args);
    let kit = Some((&tokenizer, &template));
    let (mut stream, set) = Stream::open(&args, 5, kit, &mut |_, _| {}).unwrap();
    let held: Vec<String> = set.eval[0].1.iter().map(text).collect();
    // datasets' order of 20 rows with a buffer of 5 and seed 42 begins 0 3 6, then 2 8 4.
    assert_eq!(held, ["a", "d", "g"]);
    let mut epoch = || -> Vec<String> {
        let mut seen = Vec::new();
        for _ in 0..17 {
            seen.push(text(&stream.next(kit).unwrap()));
        }
        seen
    };
    let (first, second) = (epoch(), epoch());
    assert_eq!(first[..3], ["c", "i", "e"]);
    assert_ne!(first, second);
    for seen in [first, second] {
        let mut all: Vec<String> = seen.into_iter().chain(held.clone()).collect();
        all.sort();
        assert_eq!(all, letters);
    }
}

#[test]
fn streams_are_mixed_and_refuse_what_does_not_fit() {
    let info = json!({"x": {"file_name": "x.json"}, "y": {"file_name": "y.json"},
        "none": {"file_name": "none.json"}, "bad": {"file_name": "bad.json"},
        "rank": {"file_name": "x.json", "ranking": true}});
    let bad = r#"[{"instruction": 1, "input": "", "output": "b"}]"#;
    let folder = dataset(
        &info,
        &[
            ("x.json", &rows(["a", "b", "c"].map(String::from))),
            ("y.json", &rows(["1", "2"].map(String::from))),
            ("none.json", "[]"),
            ("bad.json", bad),
        ],
    );
    let first = |names: &[&str], change: fn(&mut DataArgs)| -> Result<String, DataError> {
        let mut args = args(folder.path(), names);
        change(&mut args);
        let (tokenizer, template) = kit(&args);
        let kit = Some((&tokenizer, &template));
        // a buffer of one row shuffles nothing
        let (mut stream, _) = Stream::open(&args, 1, kit, &mut |_, _| {})?;
        let mut seen = String::new();
        loop {
            let row = stream.next(kit)?;
            if stream.epoch() > 0 {
                return Ok(seen);
            }
            seen += &text(&row);
        }
    };
    let check = |mix: fn(&mut DataArgs), expected: &str| {
        assert_eq!(first(&["x", "y"], mix).unwrap(), expected);
    };
    check(|_| {}, "abc12");
    check(|a| a.mix_strategy = Mix::InterleaveUnder, "a1b2");
    check(|a| a.mix_strategy = Mix::InterleaveOver, "a1b2c");
    check(|a| a.mix_strategy = Mix::InterleaveOnce, "a1b2c");
    let refused = |names: &[&str], change: fn(&mut DataArgs), part: &str| {
        let error = first(names, change).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    refused(&["none"], |_| {}, "is empty");
    refused(&["bad"], |_| {}, "All 1 rows are unusable");
    refused(&["rank"], |_| {}, "not applicable in the current training stage");
    refused(&["x"], |a| a.val_size = 0.5, "integer val size");
    refused(&["x"], |a| a.max_samples = Some(2), "incompatible with `streaming`");
    refused(&["x"], |a| a.val_size = 9.0, "there are only 3");
}

#[test]
fn encoded_rows_are_kept_and_rebuilt_when_anything_changes() {
    let info = json!({"x": {"file_name": "x.json"}});
    let folder = dataset(&info, &[("x.json", &rows(["a", "b", "c"].map(String::from)))]);
    let cache = tempfile::tempdir().unwrap();
    let base = DataArgs { cache: Some(cache.path().to_owned()), ..args(folder.path(), &["x"]) };
    let files = || std::fs::read_dir(cache.path()).unwrap().count();
    let run = |args: &DataArgs| {
        let (tokenizer, template) = kit(args);
        let set = load(args, Some((&tokenizer, &template)), &mut |_, _| {}).unwrap();
        let taken = set.report.notices.iter().any(|n| n.contains("were taken from"));
        (set.train.iter().map(text).collect::<String>(), taken)
    };
    assert_eq!((run(&base), files()), (("abc".into(), false), 1));
    assert_eq!((run(&base), files()), (("abc".into(), true), 1));
    for changed in [
        DataArgs { cutoff_len: 7, ..base.clone() },
        DataArgs { template: Some("default".into()), ..base.clone() },
        DataArgs { mask_history: true, ..base.clone() },
        DataArgs { packing: Some(true), ..base.clone() },
        DataArgs { seed: 1, ..base.clone() },
        DataArgs { overwrite_cache: true, ..base.clone() },
    ] {
        assert!(!run(&changed).1, "{changed:?}");
    }
    assert_eq!(files(), 6);
    let before = std::fs::read_dir(cache.path()).unwrap().map(|e| e.unwrap().path());
    for path in before {
        std::fs::write(path, "not what it was").unwrap();
    }
    assert_eq!(run(&base), ("abc".into(), false));
    assert_eq!(run(&base), ("abc".into(), true));
    std::fs::write(folder.path().join("x.json"), rows(["d".to_string()])).unwrap();
    assert_eq!(run(&base), ("d".into(), false));
}

#[test]
fn what_datasets_saved_is_read() {
    let path =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/saved_by_datasets");
    let set = saved::load(&path).unwrap();
    let row = |ids: &[u32], labels: &[i32]| Row {
        input_ids: ids.to_vec(),
        labels: labels.to_vec(),
        ..Row::default()
    };
    let first = row(&[1, 2, 3], &[-100, 2, 3]);
    assert_eq!(set.train, [first.clone(), row(&[4, 5], &[-100, 5])]);
    assert_eq!(set.eval, [(String::new(), vec![first])]);
}

#[test]
fn the_second_start_skips_the_encoding() {
    let (Some(model), Some(datasets)) = (shared("parity/tokenizers/qwen3"), shared("datasets"))
    else {
        return;
    };
    let cache = tempfile::tempdir().unwrap();
    let args = DataArgs {
        template: Some("qwen".to_string()),
        max_samples: Some(1000),
        cutoff_len: 1024,
        val_size: 0.1,
        cache: Some(cache.path().to_owned()),
        ..args(&datasets, &["alpaca_zh_demo"])
    };
    let mut tokenizer = Tokenizer::from_folder(&model).unwrap();
    let (template, _) = prepare_template(&args, &mut tokenizer).unwrap();
    let run = || {
        let set = load(&args, Some((&tokenizer, &template)), &mut |_, _| {}).unwrap();
        assert_eq!((set.train.len(), set.eval[0].1.len()), (900, 100));
        let taken = set.report.notices.iter().any(|notice| notice.contains("were taken from"));
        (set.train, taken)
    };
    let (cold, first) = run();
    let (warm, second) = run();
    assert_eq!((first, second), (false, true), "the second encodes nothing");
    assert_eq!(cold, warm);
    let path = cache.path().join("saved");
    let set = load(&args, Some((&tokenizer, &template)), &mut |_, _| {}).unwrap();
    saved::save(&path, &set, 0).unwrap();
    assert_eq!(saved::load(&path).unwrap().train, warm);
    if let Some(keep) = std::env::var_os("KEEP_SAVED") {
        saved::save(std::path::Path::new(&keep), &set, 0).unwrap();
    }
}
