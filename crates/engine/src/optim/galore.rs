//! GaLore: another rule's memory, kept of a low-rank projection of each gradient.
//!
//! Every `interval` updates the gradient's leading singular vectors become the projector; the inner
//! rule moves a zero matrix of the projected shape, and what it moved by goes back through the
//! projector, times `scale`. Weight decay comes last (with Adafactor first). As the package galore_torch does it, with two
//! differences: a matrix whose shorter side is longer than 256 has its singular vectors from the
//! randomised range finder rather than a full decomposition, and `reverse_std` also works where the
//! rank reaches the shorter side. Source: Zhao et al., "GaLore", 2024.

use std::collections::BTreeSet;

use candle_core::Tensor;
use rayon::prelude::*;

use crate::error::Result;
use crate::linalg::{Svd, svd, svd_lowrank};
use crate::model::store::Param;
use crate::ops::matmul::{self, Into, Precision};
use crate::optim::adamw::AdamW;
use crate::optim::rule::{Rate, Rule, Slots, Spec};
use crate::simd::{CHUNK, with_simd};
use crate::tensor::{update, zeros};

/// Up to this length of the shorter side the decomposition is exact.
const EXACT: usize = 256;
/// Dimensions of the random subspace beyond the rank, and rounds that turn it.
const EXTRA: usize = 32;
const ROUNDS: usize = 3;

/// Which side of a gradient is projected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The longer side is kept.
    Std,
    /// The shorter side is kept.
    ReverseStd,
    /// Columns are projected.
    Right,
    /// Rows are projected.
    Left,
    /// Both are.
    Full,
}

/// A projecting rule.
#[derive(Clone, Debug)]
pub struct GaLore {
    /// What moves the projections, and all that is not projected.
    pub inner: Rule,
    /// Names of the parameters that are projected.
    pub targets: BTreeSet<String>,
    /// Dimensions of the projection.
    pub rank: usize,
    /// Updates that one projector serves.
    pub interval: u64,
    /// Factor on what comes back.
    pub scale: f64,
    /// Which side is projected.
    pub side: Side,
}

/// Names of the projectors: Uᵀ [r, m] and Vᵀ [r, n].
const LEFT: &str = "projector_left";
const RIGHT: &str = "projector_right";

impl GaLore {
    /// (rows are projected, columns are) of a matrix [m, n].
    fn sides(&self, m: usize, n: usize) -> (bool, bool) {
        match self.side {
            Side::Std => (m < n, m >= n),
            Side::ReverseStd => (m >= n, m < n),
            Side::Right => (false, true),
            Side::Left => (true, false),
            Side::Full => (true, true),
        }
    }

    /// (m, n) of a parameter that is projected.
    fn projected(&self, param: &Param) -> Option<(usize, usize)> {
        match *param.value.dims() {
            [m, n] if self.targets.contains(&param.name) => Some((m, n)),
            _ => None,
        }
    }

    /// The inner rule's tensors, of the projected shape, and the projectors.
    #[must_use]
    pub fn layout(&self, param: &Param) -> Vec<Spec> {
        let Some((m, n)) = self.projected(param) else {
            return self.inner.dense_layout(param.value.dims());
        };
        let r = self.rank.min(m).min(n);
        let (left, right) = self.sides(m, n);
        let mut layout =
            self.inner.dense_layout(&[if left { r } else { m }, if right { r } else { n }]);
        layout.extend(left.then(|| Spec::f32(LEFT, &[r, m])));
        layout.extend(right.then(|| Spec::f32(RIGHT, &[r, n])));
        layout
    }

    /// One update of `param` from `grad * clip`; `slots.step` counts it already.
    ///
    /// # Errors
    /// When a tensor cannot be read or written.
    pub fn update(
        &self,
        param: &Param,
        grad: &Tensor,
        slots: &mut Slots,
        clip: f32,
        rate: Rate,
    ) -> Result<()> {
        let undecayed = Rate { weight_decay: 0.0, ..rate };
        let inner = self.inner_at(slots.step);
        let decay = (1.0 - rate.lr * rate.weight_decay) as f32;
        let Some((m, n)) = self.projected(param) else {
            inner.dense_update(&param.value, grad, slots, clip, undecayed)?;
            return if decay == 1.0 {
                Ok(())
            } else {
                moved(&param.value, None, 0.0, (1.0, decay))
            };
        };
        let sides = self.sides(m, n);
        if (slots.step - 1).is_multiple_of(self.interval) {
            self.project_anew(grad, slots, sides)?;
        }
        let low = down(grad, slots, sides)?;
        let step = zeros(low.shape(), low.device())?;
        inner.dense_update(&step, &low, slots, clip, undecayed)?;
        let step = up(&step, slots, sides)?;
        // Only the package's Adafactor decays before it moves.
        let decay = if matches!(inner, Rule::Adafactor) { (decay, 1.0) } else { (1.0, decay) };
        moved(&param.value, Some(&step), self.scale as f32, decay)
    }

    /// The inner rule at update `t`: the package's AdamW adds epsilon before the second moment is
    /// freed from its bias.
    fn inner_at(&self, t: u64) -> Rule {
        match &self.inner {
            Rule::AdamW(a) => {
                let root = (1.0 - a.beta2.powf(t as f64)).sqrt();
                Rule::AdamW(AdamW { eps: a.eps / root, ..*a })
            }
            other => other.clone(),
        }
    }

    fn project_anew(
        &self,
        grad: &Tensor,
        slots: &mut Slots,
        (left, right): (bool, bool),
    ) -> Result<()> {
        let (m, n) = grad.dims2()?;
        let r = self.rank.min(m).min(n);
        let Svd { u_mk, vt_kn, .. } = match m.min(n) <= EXACT {
            true => svd(grad, r)?,
            false => svd_lowrank(grad, r + EXTRA, ROUNDS, 0, slots.step as u32)?,
        };
        let leading = |t: Tensor| Ok::<_, crate::error::Error>(t.narrow(0, 0, r)?.contiguous()?);
        if left {
            slots.set(LEFT, leading(u_mk.t().tensor()?)?)?;
        }
        if right {
            slots.set(RIGHT, leading(vt_kn.tensor()?)?)?;
        }
        Ok(())
    }
}

/// The gradient's projection.
fn down(grad: &Tensor, slots: &Slots, (left, right): (bool, bool)) -> Result<Tensor> {
    let rows = match left {
        true => matmul::input_grad(Precision::F32, None, 1.0, slots.get(LEFT)?, grad)?,
        false => grad.clone(),
    };
    if right { matmul::forward(Precision::F32, &rows, slots.get(RIGHT)?) } else { Ok(rows) }
}

/// What a projected step is in full.
fn up(step: &Tensor, slots: &Slots, (left, right): (bool, bool)) -> Result<Tensor> {
    let wide = match right {
        true => matmul::input_grad(Precision::F32, None, 1.0, step, slots.get(RIGHT)?)?,
        false => step.clone(),
    };
    if !left {
        return Ok(wide);
    }
    let ut_rm = slots.get(LEFT)?;
    let mut full = zeros((ut_rm.dims2()?.1, wide.dims2()?.1), wide.device())?;
    matmul::weight_grad(Precision::F32, &mut full, Into::Overwrite, 1.0, ut_rm, &wide)?;
    Ok(full)
}

/// `p = (p before + scale step) after`.
fn moved(
    param: &Tensor,
    step: Option<&Tensor>,
    scale: f32,
    (before, after): (f32, f32),
) -> Result<()> {
    let Some(step) = step else {
        return update(param, |p| p.par_iter_mut().for_each(|p| *p *= after));
    };
    let step = crate::tensor::view(step)?;
    update(param, |p| {
        p.par_chunks_mut(CHUNK).zip(step.par_chunks(CHUNK)).for_each(|(p, s)| {
            with_simd(
                #[inline(always)]
                || {
                    for (p, s) in p.iter_mut().zip(s) {
                        *p = (*p * before + scale * s) * after;
                    }
                },
            );
        });
    })
}
