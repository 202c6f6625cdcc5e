//! config.json: what transformers assumes, both spellings of rope, and what is refused.
#![expect(clippy::excessive_precision, reason = "numbers as transformers prints them")]
#![expect(clippy::unwrap_used, reason = "tests")]

use engine::model::config::{Activation, Arch, ModelConfig, RopeKind, check_vocab};
use serde_json::{Value, json};

fn base(model_type: &str) -> Value {
    json!({
        "model_type": model_type, "hidden_size": 64, "intermediate_size": 160,
        "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 16, "vocab_size": 384, "max_position_embeddings": 256,
    })
}

fn with(model_type: &str, more: Value) -> Value {
    let mut out = base(model_type);
    for (key, value) in more.as_object().unwrap() {
        out[key] = value.clone();
    }
    out
}

fn parse(value: Value) -> ModelConfig {
    ModelConfig::from_value(value, "config.json").unwrap()
}

#[test]
fn absent_fields_are_what_transformers_assumes() {
    let llama = parse(base("llama"));
    assert!(!llama.tie_word_embeddings && !llama.biases.qkv && !llama.biases.mlp);
    assert_eq!((llama.rms_norm_eps, llama.rope.theta), (1e-6, 1e4));
    assert_eq!((llama.activation, llama.attention_scale()), (Activation::Silu, 0.25));
    assert_eq!(llama.windows, vec![None; 6]);
    let qwen2 = parse(base("qwen2"));
    assert!(qwen2.biases.qkv && !qwen2.biases.output);
    let sliding = parse(with(
        "qwen2",
        json!({ "use_sliding_window": true, "sliding_window": 9, "max_window_layers": 4 }),
    ));
    assert_eq!(sliding.windows, [None, None, None, None, Some(9), Some(9)]);
    let off = parse(with(
        "qwen2",
        json!({ "use_sliding_window": false, "sliding_window": 9, "max_window_layers": 4 }),
    ));
    assert_eq!(off.windows, vec![None; 6]);
    let mistral = parse(base("mistral"));
    assert_eq!(mistral.windows, vec![Some(4096); 6]);
    assert_eq!(parse(with("mistral", json!({ "sliding_window": null }))).windows, vec![None; 6]);
    let gemma2 = parse(base("gemma2"));
    assert!(gemma2.tie_word_embeddings && gemma2.norm_plus_one && gemma2.post_norms);
    assert_eq!(
        (gemma2.attn_logit_softcapping, gemma2.final_logit_softcapping),
        (Some(50.0), Some(30.0))
    );
    assert_eq!((gemma2.embedding_scale, gemma2.attention_scale()), (Some(8.0), 0.0625));
    assert_eq!(gemma2.windows[..3], [Some(4096), None, Some(4096)]);
    let gemma3 = parse(base("gemma3_text"));
    assert_eq!(gemma3.windows, [Some(4096), Some(4096), Some(4096), Some(4096), Some(4096), None]);
    assert_eq!((gemma3.rope_of(5).theta, gemma3.rope_of(0).theta), (1e6, 1e4));
    assert_eq!(gemma3.attn_logit_softcapping, None);
    let mut plain = base("llama");
    plain.as_object_mut().unwrap().remove("head_dim");
    plain.as_object_mut().unwrap().remove("num_key_value_heads");
    assert_eq!((parse(plain.clone()).head_dim, parse(plain).num_key_value_heads), (16, 4));
    let mut unnamed = with("x", json!({ "architectures": ["Qwen3ForCausalLM"] }));
    unnamed.as_object_mut().unwrap().remove("model_type");
    assert_eq!(parse(unnamed).arch, Arch::Qwen3);
    assert_eq!(parse(with("llama", json!({ "eos_token_id": [2, 3] }))).eos_token_ids, [2, 3]);
}

#[test]
fn both_spellings_of_rope_mean_the_same() {
    let scaled = json!({ "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64 });
    let put = |name: &str, theta: bool| {
        let mut out = scaled.clone();
        out[name] = json!("llama3");
        if theta {
            out["rope_theta"] = json!(5e5);
        }
        out
    };
    let new = parse(with("llama", json!({ "rope_parameters": put("rope_type", true) })));
    let old =
        parse(with("llama", json!({ "rope_theta": 5e5, "rope_scaling": put("rope_type", false) })));
    let older =
        parse(with("llama", json!({ "rope_theta": 5e5, "rope_scaling": put("type", false) })));
    assert!(matches!(new.rope.kind, RopeKind::Llama3 { factor: 8.0, original: 64, .. }));
    assert_eq!((&new.rope, &new.rope), (&old.rope, &older.rope));
    // Gemma 3: the old way, and one object a layer type.
    let old = parse(with(
        "gemma3_text",
        json!({
            "rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": { "rope_type": "linear", "factor": 8.0 },
        }),
    ));
    let new = parse(with(
        "gemma3_text",
        json!({ "rope_parameters": {
        "full_attention": { "rope_type": "linear", "factor": 8.0, "rope_theta": 1e6 },
        "sliding_attention": { "rope_type": "default", "rope_theta": 1e4 },
    } }),
    ));
    assert_eq!((&old.rope, &old.rope_local), (&new.rope, &new.rope_local));
}

/// Frequencies computed with numpy in f32 by transformers 5.6's formulas.
#[test]
fn frequencies_are_transformers() {
    let check = |rope: Value, expected: &[f32], factor: f32| {
        let config = parse(with(
            "llama",
            json!({ "rope_parameters": rope, "head_dim": 16, "max_position_embeddings": 256 }),
        ));
        let (found, attention) = config.rope_inv_freq(0);
        for (x, y) in found.iter().zip(expected) {
            assert!((x - y).abs() <= 3e-7 * y, "{rope}: {found:?}");
        }
        assert_eq!(found.len(), expected.len());
        assert!((attention - factor).abs() < 1e-6, "{attention}");
    };
    check(
        json!({"rope_type": "default", "rope_theta": 10000.0}),
        &[1.0, 0.31622776, 0.1, 0.03162278, 0.01, 0.0031622779, 0.001, 0.0003162278],
        1.0,
    );
    check(
        json!({"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}),
        &[0.25, 0.07905694, 0.025, 0.007905695, 0.0025, 0.00079056947, 0.00025, 7.905695e-05],
        1.0,
    );
    check(
        json!({"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}),
        &[1.0, 0.31622776, 0.1, 0.03162278, 0.01, 0.0031622779, 0.001, 0.0003162278],
        1.0,
    );
    check(
        json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 5e5}),
        &[
            1.0,
            0.07940301,
            0.004700754,
            0.00091158313,
            0.00017677668,
            3.4281024e-05,
            6.6478697e-06,
            1.2891732e-06,
        ],
        1.0,
    );
    check(
        json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 10000.0}),
        &[1.0, 0.23717082, 0.049999997, 0.007905695, 0.0025, 0.00079056947, 0.00025, 7.905695e-05],
        1.13862943649292,
    );
    check(
        json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096, "rope_theta": 1000000.0, "mscale": 1.0, "mscale_all_dim": 0.7, "truncate": false}),
        &[
            1.0,
            0.17782794,
            0.02861361,
            0.0029867347,
            0.00025,
            4.4456985e-05,
            7.905694e-06,
            1.4058534e-06,
        ],
        1.037909984588623,
    );
}

#[test]
fn what_is_wrong_is_named() {
    let check = |value: Value, expected: &str| {
        let error = ModelConfig::from_value(value, "m/config.json").unwrap_err().to_string();
        assert!(error.starts_with("m/config.json: ") && error.contains(expected), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    };
    check(json!([]), "expected a JSON object");
    check(json!({}), "neither model_type nor architectures");
    check(
        base("gpt_neox"),
        "gpt_neox (?) is not supported; known are llama (LlamaForCausalLM), qwen2",
    );
    check(
        with("llama", json!({ "architectures": ["LlamaForSequenceClassification"] })),
        "LlamaForSequenceClassification) is not supported",
    );
    check(
        with("llama", json!({ "hidden_size": 0 })),
        "hidden_size: expected a whole number from 1 to",
    );
    check(with("llama", json!({ "hidden_size": 1e12 })), "hidden_size");
    check(with("llama", json!({ "hidden_size": null })), "hidden_size: missing");
    check(with("llama", json!({ "vocab_size": "many" })), "vocab_size: expected a whole number");
    check(with("llama", json!({ "num_hidden_layers": -1 })), "num_hidden_layers");
    check(
        with("llama", json!({ "num_key_value_heads": 3 })),
        "num_key_value_heads: 3 does not divide",
    );
    check(with("llama", json!({ "head_dim": 15 })), "even number of rotated dimensions");
    check(with("llama", json!({ "head_dim": null, "hidden_size": 66 })), "66 is not a multiple");
    check(with("llama", json!({ "hidden_act": "re\nlu" })), "hidden_act: re\\nlu is not known");
    check(
        with("llama", json!({ "rope_scaling": { "type": "longrope" } })),
        "rope_scaling.rope_type: rope type longrope",
    );
    check(
        with("llama", json!({ "rope_scaling": { "type": "linear" } })),
        "rope_scaling.factor: missing",
    );
    check(with("llama", json!({ "rope_scaling": 3 })), "rope_scaling: expected an object");
    check(with("llama", json!({ "partial_rotary_factor": 0.5 })), "partial_rotary_factor");
    check(
        with("qwen3", json!({ "layer_types": ["full_attention"] })),
        "layer_types: expected a list of num_hidden_layers = 6",
    );
    check(
        with("llama", json!({ "quantization_config": { "quant_method": "gptq" } })),
        "packed by gptq cannot be trained",
    );
    check(
        with("gemma3_text", json!({ "use_bidirectional_attention": true })),
        "use_bidirectional_attention",
    );
    let error =
        check_vocab(&parse(base("llama")), 385, "m/tokenizer.json").unwrap_err().to_string();
    assert!(error.contains("385 tokens") && error.contains("only 384 rows"), "{error}");
    check_vocab(&parse(base("llama")), 384, "m/tokenizer.json").unwrap();
}
