//! Attention in candle tensor operations: the reference, and what runs off the CPU.
//!
//! It does hold a [h, n, n] matrix for each row.

use candle_core::{D, Tensor};

use super::{Attention, Saved};
use crate::error::Result;

/// As [`Attention::forward`].
pub(super) fn forward(
    a: &Attention,
    q_thk: &Tensor,
    k_tgk: &Tensor,
    v_tgk: &Tensor,
    offsets: &[usize],
) -> Result<Saved> {
    let (mut outs, mut lses) = (Vec::new(), Vec::new());
    for row in offsets.windows(2).filter(|w| w[0] < w[1]) {
        let (q, k, v) = row_heads(a, q_thk, k_tgk, v_tgk, row)?;
        let s = masked_scores(a, &q, &k)?;
        let lse = s.log_sum_exp(D::Minus1)?;
        let p = s.broadcast_sub(&lse.unsqueeze(D::Minus1)?)?.exp()?;
        outs.push(p.matmul(&v)?.transpose(0, 1)?.contiguous()?.flatten(1, 2)?);
        lses.push(lse.t()?.contiguous()?);
    }
    Ok(Saved { o_thk: Tensor::cat(&outs, 0)?, lse_th: Tensor::cat(&lses, 0)? })
}

/// As [`Attention::backward`].
pub(super) fn backward(
    a: &Attention,
    do_thk: &Tensor,
    q_thk: &Tensor,
    k_tgk: &Tensor,
    v_tgk: &Tensor,
    saved: &Saved,
    offsets: &[usize],
) -> Result<(Tensor, Tensor, Tensor)> {
    let (mut dqs, mut dks, mut dvs) = (Vec::new(), Vec::new(), Vec::new());
    for row in offsets.windows(2).filter(|w| w[0] < w[1]) {
        let n = row[1] - row[0];
        let (q, k, v) = row_heads(a, q_thk, k_tgk, v_tgk, row)?;
        let heads = |x: &Tensor| -> Result<Tensor> {
            let x = x.narrow(0, row[0], n)?.reshape((n, a.heads, a.head_dim))?;
            Ok(x.transpose(0, 1)?.contiguous()?)
        };
        let (dy, o) = (heads(do_thk)?, heads(&saved.o_thk)?);
        let s = masked_scores(a, &q, &k)?;
        let lse = saved.lse_th.narrow(0, row[0], n)?.t()?.contiguous()?.unsqueeze(D::Minus1)?;
        let p = s.broadcast_sub(&lse)?.exp()?;
        let delta = (&dy * o)?.sum_keepdim(D::Minus1)?;
        let dp = dy.matmul(&v.transpose(1, 2)?.contiguous()?)?;
        let mut ds = ((&p * dp.broadcast_sub(&delta)?)? * f64::from(a.scale))?;
        if let Some(cap) = a.softcap {
            // Where s is -inf, p is 0; clamping keeps 0 * slope finite.
            let capped = (s.clamp(-cap, cap)? / f64::from(cap))?;
            ds = (ds * (1.0 - capped.sqr()?)?)?;
        }
        let flat =
            |x: Tensor| -> Result<Tensor> { Ok(x.transpose(0, 1)?.contiguous()?.flatten(1, 2)?) };
        let grouped = |x: Tensor| -> Result<Tensor> {
            let group = a.heads / a.kv_heads;
            Ok(x.reshape((a.kv_heads, group, n, a.head_dim))?.sum(1)?)
        };
        dqs.push(flat(ds.matmul(&k)?)?);
        dks.push(flat(grouped(ds.transpose(1, 2)?.contiguous()?.matmul(&q)?)?)?);
        dvs.push(flat(grouped(p.transpose(1, 2)?.contiguous()?.matmul(&dy)?)?)?);
    }
    Ok((Tensor::cat(&dqs, 0)?, Tensor::cat(&dks, 0)?, Tensor::cat(&dvs, 0)?))
}

/// One row's q, k, v as [h, n, k]; keys and values repeated for the heads of their group.
fn row_heads(
    a: &Attention,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    row: &[usize],
) -> Result<(Tensor, Tensor, Tensor)> {
    let n = row[1] - row[0];
    let split = |x: &Tensor, heads: usize| -> Result<Tensor> {
        let x = x.narrow(0, row[0], n)?.reshape((n, heads, a.head_dim))?;
        let x = x.transpose(0, 1)?.contiguous()?;
        let group = a.heads / heads;
        let x = x.unsqueeze(1)?.expand((heads, group, n, a.head_dim))?;
        Ok(x.reshape((a.heads, n, a.head_dim))?)
    };
    Ok((split(q, a.heads)?, split(k, a.kv_heads)?, split(v, a.kv_heads)?))
}

/// Capped scores with -inf where a query does not see a key: [h, n, n].
fn masked_scores(a: &Attention, q: &Tensor, k: &Tensor) -> Result<Tensor> {
    let n = q.dim(1)?;
    let mut s = (q.matmul(&k.transpose(1, 2)?.contiguous()?)? * f64::from(a.scale))?;
    if let Some(cap) = a.softcap {
        s = ((s / f64::from(cap))?.tanh()? * f64::from(cap))?;
    }
    let mask: Vec<f32> = (0..n)
        .flat_map(|i| (0..n).map(move |j| j <= i && a.window.is_none_or(|w| i - j < w)))
        .map(|seen| if seen { 0.0 } else { f32::NEG_INFINITY })
        .collect();
    Ok(s.broadcast_add(&Tensor::from_vec(mask, (1, n, n), q.device())?)?)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::ops::bf16::Limbs;
    use crate::ops::matmul::Precision;
    use crate::ops::testing::{close, dot, finite_difference, random};

    /// Heads, key/value heads, head width, window, soft-cap, row offsets.
    type Case = (usize, usize, usize, Option<usize>, Option<f32>, &'static [usize]);

    const CASES: &[Case] = &[
        (1, 1, 4, None, None, &[0, 1]),
        (4, 2, 16, None, None, &[0, 40, 41, 120]),
        (9, 3, 64, None, None, &[0, 200]),
        (4, 4, 8, Some(5), None, &[0, 90, 100]),
        (4, 1, 8, Some(70), Some(3.0), &[0, 150, 150, 160]),
        // more keys than are held at once, of heads that fill no block
        (2, 1, 40, None, None, &[0, 700, 733]),
        (2, 2, 40, Some(530), Some(3.0), &[0, 1100]),
    ];

    /// How products are computed on a CPU, and how far from exact ones that may be.
    const WAYS: &[(Option<Limbs>, f64)] =
        &[(None, 1e-5), (Some(Limbs::Three), 1e-5), (Some(Limbs::One), 1e-2)];

    fn attention(case: usize) -> (Attention, &'static [usize]) {
        let (heads, kv_heads, head_dim, window, softcap, offsets) = CASES[case];
        let scale = 1.0 / (head_dim as f32).sqrt();
        (Attention { heads, kv_heads, head_dim, scale, window, softcap }, offsets)
    }

    fn operands(a: &Attention, t: usize) -> (Tensor, Tensor, Tensor, Tensor) {
        let (q_width, kv_width) = (a.heads * a.head_dim, a.kv_heads * a.head_dim);
        (
            random(1, (t, q_width)),
            random(2, (t, kv_width)),
            random(3, (t, kv_width)),
            random(4, (t, q_width)),
        )
    }

    #[test]
    fn kernel_matches_composed_form() {
        for (case, (limbs, tolerance)) in
            (0..CASES.len()).flat_map(|case| WAYS.iter().map(move |way| (case, *way)))
        {
            let (a, offsets) = attention(case);
            let t = *offsets.last().unwrap();
            let (q, k, v, dy) = operands(&a, t);
            let got = a.forward_here(limbs, (&q, &k, &v), offsets, t).unwrap();
            let want = forward(&a, &q, &k, &v, offsets).unwrap();
            close(&got.o_thk, &want.o_thk, tolerance);
            close(&got.lse_th, &want.lse_th, tolerance);
            let got = a.backward_here(limbs, &dy, (&q, &k, &v), &want, offsets, t).unwrap();
            let want = backward(&a, &dy, &q, &k, &v, &want, offsets).unwrap();
            // beside a tensor of about 1: a row of one token has gradients of 0
            let near = |got: &Tensor, want: &Tensor, one: &Tensor| {
                close(&(got + one).unwrap(), &(want + one).unwrap(), 2.0 * tolerance);
            };
            near(&got.0, &want.0, &q);
            near(&got.1, &want.1, &k);
            close(&got.2, &want.2, 2.0 * tolerance);
        }
    }

    #[test]
    fn gradients_match_finite_differences() {
        for case in [1, 3, 4] {
            let (a, offsets) = attention(case);
            let (q, k, v, dy) = operands(&a, *offsets.last().unwrap());
            let saved = a.forward(Precision::F32, &q, &k, &v, offsets).unwrap();
            let (dq, dk, dv) =
                a.backward(Precision::F32, &dy, &q, &k, &v, &saved, offsets).unwrap();
            let loss = |q: &Tensor, k: &Tensor, v: &Tensor| {
                dot(&a.forward(Precision::F32, q, k, v, offsets).unwrap().o_thk, &dy)
            };
            finite_difference(&q, &dq, 2e-2, |q| loss(q, &k, &v));
            finite_difference(&k, &dk, 2e-2, |k| loss(&q, k, &v));
            finite_difference(&v, &dv, 2e-2, |v| loss(&q, &k, v));
        }
    }

    #[test]
    fn rows_do_not_see_each_other() {
        let (a, _) = attention(1);
        let (q, k, v, _) = operands(&a, 50);
        let both = a.forward(Precision::F32, &q, &k, &v, &[0, 20, 50]).unwrap().o_thk;
        let cut = |x: &Tensor| x.narrow(0, 20, 30).unwrap().contiguous().unwrap();
        let alone =
            a.forward(Precision::F32, &cut(&q), &cut(&k), &cut(&v), &[0, 30]).unwrap().o_thk;
        close(&cut(&both), &alone, 1e-6);
    }
}
