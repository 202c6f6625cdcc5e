//! GGUF files: the real one against recorded numbers, written ones of every type against candle.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "support/gguf_build.rs"]
mod gguf_build;
#[path = "support/shared.rs"]
mod shared;
#[path = "support/smollm2.rs"]
mod smollm2;

use std::fs;

use candle_core::quantized::GgmlDType;
use engine::model::config::ModelConfig;
use engine::model::gguf::Gguf;
use engine::model::params::expected_params;
use engine::model::weights::{Data, Dtype, WeightData};
use serde_json::{Value, json};

use gguf_build::{Rng, build};

fn floats(tensor: &WeightData) -> &[f32] {
    match &tensor.data {
        Data::F32(data) => data,
        Data::Bf16(_) => panic!("bf16"),
    }
}

#[test]
fn smollm2_has_the_recorded_parameters() {
    let gguf = Gguf::open(&smollm2::gguf()).unwrap();
    let config = gguf.config().unwrap();
    let loaded = gguf.read(&config, Dtype::F32).unwrap();
    assert_eq!(loaded.unused, Vec::<String>::new());
    let count: usize = loaded.weights.values().map(|tensor| tensor.data.len()).sum();
    assert_eq!(count, 134_515_008);
    assert!(config.tie_word_embeddings);
    assert_eq!((config.rms_norm_eps, config.rope.theta), (1e-5, 1e5));
    let Some(parity) = shared::parity() else {
        return;
    };
    let trace: Value =
        serde_json::from_slice(&fs::read(parity.join("real/full_f32/trace.json")).unwrap())
            .unwrap();
    let after = trace["param_l2_after_step1"].as_object().unwrap();
    assert_eq!(after.keys().collect::<Vec<_>>(), loaded.weights.keys().collect::<Vec<_>>());
    for (name, record) in after {
        // One AdamW step moves an element by at most the learning rate, 5e-5.
        let data = floats(&loaded.weights[name]);
        let norm = data.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let moved = 5.1e-5 * (data.len() as f64).sqrt();
        assert!(
            (norm - record[0].as_f64().unwrap()).abs() <= moved,
            "{name}: norm {norm} {record}"
        );
        for (x, y) in data.iter().zip(record[2].as_array().unwrap()) {
            assert!((f64::from(*x) - y.as_f64().unwrap()).abs() < 5.1e-5, "{name}: {x} {y}");
        }
    }
}

#[test]
fn every_type_is_read_as_candle_unpacks_it() {
    use GgmlDType::{BF16, F16, F32, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
    for dtype in [F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K] {
        check("llama", json!({}), dtype);
    }
}

#[test]
fn every_architecture_is_read_under_its_names() {
    check("llama", json!({ "attention_bias": true, "mlp_bias": true }), GgmlDType::F32);
    check("llama", json!({ "tie_word_embeddings": true }), GgmlDType::F32);
    check("qwen2", json!({}), GgmlDType::F32);
    check("qwen3", json!({ "head_dim": 128 }), GgmlDType::Q8_0);
    check(
        "gemma2",
        json!({ "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 7 }),
        GgmlDType::F32,
    );
    check(
        "gemma3",
        json!({ "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 7 }),
        GgmlDType::F32,
    );
    check("phi3", json!({ "sliding_window": null }), GgmlDType::F16);
}

/// Writes a small random model of `arch`, reads it back and compares both weights and config.
fn check(arch: &str, more: Value, dtype: GgmlDType) {
    let (bytes, expected, config) = build(arch, more, dtype);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    fs::write(&path, bytes).unwrap();
    let gguf = Gguf::open(&path).unwrap();
    let found = gguf.config().unwrap();
    same_config(&found, &config);
    let loaded = gguf.read(&found, Dtype::F32).unwrap();
    assert_eq!(loaded.unused, Vec::<String>::new());
    assert_eq!(loaded.weights.len(), expected.len());
    for (name, tensor) in &expected {
        assert_eq!(loaded.weights[name].shape, tensor.shape, "{arch} {dtype:?} {name}");
        assert_eq!(floats(&loaded.weights[name]), floats(tensor), "{arch} {dtype:?} {name}");
    }
    // bf16 is the nearest of the same numbers.
    let half = gguf.read(&found, Dtype::Bf16).unwrap().weights;
    for (name, tensor) in &expected {
        let rounded: Vec<_> = floats(tensor).iter().map(|x| half::bf16::from_f32(*x)).collect();
        assert_eq!(half[name].data, Data::Bf16(rounded), "{arch} {dtype:?} {name}");
    }
}

/// The configs agree in everything but the raw JSON.
fn same_config(a: &ModelConfig, b: &ModelConfig) {
    let bare = |config: &ModelConfig| {
        format!("{:?}", ModelConfig { raw: Default::default(), ..config.clone() })
    };
    assert_eq!(bare(a), bare(b));
    assert_eq!(expected_params(a), expected_params(b));
}

#[test]
fn llama3_scaling_is_found_from_its_table() {
    let scaling = json!({
        "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    });
    check("llama", json!({ "rope_theta": 500_000.0, "rope_scaling": scaling }), GgmlDType::F32);
}

#[test]
fn damaged_files_are_refused_and_never_panic() {
    let (bytes, ..) = build("llama", json!({}), GgmlDType::Q4_0);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let open = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let gguf = Gguf::open(&path).map_err(|e| e.to_string())?;
        let config = gguf.config().map_err(|e| e.to_string())?;
        gguf.read(&config, Dtype::F32).map(|_| ()).map_err(|e| e.to_string())
    };
    open(&bytes).unwrap();
    let header = 4096.min(bytes.len());
    let cuts = (0..header).step_by(23).chain((header..bytes.len() - 32).step_by(40_099));
    for cut in cuts {
        let error = open(&bytes[..cut]).unwrap_err();
        assert!(error.contains("m.gguf") && !error.contains('\n'), "{cut}: {error}");
    }
    let mut rng = Rng(7);
    for _ in 0..400 {
        let mut copy = bytes.clone();
        for _ in 0..=rng.below(2) {
            let at = rng.below(header as u64) as usize;
            copy[at] ^= 1 << rng.below(8);
        }
        if let Err(error) = open(&copy) {
            assert!(error.contains("m.gguf") && error.lines().count() == 1, "{error}");
        }
    }
}

#[test]
fn foreign_files_are_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let cases: [(&[u8], &str); 4] = [
        (b"", "ends within its header"),
        (b"PK\x03\x04 a zip", "not a GGUF file"),
        (b"GGUF\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", "version 1 is obsolete"),
        (b"GGUF\0\0\0\x03\0\0\0\0\0\0\0\0\0\0\0\0", "big-endian"),
    ];
    for (bytes, expected) in cases {
        fs::write(&path, bytes).unwrap();
        let error = Gguf::open(&path).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
