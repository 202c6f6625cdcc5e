//! Greedy decoding with a cache of keys and values.

use std::collections::BTreeSet;

use candle_core::Tensor;

use crate::batch::{Batch, Sequence};
use crate::error::Result;
use crate::model::decoder::Decoder;
use crate::model::linear::Mode;
use crate::ops::attention::decode;
use crate::tensor::{from_vec, view};

/// Keys and values of one layer so far.
#[derive(Debug, Default)]
struct Cache {
    k: Vec<f32>,
    v: Vec<f32>,
}

/// The most likely continuation of `prompt`, up to `max_new_tokens` or a token of `stop` (which is
/// not returned). `keep_going` is asked before each token.
///
/// # Errors
/// When ids lie outside the vocabulary.
pub fn greedy(
    decoder: &Decoder,
    prompt: &[u32],
    max_new_tokens: usize,
    stop: &BTreeSet<u32>,
    mut keep_going: impl FnMut() -> bool,
) -> Result<Vec<u32>> {
    let mut caches: Vec<Cache> = decoder.blocks.iter().map(|_| Cache::default()).collect();
    let mut new = Vec::new();
    let mut pending = prompt.to_vec();
    let mut position = 0;
    while new.len() < max_new_tokens && !pending.is_empty() && keep_going() {
        let logits = extend(decoder, &mut caches, &pending, position)?;
        position += pending.len();
        let next = argmax(&logits);
        if stop.contains(&next) {
            break;
        }
        new.push(next);
        pending = vec![next];
    }
    Ok(new)
}

/// Runs new tokens through the model after those in the caches: logits of the last, [v].
fn extend(
    decoder: &Decoder,
    caches: &mut [Cache],
    ids: &[u32],
    position: usize,
) -> Result<Vec<f32>> {
    let mut row = Sequence::plain(ids.to_vec(), vec![crate::batch::IGNORE; ids.len()]);
    row.positions.iter_mut().for_each(|p| *p += position as u32);
    let batch = Batch::new([&row]);
    let angles = decoder.angles(&batch.positions);
    let pass = decoder.pass(&batch, &angles, Mode::Eval);
    let mut x = decoder.embed(ids)?;
    for (block, cache) in decoder.blocks.iter().zip(caches) {
        let (q, kv) = block.queries(pass, &x)?;
        let host = |t: &Tensor| t.to_device(&candle_core::Device::Cpu);
        cache.k.extend_from_slice(&view(&host(&kv.k)?)?);
        cache.v.extend_from_slice(&view(&host(&kv.v)?)?);
        let o = if position == 0 {
            block.attention.forward(&q, &kv.k, &kv.v, &batch.offsets)?.o_thk
        } else {
            let width = block.attention.heads * block.attention.head_dim;
            let q_host = host(&q)?;
            let o = decode(&block.attention, &view(&q_host)?, &cache.k, &cache.v);
            from_vec(o, (ids.len(), width))?.to_device(q.device())?
        };
        x = block.finish(pass, &x, &o)?;
    }
    let last = x.narrow(0, ids.len() - 1, 1)?.contiguous()?;
    let logits = decoder.logits(&decoder.final_hidden(&last)?)?;
    Ok(view(&logits.to_device(&candle_core::Device::Cpu)?)?.to_vec())
}

/// Index of the largest value; the first of equals.
fn argmax(x: &[f32]) -> u32 {
    let best = x
        .iter()
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |best, (i, v)| if *v > best.1 { (i, *v) } else { best });
    best.0 as u32
}
