//! Quantised weights: formats against bitsandbytes and candle, products and LoRA training over them
//! against the same over the unpacked weights.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "support/gguf_build.rs"]
mod gguf_build;

use std::fs;
use std::path::Path;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use engine::batch::{Batch, Sequence};
use engine::generate::greedy;
use engine::model::config::ModelConfig;
use engine::model::decoder::{Decoder, Keep};
use engine::model::gguf::Gguf;
use engine::model::linear::Mode;
use engine::model::lora::{self, LoraConfig, Targets};
use engine::model::quantise::{Plan, Quantised, Target};
use engine::model::save::{SaveOptions, save_model};
use engine::model::store::{Grads, Role};
use engine::model::weights::{Dtype, WeightData, Weights, read_folder_quantised};
use engine::ops::matmul::{self, Precision};
use engine::ops::matrix::Matrix;
use engine::quant::{Format, FourBit, FourBitBuilder, Packed, Q8Builder};
use engine::tensor::{from_vec, view};
use run::config::Half;
use serde_json::{Value, json};

use gguf_build::{Rng, build};

fn random(rng: &mut Rng, rows: usize, cols: usize) -> Tensor {
    from_vec((0..rows * cols).map(|_| rng.float()).collect(), (rows, cols)).unwrap()
}

fn four_bit(kind: FourBit, values: &[f32], cols: usize, double: bool) -> Packed {
    let mut builder = FourBitBuilder::new(kind, cols, double);
    // In two parts, as a loader gives them.
    let half = values.len() / cols / 2 * cols;
    assert!(builder.push(&values[..half]) && builder.push(&values[half..]));
    builder.finish().unwrap()
}

fn unpack(packed: &Packed) -> Vec<f32> {
    packed.dequantise_rows(0..packed.shape().0).unwrap()
}

#[test]
fn four_bits_are_bitsandbytes() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/bitsandbytes.json");
    let truth: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let number = |i: i64| {
        (((i * 7919) % 2003 - 1001) as f64 / 1001.0 * (1 + i / 64 % 17) as f64 / 16.0) as f32
    };
    let values: Vec<f32> = (0..80 * 256).map(number).collect();
    for case in truth["cases"].as_array().unwrap() {
        let kind = if case["kind"] == "nf4" { FourBit::Nf4 } else { FourBit::Fp4 };
        let packed = four_bit(kind, &values, 256, case["double"].as_bool().unwrap());
        let found = unpack(&packed);
        let want = case["numbers"].as_array().unwrap();
        for (x, y) in found.iter().step_by(97).zip(want) {
            let y = y.as_f64().unwrap();
            assert!((f64::from(*x) - y).abs() <= 2e-7 + 1e-6 * y.abs(), "{case}: {x} {y}");
        }
        let bits = packed.bytes() as f64 * 8.0 / packed.elements() as f64;
        let expected = if case["double"] == true { 4.127 } else { 4.5 };
        assert!((bits - expected).abs() < 0.005, "{bits}");
    }
    assert!(!FourBitBuilder::new(FourBit::Nf4, 64, true).push(&[f32::NAN; 64]));
}

#[test]
fn eight_bits_are_candles_q8_0() {
    let values = random(&mut Rng(3), 7, 96);
    let mut builder = Q8Builder::new(96);
    assert!(builder.push(&view(&values).unwrap()));
    let packed = builder.finish().unwrap();
    let theirs = QTensor::quantize(&values, GgmlDType::Q8_0).unwrap();
    let theirs = theirs.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap();
    assert_eq!(unpack(&packed), theirs.to_vec1::<f32>().unwrap());
    assert!(!Q8Builder::new(32).push(&[f32::INFINITY; 32]));
}

/// A random weight in every format.
fn every_format(rows: usize, cols: usize) -> Vec<Packed> {
    use GgmlDType::{BF16, F16, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
    let weight = random(&mut Rng(rows as u64), rows, cols);
    let values = view(&weight).unwrap().to_vec();
    let mut all = vec![
        four_bit(FourBit::Nf4, &values, cols, true),
        four_bit(FourBit::Nf4, &values, cols, false),
        four_bit(FourBit::Fp4, &values, cols, true),
    ];
    for dtype in [BF16, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4K, Q5K, Q6K] {
        let format = Format::of(dtype).unwrap();
        if cols.is_multiple_of(format.block()) {
            let bytes = QTensor::quantize(&weight, dtype).unwrap().data().unwrap().to_vec();
            all.push(Packed::new(format, rows, cols, bytes).unwrap());
        }
    }
    all
}

#[test]
fn products_are_those_of_the_unpacked_weight() {
    // Small, wide, deep, and with rows that are no whole number of blocks.
    for (t, o, d) in [(1, 7, 256), (33, 200, 256), (90, 64, 32), (70, 1300, 512), (40, 97, 1000)] {
        let rng = &mut Rng(5);
        let (x, dy, start) = (random(rng, t, d), random(rng, t, o), random(rng, t, d));
        for packed in every_format(o, d) {
            let what = format!("{packed:?} x {t}");
            let plain = from_vec(unpack(&packed), (o, d)).unwrap();
            same(
                &packed.forward(Precision::F32, &x).unwrap(),
                &matmul::forward(Precision::F32, &x, &plain).unwrap(),
                &what,
            );
            let add = |w: &dyn Matrix| {
                w.input_grad(Precision::F32, Some(start.copy().unwrap()), 0.5, &dy).unwrap()
            };
            same(&add(&packed), &add(&plain), &what);
            same(
                &packed.input_grad(Precision::F32, None, 1.0, &dy).unwrap(),
                &plain.input_grad(Precision::F32, None, 1.0, &dy).unwrap(),
                &what,
            );
            let ids = [o as u32 - 1, 0, 3];
            let (a, b) = (packed.rows(&ids, 1.5).unwrap(), plain.rows(&ids, 1.5).unwrap());
            assert_eq!(*view(&a).unwrap(), *view(&b).unwrap());
            assert_eq!(packed.row_squares().unwrap(), plain.row_squares().unwrap());
            let y = |w: &dyn Matrix| w.forward_add(Precision::F32, dy.copy().unwrap(), &x).unwrap();
            same(&y(&packed), &y(&plain), &what);
            assert!(packed.rows(&[o as u32], 1.0).is_err());
            assert!(packed.forward(Precision::F32, &dy).is_err() || o == d);
        }
    }
}

/// Equal but for the order in which a sum's terms are added.
#[track_caller]
fn same(got: &Tensor, want: &Tensor, what: &str) {
    assert_eq!(got.dims(), want.dims());
    let (got, want) = (view(got).unwrap(), view(want).unwrap());
    let norm = want.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let off: f64 = got.iter().zip(&*want).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    assert!(off.sqrt() <= 1e-6 * norm, "{what}: off by {:.2e}", off.sqrt() / norm);
}

fn rows() -> Vec<Sequence> {
    let ids = |seed: u64, n: usize| -> Vec<u32> {
        let mut rng = Rng(seed);
        (0..n).map(|_| rng.below(48) as u32).collect()
    };
    let row = |seed, n| {
        let ids = ids(seed, n);
        let labels = ids.iter().enumerate().map(|(i, id)| if i < 5 { -100 } else { *id as i32 });
        Sequence::plain(ids.clone(), labels.collect())
    };
    vec![row(1, 40), row(2, 25)]
}

/// Loss and adapter gradients of one LoRA step, and a few generated tokens.
fn trained(mut decoder: Decoder, dora: bool) -> (f64, Vec<Vec<f32>>, Vec<u32>) {
    let lora = LoraConfig {
        rank: 4,
        alpha: 8.0,
        dropout: 0.1,
        dora,
        targets: Targets::All,
        ..LoraConfig::default()
    };
    lora::attach(&mut decoder, &lora, 7).unwrap();
    decoder.params.set_trainable(|p| p.role == Role::Adapter);
    // B starts at zero, which would leave A without a gradient.
    for id in decoder.params.trained() {
        let mut rng = Rng(id.0 as u64);
        let value = decoder.params.value(id);
        engine::tensor::update(value, |v| v.iter_mut().for_each(|x| *x += 0.02 * rng.float()))
            .unwrap();
    }
    let mut grads = Grads::new(&decoder.params);
    let rows = rows();
    let batch = Batch::new(rows.iter());
    let mode = Mode::Train { seed: 1, micro_step: 3 };
    let loss =
        decoder.train_step(&batch, &mut grads, 1.0 / 50.0, Keep::Intermediates, mode).unwrap();
    let gradient = |id| view(grads.get(id).unwrap()).unwrap().to_vec();
    let gradients = decoder.params.trained().into_iter().map(gradient).collect();
    let tokens = greedy(&decoder, &[3, 9, 27], 6, &Default::default(), || true).unwrap();
    (loss.sum, gradients, tokens)
}

/// The same model with its weights unpacked.
fn unpacked(config: &ModelConfig, loaded: &Quantised) -> Decoder {
    let mut weights: Weights = loaded.weights.clone();
    for (name, packed) in &loaded.packed {
        let (rows, cols) = packed.shape();
        weights.insert(name.clone(), WeightData::f32(vec![rows, cols], unpack(packed)));
    }
    Decoder::new(config.clone(), weights, &Device::Cpu).unwrap()
}

fn check_training(config: &ModelConfig, loaded: Quantised, what: &str) {
    let plain = unpacked(config, &loaded);
    let Quantised { weights, packed, .. } = loaded;
    let decoder = Decoder::with_packed(config.clone(), weights, packed, &Device::Cpu).unwrap();
    let counts = decoder.params.counts();
    assert!(decoder.params.quantised() && counts.0 == 0 && counts.1 > 1_000_000 / 2, "{counts:?}");
    let mut merged = decoder.clone();
    let refusal = lora::merge(&mut merged).unwrap_err().to_string();
    assert!(refusal.contains("Cannot merge adapters to a quantized model."), "{refusal}");
    for dora in [false, true] {
        let (got, want) = (trained(decoder.clone(), dora), trained(plain.clone(), dora));
        assert!((got.0 - want.0).abs() <= 1e-6 * want.0.abs(), "{what}: {} {}", got.0, want.0);
        assert_eq!(got.2, want.2, "{what}");
        for (a, b) in got.1.iter().zip(&want.1) {
            let n = a.len();
            let tensor = |v: &[f32]| from_vec(v.to_vec(), (1, n)).unwrap();
            same_within(&tensor(a), &tensor(b), 1e-5, what);
        }
    }
}

#[track_caller]
fn same_within(got: &Tensor, want: &Tensor, tolerance: f64, what: &str) {
    let (got, want) = (view(got).unwrap(), view(want).unwrap());
    let norm = want.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let off: f64 = got.iter().zip(&*want).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    assert!(norm > 0.0 && off.sqrt() <= tolerance * norm, "{what}: {:.2e}", off.sqrt() / norm);
}

fn plan(target: Target) -> Plan {
    Plan { target, plain: Vec::new() }
}

const NF4: Target = Target::FourBit { kind: FourBit::Nf4, double: true };

#[test]
fn lora_over_a_quantised_gguf_equals_lora_over_its_numbers() {
    use GgmlDType::{F16, F32, Q2K, Q4_0, Q4_1, Q4K, Q6K, Q8_0};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let run = |arch: &str, more: Value, dtype: GgmlDType, target: Target| {
        let (bytes, ..) = build(arch, more, dtype);
        fs::write(&path, bytes).unwrap();
        let gguf = Gguf::open(&path).unwrap();
        let config = gguf.config().unwrap();
        (gguf.read_quantised(&config, &plan(target)).unwrap(), config)
    };
    for dtype in [Q4_0, Q4_1, Q8_0, Q4K, Q6K] {
        let (loaded, config) = run("llama", json!({}), dtype, NF4);
        let format = Format::of(dtype).unwrap();
        assert!(loaded.packed.values().all(|p| p.format() == format) && loaded.kept.is_empty());
        // The blocks hold what the file's reader unpacks, rows in the model's order.
        let dense = Gguf::open(&path).unwrap().read(&config, Dtype::F32).unwrap().weights;
        for (name, packed) in &loaded.packed {
            let want = WeightData::f32(dense[name].shape.clone(), unpack(packed));
            assert_eq!(dense[name], want, "{dtype:?} {name}");
        }
        check_training(&config, loaded, &format!("{dtype:?}"));
    }
    // Tied, with biases, fused; floats are quantised on the way.
    let (loaded, config) = run("llama", json!({ "tie_word_embeddings": true }), Q4_0, NF4);
    assert!(!loaded.packed.contains_key("lm_head.weight"));
    check_training(&config, loaded, "tied");
    let gguf = Gguf::open(&path).unwrap();
    let head = Plan::new(NF4, &config, &["lm_head".into()]).unwrap();
    let loaded = gguf.read_quantised(&config, &head).unwrap();
    assert!(loaded.weights.contains_key("model.embed_tokens.weight"), "the head is trained");
    let bytes = gguf.quantised_bytes(&config, &head).unwrap();
    let plain: usize = loaded.weights.values().map(|w| w.data.len() * 4).sum();
    let packed: usize = loaded.packed.values().map(Packed::bytes).sum();
    assert_eq!(bytes as usize, plain + packed);
    let (loaded, config) = run("qwen2", json!({}), F16, NF4);
    assert_eq!(loaded.packed["model.embed_tokens.weight"].format(), Format::F16);
    assert_eq!(loaded.packed["model.layers.0.mlp.up_proj.weight"].format(), Format::Nf4);
    check_training(&config, loaded, "qwen2");
    let (loaded, config) = run("phi3", json!({ "sliding_window": null }), F32, Target::Eight);
    assert!(loaded.weights.contains_key("model.embed_tokens.weight"));
    check_training(&config, loaded, "phi3");
    // What is not computed with is unpacked, and said.
    let (loaded, _) = run("llama", json!({}), Q2K, NF4);
    assert!(loaded.packed.is_empty() && loaded.kept.len() > 10);
    assert!(loaded.summary()[1].contains("Q2K blocks are not computed with"));
}

#[test]
fn a_folder_is_quantised_while_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let (_, weights, config) = build("llama", json!({}), GgmlDType::F32);
    save(dir.path(), &config, &weights, Dtype::Bf16);
    let config = ModelConfig::from_file(&dir.path().join("config.json")).unwrap();
    for (target, format) in [
        (NF4, Format::Nf4),
        (Target::Eight, Format::Q8_0),
        (Target::Half(Half::Bf16), Format::Bf16),
    ] {
        let loaded = read_folder_quantised(dir.path(), &config, &plan(target)).unwrap();
        assert_eq!(loaded.packed["lm_head.weight"].format(), Format::Bf16);
        let up = &loaded.packed["model.layers.1.mlp.up_proj.weight"];
        assert_eq!(up.format(), format);
        // Halves keep the file's numbers, quantised weights come near them.
        let plain = engine::model::weights::read_folder(dir.path(), &config, Dtype::F32).unwrap();
        let head = WeightData::f32(vec![48, 256], unpack(&loaded.packed["lm_head.weight"]));
        assert_eq!(plain.weights["lm_head.weight"], head);
        check_training(&config, loaded, format.name());
    }
    // All matrices in another half than the file's.
    let loaded =
        read_folder_quantised(dir.path(), &config, &plan(Target::Half(Half::Fp16))).unwrap();
    let matrices = loaded.packed.values().filter(|p| p.format() == Format::F16).count();
    assert_eq!((matrices, loaded.packed.len()), (16, 16));
    assert!(loaded.summary()[0].starts_with("Half-precision base: 16 of 16 matrices"));
    check_training(&config, loaded, "fp16");
    let keep = Plan::new(NF4, &config, &["lm_head".into(), "up_proj".into()]).unwrap();
    let loaded = read_folder_quantised(dir.path(), &config, &keep).unwrap();
    assert!(loaded.weights.contains_key("lm_head.weight"));
    assert!(loaded.weights.contains_key("model.layers.0.mlp.up_proj.weight"));
    assert!(loaded.packed.contains_key("model.embed_tokens.weight"));
    // Damage is found.
    let mut broken = weights.clone();
    broken["model.layers.0.mlp.up_proj.weight"] =
        WeightData::f32(vec![512, 256], vec![f32::NAN; 512 * 256]);
    save(dir.path(), &config, &broken, Dtype::F32);
    let error = read_folder_quantised(dir.path(), &config, &plan(NF4)).unwrap_err().to_string();
    assert!(error.contains("up_proj.weight has numbers that are not finite"), "{error}");
    let target = plan(Target::Half(Half::Fp16));
    let error = read_folder_quantised(dir.path(), &config, &target).unwrap_err().to_string();
    assert!(error.contains("not finite in fp16; use bf16"), "{error}");
}

fn save(dir: &Path, config: &ModelConfig, weights: &Weights, dtype: Dtype) {
    let tensors: Vec<(&str, Tensor)> = weights
        .iter()
        .map(|(name, data)| match &data.data {
            engine::model::weights::Data::F32(values) => {
                (name.as_str(), from_vec(values.clone(), data.shape.clone()).unwrap())
            }
            engine::model::weights::Data::Bf16(_) => panic!("bf16"),
        })
        .collect();
    let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let options = SaveOptions { dtype, max_shard: u64::MAX, generation: None, stop_ids: &[] };
    save_model(dir, config, &tensors, &options).unwrap();
}
