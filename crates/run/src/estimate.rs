//! How much memory a run takes, told before it starts: from its arguments and the model's shape alone.
//!
//! A sum of parts, each with a low, an expected and a high figure. Weights, gradients and moments are
//! counted; activations are what a layer keeps of each token, times the tokens of a micro-batch, which
//! depend on how long the rows are: low, expected and high stand for rows of a third, of two thirds and
//! of the whole of `cutoff_len`. Page caches and the model file are not the process's memory.

use serde_json::{Map, Value};

use crate::config::Config;
use crate::fields::{BadamMode, FinetuningType, Stage};

/// Logits that the head holds at once, and the tokens of a chunk: as in the engine's `ops::head`.
const CHUNK_LOGITS: usize = 8 << 20;
const CHUNK_TOKENS: usize = 1024;

/// The program, its threads and the tokenizer's tables, apart from the vocabulary.
const PROGRAM: f64 = 40e6;

/// Tables of the tokenizer for each token of the vocabulary.
const TOKEN: f64 = 600.0;

/// What of a model's config decides its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward block.
    pub intermediate: usize,
    /// Layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Norms of q and k.
    pub qk_norm: bool,
    /// Norms after attention and feed-forward too.
    pub post_norms: bool,
    /// Whether the weights in the files are halves.
    pub halves: bool,
}

/// One part of a run's memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Part {
    /// What it is: `weights`, `adapter`, `gradients`, `moments`, `activations`, `logits`, `data` or
    /// `program`.
    pub name: &'static str,
    /// At least.
    pub low: f64,
    /// Most likely.
    pub expected: f64,
    /// At most.
    pub high: f64,
}

/// A run's memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    /// Its parts, none of them 0.
    pub parts: Vec<Part>,
    /// Parameters that are trained, and all.
    pub params: (u64, u64),
}

impl Estimate {
    /// The sum of the parts.
    #[must_use]
    pub fn total(&self) -> Part {
        let sum = |of: fn(&Part) -> f64| self.parts.iter().map(of).sum();
        Part {
            name: "total",
            low: sum(|p| p.low),
            expected: sum(|p| p.expected),
            high: sum(|p| p.high),
        }
    }

    /// The part that takes most.
    #[must_use]
    pub fn largest(&self) -> Option<&Part> {
        self.parts.iter().max_by(|a, b| a.expected.total_cmp(&b.expected))
    }
}

impl Shape {
    /// The shape that a Hugging Face config.json describes; `None` where a size is missing.
    #[must_use]
    pub fn from_config(json: &Map<String, Value>) -> Option<Self> {
        let text = json.get("text_config").and_then(Value::as_object).unwrap_or(json);
        let size = |name: &str| text.get(name).and_then(Value::as_u64).map(|n| n as usize);
        let kind = text.get("model_type").and_then(Value::as_str).unwrap_or_default();
        let (hidden, heads) = (size("hidden_size")?, size("num_attention_heads")?);
        let gemma = kind.starts_with("gemma");
        let tied = text.get("tie_word_embeddings").and_then(Value::as_bool);
        let dtype = text.get("dtype").or_else(|| text.get("torch_dtype")).and_then(Value::as_str);
        Some(Self {
            hidden,
            intermediate: size("intermediate_size")?,
            layers: size("num_hidden_layers")?,
            heads,
            kv_heads: size("num_key_value_heads").unwrap_or(heads),
            head_dim: size("head_dim").unwrap_or(hidden / heads.max(1)),
            vocab: size("vocab_size")?,
            tied: tied.unwrap_or(gemma),
            qk_norm: matches!(kind, "qwen3" | "gemma3" | "gemma3_text"),
            post_norms: gemma,
            halves: dtype != Some("float32"),
        })
    }

    /// (outputs, inputs) of a layer's matrices.
    fn matrices(&self) -> [(usize, usize); 7] {
        let (d, i) = (self.hidden, self.intermediate);
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        [(q, d), (kv, d), (kv, d), (d, q), (i, d), (i, d), (d, i)]
    }

    /// Parameters of one layer.
    fn layer(&self) -> f64 {
        let norms = 2 + 2 * usize::from(self.post_norms);
        let matrices: usize = self.matrices().iter().map(|(o, d)| o * d).sum();
        (matrices + norms * self.hidden) as f64
    }

    /// Parameters of embedding and head.
    fn outer(&self) -> f64 {
        (self.vocab * self.hidden * (2 - usize::from(self.tied))) as f64
    }

    /// All parameters.
    fn all(&self) -> f64 {
        self.outer() + self.layers as f64 * self.layer() + self.hidden as f64
    }

    /// Numbers that a layer keeps of each token between forward and backward.
    fn kept(&self) -> f64 {
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let norms = if self.qk_norm { q + kv } else { 0 };
        let post = if self.post_norms { 2 * self.hidden } else { 0 };
        let plain = 2 * self.hidden + 2 * q + 2 * kv + 2 * self.intermediate + self.heads + 2;
        (plain + norms + post) as f64
    }

    /// Numbers that come and go with each token while one layer is computed.
    fn passing(&self) -> f64 {
        let q = self.heads * self.head_dim;
        (4 * self.hidden + 3 * self.intermediate + 2 * q) as f64
    }
}

/// What is known of a model beyond its shape; what is not follows from the shape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Bytes of the weights in memory: a quantised GGUF file's.
    pub weights: Option<u64>,
    /// Parameters that an adapter adds.
    pub added: Option<u64>,
    /// Of the model's own parameters, those that freeze leaves, or that are trained whole beside an adapter.
    pub chosen: Option<u64>,
}

/// The memory of a training run over a model of this shape.
#[must_use]
pub fn estimate(config: &Config, shape: &Shape, known: Known) -> Estimate {
    let trained = trained(config, shape, known);
    let mut parts = Vec::new();
    let mut put = |name, low: f64, expected: f64, high: f64| {
        if high > 0.0 {
            parts.push(Part { name, low, expected, high });
        }
    };
    let same = |bytes: f64| (bytes, bytes, bytes);
    let base = known.weights.map_or_else(|| base_bytes(config, shape), |bytes| bytes as f64);
    let (low, expected, high) = same(base);
    put("weights", low, expected, high);
    let lora = config.finetuning_type == FinetuningType::Lora;
    if lora {
        let (low, expected, high) = same(4.0 * trained.added);
        put("adapter", low, expected, high);
    }
    let (low, expected, high) = same(4.0 * trained.at_once);
    put("gradients", low, expected, high);
    let (low, expected, high) = same(moment_bytes(config) * trained.remembered);
    put("moments", low, expected, high);

    let per_row = config.cutoff_len as f64;
    let full = config.stage == Stage::Pt || config.packing == Some(true) || config.neat_packing;
    let share = if full { [0.9, 1.0, 1.0] } else { [1.0 / 3.0, 2.0 / 3.0, 1.0] };
    let batch = config.per_device_train_batch_size as f64;
    let tokens = share.map(|share| (share * per_row * batch).max(1.0));
    let rank = if lora { config.lora_rank * shape.matrices().len() } else { 0 };
    let layer = shape.kept() + rank as f64;
    let kept = match config.gradient_checkpointing {
        true => (trained.layers * shape.hidden) as f64 + layer,
        false => trained.layers as f64 * layer,
    } + shape.passing();
    // What an allocator holds beyond what is in use.
    let [low, expected, high] = [1.0, 1.1, 1.25];
    let bytes = |t: f64, slack: f64| 4.0 * t * kept * slack;
    put("activations", bytes(tokens[0], low), bytes(tokens[1], expected), bytes(tokens[2], high));
    let chunk = (CHUNK_LOGITS / shape.vocab.max(1)).clamp(16, CHUNK_TOKENS) as f64;
    let logits = tokens.map(|t| 4.0 * t.min(chunk) * shape.vocab as f64);
    put("logits", logits[0] * 0.5, logits[1], logits[2]);
    let rows = config.max_samples.map_or([0.0, 10_000.0, 100_000.0], |n| [n as f64; 3]);
    // Ids, labels and positions, and the row's text while it is read.
    let data: Vec<_> = rows.iter().zip(share).map(|(n, s)| n * s * per_row * 16.0).collect();
    put("data", data[0], data[1], data[2]);
    let program = PROGRAM + TOKEN * shape.vocab as f64;
    put("program", program * 0.7, program, program * 1.5);
    Estimate { parts, params: (trained.total as u64, (shape.all() + trained.added) as u64) }
}

/// Bytes of the base model.
fn base_bytes(config: &Config, shape: &Shape) -> f64 {
    let linear: usize = shape.matrices().iter().map(|(o, d)| o * d).sum();
    let linear = (linear * shape.layers) as f64;
    let rest = shape.all() - shape.outer() - linear;
    let outer = shape.outer() * if shape.halves { 2.0 } else { 4.0 };
    let bits = match config.quantization_bit {
        None => return 4.0 * shape.all(),
        Some(4) if config.double_quantization => 4.127,
        Some(4) => 4.5,
        Some(_) => 8.5,
    };
    linear * bits / 8.0 + outer + 4.0 * rest
}

/// How many parameters are trained.
struct Trained {
    /// In the course of the run.
    total: f64,
    /// Of these, beside the model's own.
    added: f64,
    /// With a gradient at the same time.
    at_once: f64,
    /// With moments.
    remembered: f64,
    /// Layers that backward passes through.
    layers: usize,
}

fn trained(config: &Config, shape: &Shape, known: Known) -> Trained {
    let all = shape.all();
    let chosen = known.chosen.map(|count| count as f64);
    let whole = |total, at_once| Trained {
        total,
        added: 0.0,
        at_once,
        remembered: at_once,
        layers: shape.layers,
    };
    match config.finetuning_type {
        FinetuningType::Lora => {
            let everywhere = || {
                let sum: usize = shape.matrices().iter().map(|(o, d)| o + d).sum();
                (sum * config.lora_rank * shape.layers) as f64
            };
            let added = known.added.map_or_else(everywhere, |count| count as f64);
            let total = added + chosen.unwrap_or(0.0);
            Trained { added, ..whole(total, total) }
        }
        FinetuningType::Freeze => {
            let count = config.freeze_trainable_layers.unsigned_abs() as usize;
            let n = count.min(shape.layers);
            let total = chosen.unwrap_or_else(|| n as f64 * shape.layer());
            let layers = if config.freeze_trainable_layers < 0 { shape.layers } else { n };
            Trained { layers, ..whole(total, total) }
        }
        FinetuningType::Full if config.use_badam && config.badam_mode == BadamMode::Layer => {
            whole(all, shape.layer())
        }
        FinetuningType::Full if config.use_badam => {
            let some = config.badam_update_ratio * all;
            let at_once = some + shape.layer().max(shape.outer());
            Trained { remembered: some, ..whole(some, at_once) }
        }
        FinetuningType::Full => whole(all, all),
    }
}

/// Bytes that the optimiser remembers of each trained parameter.
fn moment_bytes(config: &Config) -> f64 {
    match config.optim.name() {
        "sgd" => 0.0,
        "adafactor" => 0.05,
        name if name.contains("lion") && name.contains("8bit") => 1.02,
        name if name.contains("lion") => 4.0,
        name if name.contains("8bit") => 2.04,
        _ => 8.0,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    /// SmolLM2-135M.
    fn smollm2() -> Shape {
        let json = json!({
            "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536,
            "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
            "vocab_size": 49_152, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
        });
        Shape::from_config(json.as_object().unwrap()).unwrap()
    }

    fn run(more: Value) -> Estimate {
        let mut map = json!({ "cutoff_len": 512, "per_device_train_batch_size": 2 });
        map.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (config, _) = Config::from_map(map.as_object().unwrap()).unwrap();
        estimate(&config, &smollm2(), Known::default())
    }

    #[test]
    fn parameters_are_counted() {
        let check = |more: Value, trained: u64, all: u64| {
            assert_eq!(run(more.clone()).params, (trained, all), "{more}");
        };
        let all = 134_515_008;
        check(json!({ "finetuning_type": "full" }), all, all);
        check(json!({ "lora_rank": 8 }), 2_442_240, all + 2_442_240);
        let layer = (all - 49_152 * 576 - 576) / 30;
        check(json!({ "finetuning_type": "freeze", "freeze_trainable_layers": 2 }), 2 * layer, all);
        assert_eq!(Shape::from_config(&Map::new()), None);
        let (config, _) = Config::from_map(&Map::new()).unwrap();
        let known = Known { added: Some(7), chosen: Some(5), ..Known::default() };
        let found = estimate(&config, &smollm2(), known);
        assert_eq!(found.params, (12, all + 7));
        let part = |name: &str| found.parts.iter().find(|p| p.name == name).unwrap().expected;
        assert_eq!((part("adapter"), part("gradients"), part("moments")), (28.0, 48.0, 96.0));
    }

    #[test]
    fn parts_are_in_order_and_add_up() {
        let runs = [
            json!({ "finetuning_type": "full" }),
            json!({ "finetuning_type": "full", "optim": "adamw_8bit" }),
            json!({ "finetuning_type": "full", "optim": "sgd" }),
            json!({ "finetuning_type": "full", "use_badam": true }),
            json!({ "finetuning_type": "full", "use_badam": true, "badam_mode": "ratio" }),
            json!({ "finetuning_type": "freeze" }),
            json!({}),
            json!({ "quantization_bit": 8 }),
            json!({ "quantization_bit": 4 }),
        ];
        for more in &runs {
            let found = run(more.clone());
            for part in &found.parts {
                let rising = part.low <= part.expected && part.expected <= part.high;
                assert!(rising && part.high > 0.0, "{more}: {part:?}");
            }
            let total = found.total();
            let sum: f64 = found.parts.iter().map(|part| part.expected).sum();
            assert!((total.expected - sum).abs() < 1.0);
            assert!(found.largest().unwrap().expected <= total.expected);
        }
        let part = |more: &Value, name: &str| {
            run(more.clone()).parts.iter().find(|p| p.name == name).map_or(0.0, |p| p.expected)
        };
        let weights = 4.0 * 134_515_008.0;
        assert_eq!(part(&runs[0], "weights"), weights);
        assert_eq!(part(&runs[0], "moments"), 2.0 * weights);
        assert!(part(&runs[1], "moments") < 0.6 * weights);
        assert_eq!(part(&runs[2], "moments"), 0.0);
        assert!(part(&runs[3], "moments") < weights / 10.0);
        let again = json!({ "finetuning_type": "full", "gradient_checkpointing": true });
        assert!(part(&again, "activations") < part(&runs[0], "activations") / 4.0);
        assert!(part(&runs[8], "weights") < part(&runs[7], "weights"));
        assert!(part(&runs[7], "weights") < weights / 3.0);
        assert_eq!(run(runs[0].clone()).largest().unwrap().name, "moments");
    }
}
