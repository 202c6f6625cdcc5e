//! Parquet and Arrow files of several writers against the rows that they were written from; and damaged ones.
//!
//! The files in fixtures/columnar were written by pyarrow 26, polars 2.1 and duckdb 2.0.
#![expect(clippy::unwrap_used, reason = "a broken test may panic")]

mod data_support;

use std::path::{Path, PathBuf};

use data_support::dataset;
use engine::data::{DataArgs, DataError, load, source};
use serde_json::{Value, json};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/columnar")
}

fn read(path: &Path) -> Result<Vec<Value>, DataError> {
    let mut rows = Vec::new();
    source::read(path, &mut |row| {
        assert_eq!((row.row, row.line), (rows.len() as u64 + 1, 0));
        rows.push(row.value);
        Ok(true)
    })?;
    Ok(rows)
}

const ROWS: [&str; 9] = [
    "snappy.parquet",
    "delta_v2_gzip.parquet",
    "lz4.parquet",
    "polars_zstd.parquet",
    "duckdb.parquet",
    "stream.arrow",
    "file_lz4.arrow",
    "polars_views.arrow",
    "dictionary.arrow",
];
const CHATS: [&str; 3] = ["chats.parquet", "polars_chats.parquet", "chats_zstd.arrow"];

#[test]
fn every_writer_is_read() {
    let expected = std::fs::read(fixtures().join("expected.json")).unwrap();
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    for (names, key) in [(&ROWS[..], "rows"), (&CHATS[..], "chats")] {
        for name in names {
            let rows = read(&fixtures().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(Value::from(rows), expected[key], "{name}");
        }
    }
    let error = read(&fixtures().join("brotli.parquet")).unwrap_err().to_string();
    assert!(
        error.contains("brotli.parquet: ") && error.contains("Brotli; save it with"),
        "{error}"
    );
}

/// A file that was cut short or changed gives an error or other rows, and nothing worse.
#[test]
fn damaged_files_are_survived() {
    let folder = tempfile::tempdir().unwrap();
    for name in ROWS.iter().chain(&CHATS) {
        let whole = std::fs::read(fixtures().join(name)).unwrap();
        let path = folder.path().join(name);
        for end in (0..whole.len()).step_by(23) {
            std::fs::write(&path, &whole[..end]).unwrap();
            let ended = read(&path);
            assert!(name.ends_with(".arrow") || ended.is_err(), "{name} cut at {end}");
        }
        for at in (0..whole.len()).step_by(11) {
            let mut changed = whole.clone();
            changed[at] ^= 0xff;
            std::fs::write(&path, &changed).unwrap();
            let _ = read(&path);
        }
    }
}

#[test]
fn folders_of_them_are_data_sets() {
    let info = json!({"x": {"file_name": "parts", "columns": {"prompt": "instruction", "response": "output"}}});
    let folder = dataset(&info, &[]);
    let parts = folder.path().join("parts");
    std::fs::create_dir(&parts).unwrap();
    for (name, to) in [("snappy.parquet", "b.parquet"), ("duckdb.parquet", "a.parquet")] {
        std::fs::copy(fixtures().join(name), parts.join(to)).unwrap();
    }
    let run = || {
        let args = DataArgs {
            dataset: vec!["x".to_string()],
            dataset_dir: folder.path().display().to_string(),
            template: Some("empty".to_string()),
            ..DataArgs::default()
        };
        let files = data_support::byte_tokenizer(&json!({}));
        let mut tokenizer = engine::data::Tokenizer::from_folder(files.path())?;
        let (template, _) = engine::data::prepare_template(&args, &mut tokenizer)?;
        load(&args, Some((&tokenizer, &template)), &mut |_, _| {})
    };
    assert_eq!(run().unwrap().train.len(), 14);
    std::fs::copy(fixtures().join("stream.arrow"), parts.join("c.arrow")).unwrap();
    let error = run().unwrap_err().to_string();
    assert!(error.contains("File types should be identical."), "{error}");
}
