//! Output head and loss in one: the logits exist for a chunk of labelled tokens at a time.
//!
//! loss = sum over the labelled tokens of (lse(z) - z[target]), z = h w_vdᵀ (soft-capped for
//! Gemma 2), or what [`Objective`] makes of it. Going forward the chunk's gradient
//! dz = (softmax(z) - onehot) * scale is made at once and multiplied into the gradients of h and w:
//! no [n, v] matrix is ever kept.
//! Shapes: h [n, d] holds only the tokens whose next token carries a label.

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::ops::gpu;
use crate::ops::matmul::{self, Into, Precision};
use crate::ops::matrix::Matrix;
use crate::simd::{exp, max, sum, tanh, with_simd};
use crate::tensor::{Place, from_vec, on_host, place, update, view};

/// Logits (chunk x v) that one chunk may hold.
const CHUNK_LOGITS: usize = 8 << 20;

/// The head's fixed parts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Head {
    /// Logits become cap * tanh(z / cap).
    pub softcap: Option<f32>,
    /// What is minimised.
    pub objective: Objective,
    /// What its products' operands are rounded to.
    pub precision: Precision,
}

/// What a labelled token costs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Objective {
    /// Its cross-entropy c.
    #[default]
    CrossEntropy,
    /// (1 - e) c + e times the mean of the negative log-probabilities of all tokens
    /// (transformers' `LabelSmoother`).
    Smoothed(f32),
    /// c times the target's probability, which counts as a constant (DFT; Wu et al., 2025).
    Dft,
}

impl Objective {
    /// (a, b, c): the gradient in the logits is a softmax(z) - b onehot - c, for a token whose target
    /// has probability p, among `v` logits.
    fn weights(self, p: f64, v: usize) -> (f64, f64, f64) {
        match self {
            Self::CrossEntropy => (1.0, 1.0, 0.0),
            Self::Smoothed(e) => (1.0, 1.0 - f64::from(e), f64::from(e) / v as f64),
            Self::Dft => (p, p, 0.0),
        }
    }

    /// The cost of a token with cross-entropy `c`, where the mean logit is `below` under lse(z).
    fn cost(self, c: f64, below: f64) -> f64 {
        match self {
            Self::CrossEntropy => c,
            Self::Smoothed(e) => (1.0 - f64::from(e)) * c + f64::from(e) * below,
            Self::Dft => c * (-c).exp(),
        }
    }
}

/// Where the head's weight gradient goes.
#[derive(Debug)]
pub enum WeightGrad<'a> {
    /// The weight is frozen.
    None,
    /// Added to this tensor; `Overwrite` where it holds nothing yet.
    To(&'a mut Tensor, Into),
}

/// What one pass over labelled tokens yields.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    /// Sum of what is minimised: cross-entropies in nats, unless the objective is another.
    pub sum: f64,
    /// Sum of cross-entropies, nats.
    pub plain: f64,
    /// Tokens whose largest logit is the target.
    pub correct: usize,
}

impl Head {
    /// Loss alone.
    ///
    /// # Errors
    /// When a target lies outside the vocabulary.
    pub fn loss(&self, h_nd: &Tensor, w_vd: &dyn Matrix, targets: &[u32]) -> Result<Loss> {
        let mut total = Loss::default();
        for (from, n) in chunks(h_nd, w_vd, targets)? {
            let z = self.logits(&h_nd.narrow(0, from, n)?, w_vd)?;
            let (loss, _) = self.cross_entropy(z, &targets[from..from + n], None)?;
            total.sum += loss.sum;
            total.plain += loss.plain;
            total.correct += loss.correct;
        }
        Ok(total)
    }

    /// Loss, and the gradient of `scale * loss.sum` in h; that of w goes where `dw` says.
    ///
    /// # Errors
    /// When a target lies outside the vocabulary.
    pub fn loss_and_grad(
        &self,
        h_nd: &Tensor,
        w_vd: &dyn Matrix,
        targets: &[u32],
        scale: f32,
        mut dw: WeightGrad<'_>,
    ) -> Result<(Loss, Tensor)> {
        let mut total = Loss::default();
        let mut dh = Vec::new();
        for (from, n) in chunks(h_nd, w_vd, targets)? {
            let h = h_nd.narrow(0, from, n)?;
            let z = self.logits(&h, w_vd)?;
            let (loss, dz) = self.cross_entropy(z, &targets[from..from + n], Some(scale))?;
            total.sum += loss.sum;
            total.plain += loss.plain;
            total.correct += loss.correct;
            dh.push(w_vd.input_grad(self.precision, None, 1.0, &dz)?);
            if let WeightGrad::To(grad, into) = &mut dw {
                matmul::weight_grad(self.precision, grad, *into, 1.0, &dz, &h)?;
                *into = Into::Add;
            }
        }
        let dh = match dh.len() {
            0 => h_nd.zeros_like()?,
            1 => dh.remove(0),
            _ => Tensor::cat(&dh, 0)?,
        };
        Ok((total, dh))
    }

    /// Logits [n, v], soft-capped.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn logits(&self, h_nd: &Tensor, w_vd: &dyn Matrix) -> Result<Tensor> {
        let z = w_vd.forward(self.precision, h_nd)?;
        let Some(cap) = self.softcap else {
            return Ok(z);
        };
        match place(&z) {
            Place::Host => {}
            Place::Gpu(m) => return gpu::head::softcap(&*m, &z, cap),
            Place::Composed => return Ok(((z / f64::from(cap))?.tanh()? * f64::from(cap))?),
        }
        update(&z, |z| {
            z.par_chunks_mut(crate::simd::CHUNK).for_each(|z| {
                with_simd(
                    #[inline(always)]
                    || z.iter_mut().for_each(|z| *z = cap * tanh(*z / cap)),
                );
            });
        })?;
        Ok(z)
    }

    /// Loss of the chunk and, for a scale, the logits turned into their gradients.
    fn cross_entropy(
        &self,
        z_nv: Tensor,
        targets: &[u32],
        scale: Option<f32>,
    ) -> Result<(Loss, Tensor)> {
        match place(&z_nv) {
            Place::Host => {}
            Place::Gpu(m) => return gpu::head::cross_entropy(&*m, self, &z_nv, targets, scale),
            Place::Composed => return self.cross_entropy_composed(&z_nv, targets, scale),
        }
        let (_, v) = z_nv.dims2()?;
        let head = *self;
        let rows: Vec<RowLoss> = update(&z_nv, |z| {
            z.par_chunks_exact_mut(v)
                .zip(targets.par_iter())
                .map(|(z, target)| {
                    with_simd(
                        #[inline(always)]
                        || head.row_loss(z, *target as usize, scale),
                    )
                })
                .collect()
        })?;
        let loss = Loss {
            sum: rows.iter().map(|r| r.cost).sum(),
            plain: rows.iter().map(|r| r.plain).sum(),
            correct: rows.iter().filter(|r| r.correct).count(),
        };
        Ok((loss, z_nv))
    }

    fn cross_entropy_composed(
        &self,
        z_nv: &Tensor,
        targets: &[u32],
        scale: Option<f32>,
    ) -> Result<(Loss, Tensor)> {
        let index = Tensor::new(targets, z_nv.device())?.unsqueeze(1)?;
        let lse = z_nv.log_sum_exp(1)?.unsqueeze(1)?;
        let losses = (&lse - z_nv.gather(&index, 1)?)?;
        let plain = f64::from(losses.sum_all()?.to_scalar::<f32>()?);
        let below = (&lse - z_nv.mean_keepdim(1)?)?;
        let p_target = losses.neg()?.exp()?;
        let costs = match self.objective {
            Objective::CrossEntropy => losses,
            Objective::Smoothed(e) => ((losses * f64::from(1.0 - e))? + (below * f64::from(e))?)?,
            Objective::Dft => (losses * &p_target)?,
        };
        let sum = f64::from(costs.sum_all()?.to_scalar::<f32>()?);
        let best = z_nv.argmax_keepdim(1)?;
        let correct = best.eq(&index)?.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?;
        let loss = Loss { sum, plain, correct: correct as usize };
        let Some(scale) = scale else {
            return Ok((loss, z_nv.clone()));
        };
        let p = z_nv.broadcast_sub(&lse)?.exp()?;
        let (_, b, c) = self.objective.weights(1.0, z_nv.dims2()?.1);
        let ones = (index.ones_like()?.to_dtype(DType::F32)? * -b)?;
        let mut dz = ((p.scatter_add(&index, &ones, 1)? - c)? * f64::from(scale))?;
        if self.objective == Objective::Dft {
            dz = dz.broadcast_mul(&p_target)?;
        }
        if let Some(cap) = self.softcap {
            dz = (dz * (1.0 - (z_nv / f64::from(cap))?.sqr()?)?)?;
        }
        Ok((loss, dz))
    }
}

/// What one token costs.
struct RowLoss {
    cost: f64,
    plain: f64,
    correct: bool,
}

impl Head {
    /// The loss of one token; with a scale, `z` becomes its gradient.
    #[inline(always)]
    fn row_loss(&self, z: &mut [f32], target: usize, scale: Option<f32>) -> RowLoss {
        let (v, peak, picked) = (z.len(), max(z), z[target]);
        let mean = match self.objective {
            Objective::Smoothed(_) => {
                z.chunks(4096).map(|part| f64::from(sum(part))).sum::<f64>() / v as f64
            }
            _ => 0.0,
        };
        // Without a cap z may become its own exponentials at once: the cap's slope needs z itself.
        let in_place = self.softcap.is_none() || scale.is_none();
        let total = if in_place { exponentials(z, peak) } else { exponential_sum(z, peak) };
        let lse = f64::from(peak) + total.ln();
        let plain = f64::from(peak - picked) + total.ln();
        if let Some(scale) = scale {
            let (a, b, c) = self.objective.weights((-plain).exp(), v);
            let factor = (f64::from(scale) * a / total) as f32;
            let (b, c) = ((f64::from(scale) * b) as f32, (f64::from(scale) * c) as f32);
            let slope = |x: f32| self.softcap.map_or(1.0, |cap| 1.0 - (x / cap) * (x / cap));
            if in_place {
                z.iter_mut().for_each(|x| *x = *x * factor - c);
            } else {
                z.iter_mut().for_each(|x| *x = (exp(*x - peak) * factor - c) * slope(*x));
            }
            z[target] -= b * slope(picked);
        }
        let cost = self.objective.cost(plain, lse - mean);
        RowLoss { cost, plain, correct: picked >= peak }
    }
}

/// Turns z into e^(z - peak); returns their sum.
#[inline(always)]
fn exponentials(z: &mut [f32], peak: f32) -> f64 {
    let mut total = 0f64;
    for part in z.chunks_mut(4096) {
        part.iter_mut().for_each(|x| *x = exp(*x - peak));
        total += f64::from(sum(part));
    }
    total
}

/// The sum of e^(z - peak), z left as it is.
#[inline(always)]
fn exponential_sum(z: &[f32], peak: f32) -> f64 {
    let mut total = 0f64;
    for part in z.chunks(4096) {
        let mut lanes = [0f32; 16];
        for (i, x) in part.iter().enumerate() {
            lanes[i % 16] += exp(*x - peak);
        }
        total += f64::from(sum(&lanes));
    }
    total
}

/// (first token, count) of each chunk, after checking the targets.
fn chunks(h_nd: &Tensor, w_vd: &dyn Matrix, targets: &[u32]) -> Result<Vec<(usize, usize)>> {
    let ((n, _), (v, _)) = (h_nd.dims2()?, w_vd.dims()?);
    if n != targets.len() {
        return Err(Error::Internal(format!("head: {n} tokens, {} targets", targets.len())));
    }
    if let Some(target) = targets.iter().find(|t| **t as usize >= v) {
        return Err(Error::input(
            format!("label {target}"),
            format!("lies outside the model's vocabulary of {v}"),
        ));
    }
    let size = (CHUNK_LOGITS / v.max(1)).clamp(16, 1024);
    Ok((0..n).step_by(size).map(|from| (from, size.min(n - from))).collect())
}

/// Rows `index` of x [t, d]: what the head sees of the last hidden states.
///
/// # Errors
/// When x cannot be read.
pub fn gather_rows(x_td: &Tensor, index: &[u32]) -> Result<Tensor> {
    let (_, d) = x_td.dims2()?;
    if !on_host(x_td) {
        return Ok(x_td.index_select(&Tensor::new(index, x_td.device())?, 0)?);
    }
    let x = view(x_td)?;
    let mut out = Vec::with_capacity(index.len() * d);
    for i in index {
        out.extend_from_slice(&x[*i as usize * d..][..d]);
    }
    from_vec(out, (index.len(), d))
}

/// The transpose of [`gather_rows`]: a [t, d] tensor with `rows` at `index` and 0 elsewhere.
///
/// # Errors
/// When rows cannot be read.
pub fn scatter_rows(rows_nd: &Tensor, index: &[u32], t: usize) -> Result<Tensor> {
    let (_, d) = rows_nd.dims2()?;
    if !on_host(rows_nd) {
        let zeros = Tensor::zeros((t, d), DType::F32, rows_nd.device())?;
        return Ok(zeros.index_add(&Tensor::new(index, rows_nd.device())?, rows_nd, 0)?);
    }
    let rows = view(rows_nd)?;
    let mut out = vec![0f32; t * d];
    for (i, row) in index.iter().zip(rows.chunks_exact(d)) {
        out[*i as usize * d..][..d].copy_from_slice(row);
    }
    from_vec(out, (t, d))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::ops::testing::{close, finite_difference, random};

    const OBJECTIVES: [Objective; 3] =
        [Objective::CrossEntropy, Objective::Smoothed(0.1), Objective::Dft];

    #[test]
    fn loss_and_gradients_match_composed_and_finite_differences() {
        for (n, d, v, softcap) in [(1, 4, 5, None), (40, 16, 300, None), (7, 8, 33, Some(4.0))] {
            for objective in OBJECTIVES {
                check(&Head { softcap, objective, ..Head::default() }, n, d, v);
            }
        }
    }

    fn check(head: &Head, n: usize, d: usize, v: usize) {
        let (h, w) = (random(1, (n, d)), random(2, (v, d)));
        let targets: Vec<u32> = (0..n as u32).map(|i| (i * 7) % v as u32).collect();
        let z = head.logits(&h, &w).unwrap();
        let (want, dz) = head.cross_entropy_composed(&z, &targets, Some(0.25)).unwrap();
        let mut dw = random(3, (v, d));
        let to = WeightGrad::To(&mut dw, Into::Overwrite);
        let (got, dh) = head.loss_and_grad(&h, &w, &targets, 0.25, to).unwrap();
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-4 * b.abs(), "{head:?}: {a} {b}");
        near(got.sum, want.sum);
        near(got.plain, want.plain);
        assert_eq!(got.correct, want.correct);
        let alone = head.loss(&h, &w, &targets).unwrap();
        near(alone.sum, want.sum);
        close(&dh, &dz.matmul(&w).unwrap(), 1e-5);
        close(&dw, &dz.t().unwrap().matmul(&h).unwrap(), 1e-5);
        // DFT's weights are constants to its gradient: they stay at h while the loss moves.
        let weights = |h: &Tensor| -> Vec<f64> {
            let one = |i: usize| {
                let loss = head.loss(&h.narrow(0, i, 1).unwrap(), &w, &targets[i..=i]);
                (-loss.unwrap().plain).exp()
            };
            (0..n).map(one).collect()
        };
        let held = weights(&h);
        finite_difference(&h, &dh, 2e-2, |moved| match head.objective {
            Objective::Dft => {
                let costs = weights(moved).into_iter().map(|p| -p.ln());
                0.25 * costs.zip(&held).map(|(c, p)| c * p).sum::<f64>()
            }
            _ => 0.25 * head.loss(moved, &w, &targets).unwrap().sum,
        });
    }

    #[test]
    fn objectives_of_a_known_token() {
        // z = [0, 1, 2], target 1: lse = 2.40760596
        let z = from_vec(vec![0.0, 1.0, 2.0], (1, 3)).unwrap();
        let identity = from_vec(vec![1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0], (3, 3)).unwrap();
        for (objective, cost) in OBJECTIVES.into_iter().zip([
            1.407_605_964_4,
            // 0.9 * 1.40760596 + 0.1 * (2.40760596 - 1)
            1.407_605_964_4,
            // 1.40760596 * e^-1.40760596
            1.407_605_964_4 * 0.244_728_471_1,
        ]) {
            let head = Head { objective, ..Head::default() };
            let loss = head.loss(&z, &identity, &[1]).unwrap();
            assert!((loss.sum - cost).abs() < 1e-6, "{objective:?}: {}", loss.sum);
            assert!((loss.plain - 1.407_605_964_4).abs() < 1e-6);
        }
        let head = Head { objective: Objective::Smoothed(0.3), ..Head::default() };
        let loss = head.loss(&z, &identity, &[0]).unwrap();
        assert!((loss.sum - (0.7 * 2.407_605_964_4 + 0.3 * 1.407_605_964_4)).abs() < 1e-6);
    }

    #[test]
    fn chunking_does_not_change_the_result() {
        let (n, d, v) = (100, 4, 600_000);
        let (h, w) = (random(1, (n, d)), random(2, (v, d)));
        let targets = vec![5u32; n];
        let head = Head::default();
        let (loss, dh) = head.loss_and_grad(&h, &w, &targets, 1.0, WeightGrad::None).unwrap();
        let one = |i: usize| {
            let h = h.narrow(0, i, 1).unwrap();
            head.loss_and_grad(&h, &w, &targets[..1], 1.0, WeightGrad::None).unwrap()
        };
        // 600,000 f32 terms summed in another order.
        close(&dh.narrow(0, 99, 1).unwrap(), &one(99).1, 2e-3);
        let sum: f64 = (0..n).map(|i| one(i).0.sum).sum();
        assert!((loss.sum - sum).abs() < 1e-5 * sum);
        assert!(head.loss(&h, &w, &vec![v as u32; n]).is_err());
    }

    #[test]
    fn gather_and_scatter_are_transposes() {
        let x = random(1, (6, 3));
        let rows = gather_rows(&x, &[4, 1]).unwrap();
        close(&rows.narrow(0, 1, 1).unwrap(), &x.narrow(0, 1, 1).unwrap(), 0.0);
        let back = scatter_rows(&rows, &[4, 1], 6).unwrap();
        close(&back.narrow(0, 4, 1).unwrap(), &x.narrow(0, 4, 1).unwrap(), 0.0);
        assert!(view(&back).unwrap()[..3].iter().all(|v| *v == 0.0));
    }
}
