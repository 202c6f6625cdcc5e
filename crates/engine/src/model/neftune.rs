//! NEFTune: uniform noise on the embedded tokens while training.
//!
//! Each element gets U(-m, m) with `m = alpha / sqrt(l d)`, l the row's own length, d the width.
//! transformers takes the padded length of the batch for l, so that there a row's noise depends on
//! the rows that it happens to lie beside; the paper means the sequence's length. Here nothing is
//! padded and l is the row's (a pack's, where rows are packed). The noise is a function of seed,
//! micro-step, row and place: a resumed run draws the same.
//! Source: Jain et al., "NEFTune: Noisy Embeddings Improve Instruction Finetuning", 2023.

use candle_core::Tensor;
use rayon::prelude::*;

use super::linear::Mode;
use crate::error::Result;
use crate::rng::{Purpose, Stream};
use crate::tensor::{from_vec, on_host, update};

/// Adds the noise of `alpha` to the embedded tokens `x_td` of rows with the given lengths, in
/// place; nothing where the model is not training.
///
/// # Errors
/// When the tensor cannot be written.
pub fn add_noise(x_td: Tensor, lengths: &[usize], alpha: f64, mode: Mode) -> Result<Tensor> {
    let Mode::Train { seed, micro_step } = mode else {
        return Ok(x_td);
    };
    let (_, d) = x_td.dims2()?;
    let fill = |x: &mut [f32]| {
        let mut rest = x;
        let mut rows = Vec::with_capacity(lengths.len());
        for length in lengths {
            let (row, after) = rest.split_at_mut((length * d).min(rest.len()));
            rows.push(row);
            rest = after;
        }
        rows.into_par_iter().enumerate().for_each(|(i, row)| {
            let m = (alpha / (row.len().max(1) as f64).sqrt()) as f32;
            let mut noise = vec![0f32; row.len()];
            Stream::new(seed, Purpose::Neftune, micro_step, i as u32)
                .fill_uniform(&mut noise, -m, m);
            row.iter_mut().zip(noise).for_each(|(x, n)| *x += n);
        });
    };
    if on_host(&x_td) {
        update(&x_td, fill)?;
        return Ok(x_td);
    }
    let mut noise = vec![0f32; x_td.elem_count()];
    fill(&mut noise);
    Ok((&x_td + from_vec(noise, x_td.shape())?.to_device(x_td.device())?)?)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::tensor::{view, zeros};

    const D: usize = 64;

    fn noise(lengths: &[usize], mode: Mode) -> Vec<f32> {
        let x = zeros((lengths.iter().sum::<usize>(), D), &candle_core::Device::Cpu).unwrap();
        view(&add_noise(x, lengths, 5.0, mode).unwrap()).unwrap().to_vec()
    }

    #[test]
    fn bounds_spread_and_streams() {
        let mode = |micro_step| Mode::Train { seed: 9, micro_step };
        let (both, first) = (noise(&[100, 25], mode(3)), noise(&[100], mode(3)));
        assert!(noise(&[100], Mode::Eval).iter().all(|x| *x == 0.0));
        // A row's noise depends neither on its neighbours nor on their lengths.
        assert_eq!(both[..100 * D], first);
        assert_ne!(noise(&[100], mode(4)), first);
        for (part, length) in [(&both[..100 * D], 100.0f64), (&both[100 * D..], 25.0)] {
            let m = 5.0 / (length * D as f64).sqrt();
            assert!(part.iter().all(|x| f64::from(x.abs()) <= m * 1.000_001));
            let n = part.len() as f64;
            let mean = part.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
            let variance = part.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / n;
            assert!(mean.abs() < 0.1 * m, "{mean} {m}");
            assert!((variance - m * m / 3.0).abs() < 0.05 * m * m, "{variance} {m}");
        }
    }
}
