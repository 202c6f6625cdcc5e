//! Adam on some entries of each parameter: what BAdam's ratio mode updates with.
//!
//! `p = p - lr sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps)`: the order of operations of
//! `badam.BlockOptimizerRatio` (and torch.optim.SparseAdam), which places eps otherwise than AdamW
//! and has no weight decay. Moments are one value for each trained entry.

use candle_core::{Device, Tensor};

use super::adamw::AdamW;
use super::rule::Slots;
use crate::error::Result;
use crate::model::entries::Entries;
use crate::tensor::{from_vec, on_host, update, view};

/// Moves the `entries` of `param`; `grad` has one value for each, first multiplied by `clip`.
///
/// # Errors
/// When a tensor cannot be read or written.
pub fn step(
    adam: &AdamW,
    param: &Tensor,
    entries: &Entries,
    grad: &Tensor,
    slots: &mut Slots,
    clip: f32,
    lr: f64,
) -> Result<()> {
    let t = slots.step as f64;
    let size = lr * (1.0 - adam.beta2.powf(t)).sqrt() / (1.0 - adam.beta1.powf(t));
    let (size, eps) = (size as f32, adam.eps as f32);
    let (c1, c2) = ((1.0 - adam.beta1) as f32, (1.0 - adam.beta2) as f32);
    let host = |tensor: &Tensor| tensor.to_device(&Device::Cpu);
    let grad = host(grad)?;
    let g = view(&grad)?;
    // The entries are a small share of all: one thread keeps up.
    let move_entries = |p: &mut [f32], m: &mut [f32], v: &mut [f32]| {
        for (((at, g), m), v) in entries.indices().iter().zip(&*g).zip(m).zip(v) {
            let g = g * clip;
            *m += c1 * (g - *m);
            *v += c2 * (g * g - *v);
            p[*at as usize] -= size * (*m / (v.sqrt() + eps));
        }
    };
    let (m, v) = (slots.get("exp_avg")?, slots.get("exp_avg_sq")?);
    if on_host(param) {
        return update(param, |p| update(m, |m| update(v, |v| move_entries(p, m, v))))??;
    }
    let values = |tensor: &Tensor| Ok::<_, crate::error::Error>(view(&host(tensor)?)?.to_vec());
    let (mut p, mut m, mut v) = (values(param)?, values(m)?, values(v)?);
    move_entries(&mut p, &mut m, &mut v);
    let back = |values: Vec<f32>, like: &Tensor| {
        Ok::<_, crate::error::Error>(from_vec(values, like.shape())?.to_device(like.device())?)
    };
    param.slice_set(&back(p, param)?, 0, 0)?;
    let (m, v) = (back(m, slots.get("exp_avg")?)?, back(v, slots.get("exp_avg_sq")?)?);
    slots.set("exp_avg", m)?;
    slots.set("exp_avg_sq", v)
}
