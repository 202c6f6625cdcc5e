//! Decoding token by token with a cache of keys and values.

mod sampling;

pub use sampling::{Sampling, argmax};

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
    keep_going: impl FnMut() -> bool,
) -> Result<Vec<u32>> {
    generate(decoder, prompt, max_new_tokens, stop, keep_going, |logits, _| argmax(logits))
}

/// As [`greedy`], with each token chosen by `choose` from the logits and the tokens before it.
///
/// # Errors
/// When ids lie outside the vocabulary.
pub fn generate(
    decoder: &Decoder,
    prompt: &[u32],
    max_new_tokens: usize,
    stop: &BTreeSet<u32>,
    mut keep_going: impl FnMut() -> bool,
    mut choose: impl FnMut(&mut [f32], &[u32]) -> u32,
) -> Result<Vec<u32>> {
    let mut caches: Vec<Cache> = decoder.blocks.iter().map(|_| Cache::default()).collect();
    let mut all = prompt.to_vec();
    let mut done = 0;
    while all.len() < prompt.len() + max_new_tokens && done < all.len() && keep_going() {
        let mut logits = extend(decoder, &mut caches, &all[done..], done)?;
        done = all.len();
        let next = choose(&mut logits, &all);
        if stop.contains(&next) {
            break;
        }
        all.push(next);
    }
    Ok(all.split_off(prompt.len()))
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
            block
                .attention
                .forward(decoder.params.precision, &q, &kv.k, &kv.v, &batch.offsets)?
                .o_thk
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
