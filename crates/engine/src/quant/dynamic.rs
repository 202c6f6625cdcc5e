//! Double quantisation: the scales of 4-bit blocks in 8 bits, as bitsandbytes stores them.
//!
//! The scales less their mean, in blocks of 256 divided by their largest magnitude, become the nearest
//! of 256 values of the signed dynamic map: powers of ten from 1 to 1e-6, each with twice the steps of
//! the one below it.
//! Source: Dettmers et al., "8-bit Optimizers via Block-wise Quantization", 2022; bitsandbytes'
//! `create_dynamic_map` and `quantize_blockwise`.

use std::sync::LazyLock;

/// Scales that share a scale.
const BLOCK: usize = 256;

static MAP: LazyLock<[f32; 256]> = LazyLock::new(map);

/// Quantised scales.
#[derive(Clone, PartialEq)]
pub(super) struct Dynamic {
    codes: Vec<u8>,
    largest: Vec<f32>,
    mean: f32,
}

impl Dynamic {
    #[inline(always)]
    pub(super) fn get(&self, i: usize) -> f32 {
        MAP[usize::from(self.codes[i])] * self.largest[i / BLOCK] + self.mean
    }

    pub(super) fn bytes(&self) -> usize {
        self.codes.len() + self.largest.len() * 4
    }
}

/// Quantises scales.
pub(super) fn quantise(scales: &[f32]) -> Dynamic {
    let sum: f64 = scales.iter().map(|x| f64::from(*x)).sum();
    let mean = (sum / scales.len().max(1) as f64) as f32;
    let middles: [f32; 255] = std::array::from_fn(|i| (MAP[i] + MAP[i + 1]) / 2.0);
    let mut codes = Vec::with_capacity(scales.len());
    let mut largest = Vec::with_capacity(scales.len().div_ceil(BLOCK));
    for block in scales.chunks(BLOCK) {
        let peak = block.iter().fold(0f32, |m, x| m.max((x - mean).abs()));
        let inverse = 1.0 / peak.max(1e-38);
        codes.extend(block.iter().map(|x| {
            let scaled = ((x - mean) * inverse).clamp(-1.0, 1.0);
            middles.partition_point(|middle| *middle < scaled) as u8
        }));
        largest.push(peak);
    }
    Dynamic { codes, largest, mean }
}

/// The signed dynamic map, rising.
fn map() -> [f32; 256] {
    let mut values = vec![0.0, 1.0];
    for i in 0..7 {
        let steps = 1 << i;
        let step = (1.0 - 0.1) / steps as f32;
        // As torch.linspace counts: from the near end.
        let bound = |k: usize| match 2 * k < steps + 1 {
            true => 0.1 + step * k as f32,
            false => 1.0 - step * (steps - k) as f32,
        };
        let power = 10f64.powi(i - 6) as f32;
        for k in 0..steps {
            let value = power * ((bound(k) + bound(k + 1)) / 2.0);
            values.extend([value, -value]);
        }
    }
    values.sort_by(f32::total_cmp);
    std::array::from_fn(|i| values.get(i).copied().unwrap_or(0.0))
}
