//! Causal attention over concatenated rows: grouped queries, block-diagonal by row, optional sliding
//! window and soft-cap. No T x T matrix exists: a task holds [64, keys] scores of one head. Its products are
//! [`packed`], on the CPU's bf16 unit, or [`strided`], where f32 instructions are faster.
//!
//! Per row segment and head: s = scale * q kᵀ (then cap * tanh(s / cap)), p = softmax over the
//! keys j <= i (and j > i - window), o = p v. Saved for backward: lse = log sum exp of each row of s.
//! Backward recomputes p = exp(s - lse); with delta_i = do_i . o_i,
//! dv = pᵀ do, ds = p * (do vᵀ - delta) * scale (* the soft-cap's slope), dq = ds k, dk = dsᵀ q.
//! Source: Dao et al., "FlashAttention", 2022 (the recomputation), Ainslie et al., "GQA", 2023.
//!
//! Shapes: q, o [t, h*k], k, v [t, g*k], lse [t, h]; head a reads key/value head a / (h / g).

use candle_core::Tensor;
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::ops::bf16::Limbs;
use crate::ops::columns::Columns;
use crate::ops::gpu;
use crate::ops::mat::Mat;
use crate::ops::matmul::Precision;
use crate::simd::{exp, max, sum, sum2, tanh};
use crate::tensor::{Place, from_vec, place, view};

pub mod composed;
mod decode;
mod packed;
mod strided;

pub use decode::decode;

/// What does not change from batch to batch.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Factor on q kᵀ, usually 1 / sqrt(head_dim).
    pub scale: f32,
    /// A token sees itself and the `window - 1` before it; None = all before it.
    pub window: Option<usize>,
    /// Scores become cap * tanh(score / cap) (Gemma 2).
    pub softcap: Option<f32>,
}

/// What backward reads besides q, k, v and the output's gradient.
#[derive(Debug)]
pub struct Saved {
    /// The output, [t, h*k].
    pub o_thk: Tensor,
    /// Log of the softmax's denominator, [t, h].
    pub lse_th: Tensor,
}

impl Attention {
    /// Output for rows that begin at `offsets[..n]` and end at `offsets[1..]`.
    ///
    /// # Errors
    /// When shapes or offsets do not fit.
    pub fn forward(
        &self,
        precision: Precision,
        q_thk: &Tensor,
        k_tgk: &Tensor,
        v_tgk: &Tensor,
        offsets: &[usize],
    ) -> Result<Saved> {
        let t = self.check(q_thk, k_tgk, v_tgk, offsets)?;
        match place(q_thk) {
            Place::Host => {}
            Place::Gpu(m) if gpu::attention::supports(self) => {
                return gpu::attention::forward(&*m, self, q_thk, k_tgk, v_tgk, offsets);
            }
            Place::Gpu(_) | Place::Composed => {
                return composed::forward(self, q_thk, k_tgk, v_tgk, offsets);
            }
        }
        self.forward_here(precision.kept(), (q_thk, k_tgk, v_tgk), offsets, t)
    }

    /// On this CPU: through its bf16 unit, where `limbs` says how, else with f32 instructions.
    fn forward_here(
        &self,
        limbs: Option<Limbs>,
        (q_thk, k_tgk, v_tgk): (&Tensor, &Tensor, &Tensor),
        offsets: &[usize],
        t: usize,
    ) -> Result<Saved> {
        let (q, k, v) = (view(q_thk)?, view(k_tgk)?, view(v_tgk)?);
        let width = self.heads * self.head_dim;
        let mut lse = vec![0f32; t * self.heads];
        let lse_to = Columns::new(&mut lse, self.heads);
        let of = Inputs { q: &q, k: &k, v: &v };
        #[expect(unsafe_code, reason = "memory that has not been written yet")]
        // SAFETY: the tasks are every head of every token, and each overwrites its part.
        let o = unsafe {
            Columns::written(t, width, |to| {
                let to = Results { o: to, lse: &lse_to };
                match limbs {
                    Some(limbs) => self
                        .pieces(offsets, packed::PIECE)
                        .into_par_iter()
                        .for_each(|task| packed::forward(self, limbs, task, of, to)),
                    None => self
                        .pieces(offsets, strided::TILE)
                        .into_par_iter()
                        .for_each(|task| strided::forward(self, task, of, to)),
                }
            })
        };
        Ok(Saved { o_thk: from_vec(o, (t, width))?, lse_th: from_vec(lse, (t, self.heads))? })
    }

    /// Gradients of q, k and v.
    ///
    /// # Errors
    /// When shapes or offsets do not fit.
    #[expect(clippy::too_many_arguments, reason = "the operands of one op")]
    pub fn backward(
        &self,
        precision: Precision,
        do_thk: &Tensor,
        q_thk: &Tensor,
        k_tgk: &Tensor,
        v_tgk: &Tensor,
        saved: &Saved,
        offsets: &[usize],
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let t = self.check(q_thk, k_tgk, v_tgk, offsets)?;
        match place(q_thk) {
            Place::Host => {}
            Place::Gpu(m) if gpu::attention::supports(self) => {
                let (q, k, v) = (q_thk, k_tgk, v_tgk);
                return gpu::attention::backward(&*m, self, do_thk, q, k, v, saved, offsets);
            }
            Place::Gpu(_) | Place::Composed => {
                return composed::backward(self, do_thk, q_thk, k_tgk, v_tgk, saved, offsets);
            }
        }
        let inputs = (q_thk, k_tgk, v_tgk);
        self.backward_here(precision.kept(), do_thk, inputs, saved, offsets, t)
    }

    /// As [`Attention::forward_here`].
    fn backward_here(
        &self,
        limbs: Option<Limbs>,
        do_thk: &Tensor,
        (q_thk, k_tgk, v_tgk): (&Tensor, &Tensor, &Tensor),
        saved: &Saved,
        offsets: &[usize],
        t: usize,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let (q, k, v) = (view(q_thk)?, view(k_tgk)?, view(v_tgk)?);
        let (dy, o, lse) = (view(do_thk)?, view(&saved.o_thk)?, view(&saved.lse_th)?);
        let (width, kv_width) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let of = Inputs { q: &q, k: &k, v: &v };
        let out = Outputs { dy: &dy, o: &o, lse: &lse };
        let mut parts = Vec::new();
        #[expect(unsafe_code, reason = "memory that has not been written yet")]
        // SAFETY: the tasks are every head of every row, and each overwrites its columns of it.
        let dq = unsafe {
            Columns::written(t, width, |to| {
                let grads = |task: Task| match limbs {
                    Some(limbs) => packed::backward(self, limbs, task, of, out, to),
                    None => strided::backward(self, task, of, out, to),
                };
                let task = |task: Task| (task.row, task.head, grads(task));
                self.tasks(offsets).into_par_iter().map(task).collect_into_vec(&mut parts);
            })
        };
        // The gradients of k and v are summed over a task's own tiles in order, and over the heads of a
        // group here, in order.
        parts.sort_by_key(|(from, head, _)| (*from, *head));
        let (dk, dv) = self.sum_groups(&parts, t);
        Ok((from_vec(dq, (t, width))?, from_vec(dk, (t, kv_width))?, from_vec(dv, (t, kv_width))?))
    }

    /// Every head of every row, the longest rows first: that balances the threads.
    fn tasks(&self, offsets: &[usize]) -> Vec<Task> {
        let rows = offsets.windows(2).filter(|w| w[0] < w[1]);
        let mut tasks: Vec<Task> = rows
            .flat_map(|w| {
                (0..self.heads).map(move |head| Task { head, row: w[0], from: w[0], end: w[1] })
            })
            .collect();
        tasks.sort_by_key(|task| std::cmp::Reverse(task.end - task.row));
        tasks
    }

    /// As [`Attention::tasks`], of at most `size` queries each: those that see most keys first.
    fn pieces(&self, offsets: &[usize], size: usize) -> Vec<Task> {
        let mut pieces: Vec<Task> = self
            .tasks(offsets)
            .into_iter()
            .flat_map(|task| {
                (task.from..task.end).step_by(size).map(move |from| Task {
                    from,
                    end: task.end.min(from + size),
                    ..task
                })
            })
            .collect();
        pieces.sort_by_key(|piece| std::cmp::Reverse(piece.end - piece.row));
        pieces
    }

    /// Gradients of k and v, of the parts of all rows and heads, in that order.
    fn sum_groups(&self, parts: &[(usize, usize, RowGrads)], t: usize) -> (Vec<f32>, Vec<f32>) {
        let (d, width) = (self.head_dim, self.kv_heads * self.head_dim);
        let (mut dk, mut dv) = (vec![0f32; t * width], vec![0f32; t * width]);
        let (to_k, to_v) = (Columns::new(&mut dk, width), Columns::new(&mut dv, width));
        parts.par_chunks(self.heads / self.kv_heads).for_each(|group| {
            for (from, head, grads) in group {
                for (to, part) in [(&to_k, &grads.dk), (&to_v, &grads.dv)] {
                    for (i, part) in part.chunks_exact(d).enumerate() {
                        #[expect(unsafe_code, reason = "columns of one matrix, by several threads")]
                        // SAFETY: a chunk is one group of heads of one row: this is its alone.
                        let sums = unsafe { to.row(from + i, self.group(*head) * d, d) };
                        sums.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
                    }
                }
            }
        });
        (dk, dv)
    }

    /// The first key of the row that query token `i` sees.
    #[inline(always)]
    fn first_key(&self, i: usize, row: usize) -> usize {
        self.window.map_or(row, |w| row.max((i + 1).saturating_sub(w)))
    }

    /// Keys that query token `i` sees of those from `first` on, counted from there: none where it comes
    /// before them.
    #[inline(always)]
    fn seen(&self, i: usize, first: usize) -> (usize, usize) {
        let high = (i + 1).saturating_sub(first);
        ((self.first_key(i, first) - first).min(high), high)
    }

    /// `cap * tanh(score / cap)` of scores.
    #[inline(always)]
    fn cap(&self, scores: &mut [f32]) {
        if let Some(cap) = self.softcap {
            scores.iter_mut().for_each(|s| *s = cap * tanh(*s / cap));
        }
    }

    /// Turns scores of one query into what its probabilities are proportional to, and returns the sum of that and
    /// the log of the softmax's denominator.
    #[inline(always)]
    fn exponentials(&self, s: &mut [f32], (low, high): (usize, usize)) -> (f32, f32) {
        s[..low].fill(0.0);
        s[high..].fill(0.0);
        let s = &mut s[low..high];
        self.cap(s);
        let peak = max(s);
        s.iter_mut().for_each(|x| *x = exp(*x - peak));
        let total = sum(s);
        (total, peak + total.ln())
    }

    /// The sum of a query's output times the output's gradient.
    #[inline(always)]
    fn delta(&self, token: usize, head: usize, out: Outputs<'_>) -> f32 {
        let at = (token * self.heads + head) * self.head_dim;
        sum2(&out.dy[at..at + self.head_dim], &out.o[at..at + self.head_dim], |dy, o| dy * o)
    }

    /// Turns scores into probabilities and their gradients into gradients of q kᵀ, for one query.
    #[inline(always)]
    fn score_grads(
        &self,
        p: &mut [f32],
        ds: &mut [f32],
        (low, high): (usize, usize),
        lse: f32,
        delta: f32,
    ) {
        for part in [0..low, high..p.len()] {
            p[part.clone()].fill(0.0);
            ds[part].fill(0.0);
        }
        self.cap(&mut p[low..high]);
        let scores = p[low..high].iter_mut().zip(&mut ds[low..high]);
        match self.softcap {
            None => {
                for (p, ds) in scores {
                    *p = exp(*p - lse);
                    *ds = *p * (*ds - delta) * self.scale;
                }
            }
            Some(cap) => {
                for (p, ds) in scores {
                    let slope = 1.0 - (*p / cap) * (*p / cap);
                    *p = exp(*p - lse);
                    *ds = *p * (*ds - delta) * self.scale * slope;
                }
            }
        }
    }

    fn group(&self, head: usize) -> usize {
        head / (self.heads / self.kv_heads)
    }

    /// Tokens `from..to` of one head of a [t, heads * head_dim] slice.
    fn head_rows<'a>(
        &self,
        x: &'a [f32],
        heads: usize,
        head: usize,
        from: usize,
        to: usize,
    ) -> Mat<'a> {
        let width = heads * self.head_dim;
        let start = from * width + head * self.head_dim;
        Mat::new(&x[start..], to - from, self.head_dim, width)
    }

    fn check(&self, q: &Tensor, k: &Tensor, v: &Tensor, offsets: &[usize]) -> Result<usize> {
        let (t, q_width) = q.dims2()?;
        let kv = (t, self.kv_heads * self.head_dim);
        let rising = offsets.windows(2).all(|w| w[0] <= w[1]);
        let spans = offsets.first() == Some(&0) && offsets.last() == Some(&t);
        let heads = self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads);
        let fits = q_width == self.heads * self.head_dim && k.dims2()? == kv && v.dims2()? == kv;
        if rising && spans && heads && fits && self.window != Some(0) {
            return Ok(t);
        }
        Err(Error::Internal(format!(
            "attention: q {:?} k {:?} v {:?} rows {offsets:?} do not fit {self:?}",
            q.dims(),
            k.dims(),
            v.dims()
        )))
    }
}

/// Queries of one head of one row.
#[derive(Clone, Copy)]
struct Task {
    head: usize,
    /// The row's first token.
    row: usize,
    /// The first query, and the one past the last. The way back takes all of a row's.
    from: usize,
    end: usize,
}

/// Where forward writes to.
#[derive(Clone, Copy)]
struct Results<'a> {
    o: &'a Columns,
    lse: &'a Columns,
}

/// What both directions read of the whole micro-batch.
#[derive(Clone, Copy)]
struct Inputs<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
}

/// What backward reads besides.
#[derive(Clone, Copy)]
struct Outputs<'a> {
    dy: &'a [f32],
    o: &'a [f32],
    lse: &'a [f32],
}

/// Gradients of k and v of one head of one row, [n, k].
struct RowGrads {
    dk: Vec<f32>,
    dv: Vec<f32>,
}
