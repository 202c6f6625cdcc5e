//! Inverse frequencies of rotary embeddings, by transformers' formulas and in its precision:
//! exponents and frequencies are f32, scalars Python's floats (f64).

use std::f64::consts::PI;

use super::config::{Rope, RopeKind};

/// How many of a head's dimensions are rotated.
#[must_use]
pub fn rotated_width(rope: &Rope, head_dim: usize) -> usize {
    (head_dim as f64 * rope.partial_rotary_factor) as usize
}

/// The inverse frequencies (`rotated_width / 2` of them) and the factor on cos and sin, as they
/// are for sequences up to `max_positions`.
#[must_use]
pub fn inv_freq(rope: &Rope, head_dim: usize, max_positions: usize) -> (Vec<f32>, f32) {
    inv_freq_at(rope, head_dim, max_positions, max_positions)
}

/// As [`inv_freq`], for a sequence of `len` tokens: matters for the dynamic kind alone.
#[must_use]
pub fn inv_freq_at(
    rope: &Rope,
    head_dim: usize,
    max_positions: usize,
    len: usize,
) -> (Vec<f32>, f32) {
    let dim = rotated_width(rope, head_dim);
    match rope.kind {
        RopeKind::Default => (plain(rope.theta, dim), 1.0),
        RopeKind::Linear { factor } => {
            (plain(rope.theta, dim).into_iter().map(|f| f / factor as f32).collect(), 1.0)
        }
        RopeKind::Dynamic { factor } => {
            let (dim_f, max) = (dim as f64, max_positions as f64);
            let grown = factor * len.max(max_positions) as f64 / max - (factor - 1.0);
            (plain(rope.theta * grown.powf(dim_f / (dim_f - 2.0)), dim), 1.0)
        }
        RopeKind::Llama3 { factor, low_freq_factor, high_freq_factor, original } => {
            let bend = |f| llama3(f, factor, low_freq_factor, high_freq_factor, original as f64);
            (plain(rope.theta, dim).into_iter().map(bend).collect(), 1.0)
        }
        RopeKind::Yarn { .. } => yarn(rope, dim),
    }
}

/// theta ^ (2i / dim) for each pair of dimensions.
fn powers(theta: f64, dim: usize) -> impl Iterator<Item = f32> {
    // The power is taken in f64 of f32 operands and rounded once: at most half a unit in the last
    // place from whatever vectorised powf torch uses.
    let base = f64::from(theta as f32);
    (0..dim).step_by(2).map(move |i| base.powf(f64::from(i as f32 / dim as f32)) as f32)
}

fn plain(theta: f64, dim: usize) -> Vec<f32> {
    powers(theta, dim).map(|power| 1.0 / power).collect()
}

fn llama3(freq: f32, factor: f64, low: f64, high: f64, original: f64) -> f32 {
    let wavelength = (2.0 * PI) as f32 / freq;
    if wavelength > (original / low) as f32 {
        return freq / factor as f32;
    }
    if wavelength < (original / high) as f32 {
        return freq;
    }
    let smooth = (original as f32 / wavelength - low as f32) / (high - low) as f32;
    (1.0 - smooth) * freq / factor as f32 + smooth * freq
}

fn yarn(rope: &Rope, dim: usize) -> (Vec<f32>, f32) {
    let RopeKind::Yarn {
        factor,
        original,
        beta_fast,
        beta_slow,
        attention_factor,
        mscale,
        mscale_all_dim,
        truncate,
    } = rope.kind
    else {
        return (plain(rope.theta, dim), 1.0);
    };
    let mscale_of = |scale: f64| {
        if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 }
    };
    let attention = attention_factor.unwrap_or_else(|| match (mscale, mscale_all_dim) {
        (Some(one), Some(all)) => mscale_of(one) / mscale_of(all),
        _ => mscale_of(1.0),
    });
    // The (fractional) dimension whose wavelength turns `rotations` times in the original length.
    let turning = |rotations: f64| {
        dim as f64 * (original as f64 / (rotations * 2.0 * PI)).ln() / (2.0 * rope.theta.ln())
    };
    let (mut low, mut high) = (turning(beta_fast), turning(beta_slow));
    if truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    let (low, mut high) = (low.max(0.0), high.min(dim as f64 - 1.0));
    if low == high {
        high += 0.001;
    }
    let frequency = |(i, power): (usize, f32)| {
        let ramp = ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
        let keep = 1.0 - ramp;
        1.0 / (factor as f32 * power) * (1.0 - keep) + 1.0 / power * keep
    };
    (powers(rope.theta, dim).enumerate().map(frequency).collect(), attention as f32)
}
