//! Memory that a run will need, estimated before its first step: `auto_find_batch_size`, and how much
//! of a micro-batch is kept for the way back.
//!
//! Weights, gradients and the optimiser's memory are counted exactly; of a micro-batch, what the
//! layers keep for the backward pass and the widest of what they pass through. An allocation that
//! fails cannot be caught and tried again, so the size is settled beforehand, and only how many rows
//! are computed at once changes: the rows of a step, and so the mean that its loss is, stay.

use crate::model::config::ModelConfig;
use crate::model::decoder::{Decoder, Keep};
use crate::model::store::Grads;
use crate::step::Optimiser;

/// Bytes of the head's logits and their gradient.
const HEAD: u64 = 2 * 4 * (8 << 20);
/// Kept free for the tokenizer, the rows and the process itself.
const RESERVE: u64 = 256 << 20;

/// Bytes that do not depend on the batch: weights, gradients, what the optimiser remembers.
#[must_use]
pub fn fixed(decoder: &Decoder, optimiser: &Optimiser) -> u64 {
    let of = |(id, param): (_, &crate::model::store::Param)| {
        let packed = param.packed.as_ref().map_or(0, |packed| packed.bytes());
        let weights = (4 * param.value.elem_count() + packed) as u64;
        if !param.trainable {
            return weights;
        }
        let layout = optimiser.rule.layout(param, optimiser.grads.entries(id));
        let slots = layout
            .iter()
            .map(|spec| (spec.shape.iter().product::<usize>() * spec.dtype.size_in_bytes()) as u64);
        2 * weights + slots.sum::<u64>()
    };
    decoder.params.iter().map(of).sum::<u64>() + HEAD + RESERVE
}

/// Bytes for each token of a micro-batch, at least: what there is no room for is computed again.
#[must_use]
pub fn per_token(decoder: &Decoder) -> u64 {
    let config = &decoder.config;
    let (layers, input) = (config.num_hidden_layers as u64, 4 * config.hidden_size as u64);
    layers * input + layer_token(decoder) + passing_token(config)
}

/// What a micro-batch of `tokens` may keep of the layers, in bytes, where `available` are left when
/// everything else has its memory.
#[must_use]
pub fn room(config: &ModelConfig, tokens: usize, available: u64) -> u64 {
    available.saturating_sub(passing_token(config) * tokens as u64)
}

/// What the layers keep of a step's only pass, of `tokens`, so that it needs no more memory than passes of `largest`
/// tokens that keep `keep`, and the share of them that is computed again; `None` where it needs more all the same.
///
/// Several passes need the gradients all the time. A single one does not before backward reaches their layer (but for
/// the head's and the embedding's), when the layers above have given back what they kept. It is compared where it
/// needs most: at the head, where it begins to compute layers again, and at the lowest layer.
#[must_use]
pub fn only_pass(
    decoder: &Decoder,
    grads: &Grads,
    keep: Keep,
    largest: usize,
    tokens: usize,
) -> Option<(Keep, f64)> {
    let config = &decoder.config;
    let outer = decoder.outer_params();
    let later = decoder
        .params
        .iter()
        .filter(|(id, p)| p.trainable && grads.entries(*id).is_none() && !outer.contains(id));
    let later: u64 = later.map(|(_, p)| 4 * p.value.elem_count() as u64).sum();
    let layers = decoder.layers_trained_through();
    let (layer, input) = (layer_token(decoder), 4 * config.hidden_size as u64);
    let (passing, all) = (passing_token(config), layers as u64);
    let (largest, tokens) = (largest as u64, tokens as u64);
    let several = passing * largest
        + match keep {
            Keep::Intermediates => all * layer * largest,
            Keep::Inputs => (all * input + layer) * largest,
            Keep::Within(bytes) => bytes.min(all * layer * largest),
        };
    let lowest = (layer + passing) * tokens;
    if lowest > several && tokens > largest {
        return None;
    }
    if keep == Keep::Inputs {
        return (all * input * tokens + lowest <= several + later).then_some((keep, 0.0));
    }
    let room = (several + later).checked_sub(passing * tokens)?;
    let room = if let Keep::Within(bytes) = keep { bytes.min(room) } else { room };
    let again = layers_again(decoder, layers, tokens as usize, room);
    let share = again as f64 / layers.max(1) as f64;
    let inputs = again as u64 * input * tokens;
    let there = later - (later as f64 * share) as u64;
    let fits =
        all * input * tokens <= room && (again == 0 || inputs + lowest + there <= several + later);
    fits.then_some((Keep::Within(room), share))
}

/// How many of `layers` layers must be computed again on the way back, so that a micro-batch of
/// `tokens` keeps at most `budget` bytes of them.
#[must_use]
pub fn layers_again(decoder: &Decoder, layers: usize, tokens: usize, budget: u64) -> usize {
    let (layer, input) = (layer_token(decoder), 4 * decoder.config.hidden_size as u64);
    let all = layers as u64 * layer * tokens as u64;
    let each = (layer.saturating_sub(input) * tokens as u64).max(1);
    (all.saturating_sub(budget).div_ceil(each) as usize).min(layers)
}

/// Bytes that the layers keep of a pass of `tokens`, if they keep everything that backward reads.
#[must_use]
pub fn kept_at_most(decoder: &Decoder, tokens: usize) -> u64 {
    decoder.config.num_hidden_layers as u64 * layer_token(decoder) * tokens as u64
}

/// Tokens of which all layers are kept within `budget` bytes.
#[must_use]
pub fn tokens_kept(decoder: &Decoder, budget: u64) -> usize {
    (budget / kept_at_most(decoder, 1).max(1)) as usize
}

/// Bytes that a layer keeps of each token.
fn layer_token(decoder: &Decoder) -> u64 {
    let config = &decoder.config;
    let rounded = decoder.blocks.iter().all(|block| block.rounds(&decoder.params, None));
    let (d, i) = (config.hidden_size, config.intermediate_size);
    let (q, kv) = (config.q_width(), config.kv_width());
    let raw = if config.qk_norm { q + kv } else { 0 } + if config.post_norms { 2 * d } else { 0 };
    let gated = if rounded { 2 } else { 4 } * 2 * i;
    (4 * (2 * d + 2 * q + 2 * kv + raw) + gated) as u64
}

/// Bytes of each token that come and go while one layer is computed.
fn passing_token(config: &ModelConfig) -> u64 {
    4 * (4 * config.hidden_size + 3 * config.intermediate_size) as u64
}

/// Rows to compute at once, at most `batch`: halved until the longest rows fit into `available`
/// bytes. 1 where not even one row does.
#[must_use]
pub fn rows_that_fit(
    batch: usize,
    lengths: &[usize],
    fixed: u64,
    each: u64,
    available: u64,
) -> usize {
    let mut longest = lengths.to_vec();
    longest.sort_unstable_by(|a, b| b.cmp(a));
    let mut rows = batch.max(1);
    while rows > 1 {
        let tokens: usize = longest.iter().take(rows).sum();
        if fixed + each * tokens as u64 <= available {
            break;
        }
        rows = rows.div_ceil(2);
    }
    rows
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn rows_are_halved_until_they_fit() {
        let lengths = [10, 80, 100, 20, 90, 30, 70, 60];
        for (batch, available, expected) in [
            (8, 1_000_000, 8),
            // 460 tokens in all, 340 of the longest four, 190 of two, 100 of one
            (8, 1000 + 459 * 10, 4),
            (8, 1000 + 339 * 10, 2),
            (8, 1000 + 189 * 10, 1),
            (8, 10, 1),
            (7, 1000 + 339 * 10, 2),
            (3, 1000 + 269 * 10, 2),
            (1, 0, 1),
        ] {
            let got = rows_that_fit(batch, &lengths, 1000, 10, available);
            assert_eq!(got, expected, "{batch} rows in {available}");
        }
    }

    #[test]
    fn layers_beyond_the_budget_are_computed_again() {
        let json = serde_json::json!({
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 100,
            "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4,
            "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
        });
        let config = ModelConfig::from_value(json, "test").unwrap();
        let mut decoder =
            Decoder::from_scratch(config.clone(), 1, &candle_core::Device::Cpu).unwrap();
        let (layer, input) = (layer_token(&decoder) * 10, 4 * 64 * 10);
        for (layers, budget, expected) in [
            (4, 4 * layer, 0),
            (4, 4 * layer - 1, 1),
            (4, 3 * layer + input, 1),
            (4, 3 * layer + input - 1, 2),
            (4, 0, 4),
            (2, 2 * layer, 0),
            (0, 0, 0),
        ] {
            assert_eq!(layers_again(&decoder, layers, 10, budget), expected, "{layers} {budget}");
        }
        decoder.params.set_trainable(|_| true);
        only_pass_needs_no_more(&mut decoder);
        assert_eq!(room(&config, 10, 1), 0);
        assert_eq!(tokens_kept(&decoder, 4 * layer), 10);
        assert_eq!(tokens_kept(&decoder, 4 * layer - 1), 9);
        decoder.set_precision(crate::ops::matmul::Precision::Bf16);
        assert_eq!(layer_token(&decoder) * 10, layer - 2 * 2 * 128 * 10);
        assert!(per_token(&decoder) < kept_at_most(&decoder, 1) + passing_token(&config));
    }

    /// What a pass of `tokens` needs at most beside weights, moments and the outer gradients, layer by layer: `later`
    /// bytes of gradients come one layer after the other, or are there from the beginning.
    fn peak(decoder: &Decoder, keep: Keep, tokens: u64, later: u64, at_once: bool) -> u64 {
        let layers = decoder.layers_trained_through() as u64;
        let (layer, input) = (layer_token(decoder), 4 * decoder.config.hidden_size as u64);
        let again = match keep {
            Keep::Intermediates => 0,
            Keep::Inputs => layers,
            Keep::Within(bytes) => {
                layers_again(decoder, layers as usize, tokens as usize, bytes) as u64
            }
        };
        let at = |l: u64| {
            let kept =
                if l < again { l * input + layer } else { again * input + (l - again + 1) * layer };
            let gradients = if at_once { later } else { later * (layers - 1 - l) / layers.max(1) };
            (kept + passing_token(&decoder.config)) * tokens + gradients
        };
        (0..layers).map(at).max().unwrap_or(passing_token(&decoder.config) * tokens)
    }

    fn only_pass_needs_no_more(decoder: &mut Decoder) {
        let mut merged = 0;
        for (trained, layers) in [("", 4), ("layers.3", 1), ("layers.2", 2), ("lm_head", 0)] {
            decoder.params.set_trainable(|p| p.name.contains(trained));
            assert_eq!(decoder.layers_trained_through(), layers, "{trained}");
            let (grads, outer) = (Grads::new(&decoder.params), decoder.outer_params());
            let later = decoder.params.iter().filter(|(id, p)| p.trainable && !outer.contains(id));
            let later: u64 = later.map(|(_, p)| 4 * p.value.elem_count() as u64).sum();
            for keep in [0, 1000, 100_000, 1 << 40]
                .map(Keep::Within)
                .into_iter()
                .chain([Keep::Intermediates, Keep::Inputs])
            {
                for largest in [1, 10, 100, 1000] {
                    for tokens in (2..16).map(|quarters| largest * quarters / 4) {
                        let Some((kept, share)) = only_pass(decoder, &grads, keep, largest, tokens)
                        else {
                            continue;
                        };
                        assert!((0.0..=1.0).contains(&share));
                        let before = peak(decoder, keep, largest as u64, later, true);
                        let now = peak(decoder, kept, tokens as u64, later, false);
                        let what = format!("{trained} {keep:?} {largest} {tokens}: {kept:?}");
                        assert!(
                            now <= before.max(peak(decoder, keep, tokens as u64, later, true)),
                            "{what}"
                        );
                        assert!(tokens <= largest || now <= before, "{what}: {now} > {before}");
                        merged += usize::from(tokens > largest);
                    }
                }
            }
        }
        assert!(merged > 50, "{merged}");
    }
}
