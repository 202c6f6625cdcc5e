//! Rotary embeddings against transformers, and what `rope_scaling` makes of a config.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;

use engine::model::config::{ModelConfig, RopeKind};
use engine::model::rope_freq::inv_freq_at;
use run::fields::RopeScaling;
use serde_json::{Value, json};

fn config(model_type: &str, more: Value) -> ModelConfig {
    let mut out = json!({
        "model_type": model_type, "hidden_size": 64, "intermediate_size": 160,
        "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 16, "vocab_size": 384, "max_position_embeddings": 256,
    });
    for (key, value) in more.as_object().unwrap() {
        out[key] = value.clone();
    }
    ModelConfig::from_value(out, "config.json").unwrap()
}

#[test]
fn frequencies_are_transformers_at_every_length() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/rope.json");
    let truth: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    for case in truth["cases"].as_array().unwrap() {
        let config = config(
            "llama",
            json!({
                "rope_parameters": case["rope"], "head_dim": case["head_dim"],
                "max_position_embeddings": case["max"],
            }),
        );
        let len = case["len"].as_u64().unwrap() as usize;
        let (found, attention) =
            inv_freq_at(&config.rope, config.head_dim, config.max_position_embeddings, len);
        let want: Vec<f32> = serde_json::from_value(case["inv_freq"].clone()).unwrap();
        assert_eq!(found.len(), want.len());
        for (x, y) in found.iter().zip(&want) {
            assert!((x - y).abs() <= 5e-7 * y, "{case}: {found:?}");
        }
        let want = case["attention"].as_f64().unwrap();
        assert!((f64::from(attention) - want).abs() < 1e-7 * want, "{case}: {attention}");
    }
}

#[test]
fn the_factor_is_the_cutoff_over_the_length() {
    let check = |model: &ModelConfig, kind, cutoff, kinds: RopeKind, max: usize| {
        let (found, told) = model.stretched(kind, cutoff).unwrap();
        assert_eq!((&found.rope.kind, found.max_position_embeddings), (&kinds, max), "{told:?}");
        assert_eq!(found.rope.theta, model.rope.theta);
        // What is saved is read again as the same.
        let raw = Value::Object(found.raw.clone());
        let again = ModelConfig::from_value(raw, "saved").unwrap();
        assert_eq!((again.rope, again.rope_local), (found.rope, found.rope_local));
        told
    };
    let yarn = |factor, original| RopeKind::Yarn {
        factor,
        original,
        beta_fast: 32.0,
        beta_slow: 1.0,
        attention_factor: None,
        mscale: None,
        mscale_all_dim: None,
        truncate: true,
    };
    let llama3 = |factor, original| RopeKind::Llama3 {
        factor,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original,
    };
    let old = config("llama", json!({ "rope_theta": 5e5 }));
    let new = config(
        "llama",
        json!({ "rope_parameters": { "rope_theta": 5e5, "rope_type": "default" } }),
    );
    for model in [&old, &new] {
        let told = check(model, RopeScaling::Linear, Some(256), RopeKind::Default, 256);
        assert_eq!(told, ["Input length is smaller than max length. Disabling rope scaling."]);
        let told =
            check(model, RopeScaling::Linear, Some(257), RopeKind::Linear { factor: 2.0 }, 512);
        assert_eq!(told[0], "Enlarge max model length from 256 to 512.");
        assert_eq!(told[1], "Using linear scaling strategy and setting scaling factor to 2.0.");
        check(model, RopeScaling::Linear, None, RopeKind::Linear { factor: 2.0 }, 512);
        check(model, RopeScaling::Yarn, Some(1000), yarn(4.0, 256), 1024);
        check(model, RopeScaling::Llama3, Some(700), llama3(3.0, 256), 768);
        let told =
            check(model, RopeScaling::Dynamic, Some(700), RopeKind::Dynamic { factor: 3.0 }, 768);
        assert!(told[0].starts_with("Dynamic NTK scaling may not work well"), "{told:?}");
    }
    // A model that is scaled already is scaled anew, from its first length.
    let scaled = json!({ "rope_theta": 5e5, "max_position_embeddings": 1024, "rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 128,
    } });
    check(&config("llama", scaled), RopeScaling::Yarn, Some(300), yarn(3.0, 128), 384);
    // Gemma 3: the full layers alone.
    let gemma = config(
        "gemma3_text",
        json!({ "rope_parameters": {
            "full_attention": { "rope_type": "linear", "factor": 8.0, "rope_theta": 1e6 },
            "sliding_attention": { "rope_type": "default", "rope_theta": 1e4 },
        } }),
    );
    check(&gemma, RopeScaling::Linear, Some(512), RopeKind::Linear { factor: 2.0 }, 512);
    let local = gemma.stretched(RopeScaling::Linear, Some(512)).unwrap().0.rope_local.unwrap();
    assert_eq!((local.kind, local.theta), (RopeKind::Default, 1e4));
    let gemma = config("gemma3_text", json!({ "rope_theta": 1e6 }));
    check(&gemma, RopeScaling::Yarn, Some(512), yarn(2.0, 256), 512);
    // What an architecture does not know is refused.
    let phi = config("phi3", json!({}));
    let error = phi.stretched(RopeScaling::Yarn, Some(512)).unwrap_err().to_string();
    assert!(error.contains("rope_scaling.rope_type: rope type yarn"), "{error}");
}
