//! Causal attention over concatenated rows: grouped queries, block-diagonal by row, optional sliding
//! window and soft-cap. No T x T matrix exists: a task holds [64, keys] scores of one head.
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
use crate::ops::columns::Columns;
use crate::ops::gpu;
use crate::ops::matmul::{Into, Mat, Precision, Threads, product};
use crate::simd::{exp, max, sum, tanh, with_simd};
use crate::tensor::{Place, from_vec, place, view};

pub mod composed;
mod decode;

pub use decode::decode;

/// Query tokens of one tile.
const TILE: usize = 64;

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

/// A tile of queries of one head in one row.
#[derive(Clone, Copy)]
struct Tile {
    head: usize,
    /// First token of the row.
    row: usize,
    /// First and past-the-last query token.
    from: usize,
    to: usize,
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
        let (q, k, v) = (view(q_thk)?, view(k_tgk)?, view(v_tgk)?);
        let width = self.heads * self.head_dim;
        let mut lse = vec![0f32; t * self.heads];
        let lse_to = Columns::new(&mut lse, self.heads);
        let of = Inputs { precision, q: &q, k: &k, v: &v };
        #[expect(unsafe_code, reason = "memory that has not been written yet")]
        // SAFETY: the tiles are every head of every token, and each overwrites its part.
        let o = unsafe {
            Columns::written(t, width, |to| {
                let tiles = self.tiles(offsets);
                tiles.into_par_iter().for_each(|tile| self.forward_tile(tile, of, to, &lse_to));
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
        let (q, k, v) = (view(q_thk)?, view(k_tgk)?, view(v_tgk)?);
        let (dy, o, lse) = (view(do_thk)?, view(&saved.o_thk)?, view(&saved.lse_th)?);
        let (width, kv_width) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        // One task a (row, head): its gradients of k and v are summed over its own tiles in order,
        // and over the heads of a group below, in order.
        let mut tasks: Vec<(usize, usize, usize)> = offsets
            .windows(2)
            .filter(|w| w[0] < w[1])
            .flat_map(|w| (0..self.heads).map(move |head| (w[0], w[1], head)))
            .collect();
        tasks.sort_by_key(|(from, to, _)| std::cmp::Reverse(to - from));
        let of = Inputs { precision, q: &q, k: &k, v: &v };
        let out = Outputs { dy: &dy, o: &o, lse: &lse };
        let mut parts = Vec::new();
        #[expect(unsafe_code, reason = "memory that has not been written yet")]
        // SAFETY: the tasks are every head of every row, and each overwrites its columns of it.
        let dq = unsafe {
            Columns::written(t, width, |to| {
                let task = |(from, end, head)| {
                    (from, head, self.backward_row(head, from, end, of, out, to))
                };
                tasks.into_par_iter().map(task).collect_into_vec(&mut parts);
            })
        };
        parts.sort_by_key(|(from, head, _)| (*from, *head));
        let (dk, dv) = self.sum_groups(&parts, t);
        Ok((from_vec(dq, (t, width))?, from_vec(dk, (t, kv_width))?, from_vec(dv, (t, kv_width))?))
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

    fn tiles(&self, offsets: &[usize]) -> Vec<Tile> {
        let mut tiles = Vec::new();
        for row in offsets.windows(2) {
            // Later tiles see more keys: largest first balances the threads.
            for from in (row[0]..row[1]).step_by(TILE).rev() {
                let to = (from + TILE).min(row[1]);
                tiles.extend((0..self.heads).map(|head| Tile { head, row: row[0], from, to }));
            }
        }
        tiles
    }

    /// First key that any query of the tile sees.
    fn first_key(&self, tile: &Tile) -> usize {
        self.window.map_or(tile.row, |w| tile.row.max((tile.from + 1).saturating_sub(w)))
    }

    /// Capped scores of the tile: [to - from, to - first], unseen keys not yet masked.
    fn scores(&self, tile: &Tile, first: usize, of: Inputs<'_>) -> Vec<f32> {
        let a = self.head_rows(of.q, self.heads, tile.head, tile.from, tile.to);
        let b = self.head_rows(of.k, self.kv_heads, self.group(tile.head), first, tile.to);
        let mut s = product(of.precision, Threads::One, self.scale, a, b.t());
        if let Some(cap) = self.softcap {
            with_simd(
                #[inline(always)]
                || s.iter_mut().for_each(|s| *s = cap * tanh(*s / cap)),
            );
        }
        s
    }

    fn forward_tile(&self, tile: Tile, of: Inputs<'_>, o: &Columns, lse_to: &Columns) {
        let (n, first) = (tile.to - tile.from, self.first_key(&tile));
        let keys = tile.to - first;
        let mut s = self.scores(&tile, first, of);
        let mut lse = vec![0f32; n];
        with_simd(
            #[inline(always)]
            || {
                for (i, (s, lse)) in s.chunks_exact_mut(keys).zip(&mut lse).enumerate() {
                    let (low, high) = self.seen(tile.from + i, first);
                    let peak = max(&s[low..high]);
                    s[..low].fill(0.0);
                    s[high..].fill(0.0);
                    for x in &mut s[low..high] {
                        *x = exp(*x - peak);
                    }
                    let total = sum(&s[low..high]);
                    let inverse = 1.0 / total;
                    for x in &mut s[low..high] {
                        *x *= inverse;
                    }
                    *lse = peak + total.ln();
                }
            },
        );
        let p = Mat::new(&s, n, keys, keys);
        let b = self.head_rows(of.v, self.kv_heads, self.group(tile.head), first, tile.to);
        let at = (tile.from, tile.head * self.head_dim);
        #[expect(unsafe_code, reason = "parts of one matrix are written by several threads")]
        // SAFETY: this head of these tokens is this tile's alone.
        unsafe {
            o.product(of.precision, Threads::One, at, Into::Overwrite, 1.0, p, b);
            for (i, lse) in lse.iter().enumerate() {
                lse_to.row(tile.from + i, tile.head, 1)[0] = *lse;
            }
        }
    }

    /// Keys (counted from `first`) that query token `i` sees.
    #[inline(always)]
    fn seen(&self, i: usize, first: usize) -> (usize, usize) {
        let low = self.window.map_or(0, |w| (i + 1).saturating_sub(w).saturating_sub(first));
        (low, i + 1 - first)
    }

    /// The gradient of one head of one row: of q into its columns, of k and v by themselves.
    fn backward_row(
        &self,
        head: usize,
        row: usize,
        end: usize,
        of: Inputs<'_>,
        out: Outputs<'_>,
        dq: &Columns,
    ) -> RowGrads {
        let (d, Inputs { precision, q, k, v }, Outputs { dy, o, lse }) = (self.head_dim, of, out);
        let (mut dk, mut dv) = (vec![0f32; (end - row) * d], vec![0f32; (end - row) * d]);
        let (to_k, to_v) = (Columns::new(&mut dk, d), Columns::new(&mut dv, d));
        let group = self.group(head);
        for from in (row..end).step_by(TILE) {
            let tile = Tile { head, row, from, to: (from + TILE).min(end) };
            let (n, first) = (tile.to - from, self.first_key(&tile));
            let keys = tile.to - first;
            let mut p = self.scores(&tile, first, of);
            let dy_tile = self.head_rows(dy, self.heads, head, from, tile.to);
            let v_rows = self.head_rows(v, self.kv_heads, group, first, tile.to);
            let mut ds = product(precision, Threads::One, 1.0, dy_tile, v_rows.t());
            with_simd(
                #[inline(always)]
                || {
                    for (i, (p, ds)) in
                        p.chunks_exact_mut(keys).zip(ds.chunks_exact_mut(keys)).enumerate()
                    {
                        let token = from + i;
                        let at = (token * self.heads + head) * d;
                        let delta =
                            crate::simd::sum2(&dy[at..at + d], &o[at..at + d], |a, b| a * b);
                        let seen = self.seen(token, first);
                        self.score_grads(p, ds, seen, lse[token * self.heads + head], delta);
                    }
                },
            );
            let (p, ds) = (Mat::new(&p, n, keys, keys), Mat::new(&ds, n, keys, keys));
            let q_tile = self.head_rows(q, self.heads, head, from, tile.to);
            let k_rows = self.head_rows(k, self.kv_heads, group, first, tile.to);
            let seen = (first - row, 0);
            #[expect(unsafe_code, reason = "parts of one matrix are written by several threads")]
            // SAFETY: dk and dv are this task's, and so are the columns of its head in its row of dq.
            unsafe {
                to_v.product(precision, Threads::One, seen, Into::Add, 1.0, p.t(), dy_tile);
                to_k.product(precision, Threads::One, seen, Into::Add, 1.0, ds.t(), q_tile);
                dq.product(
                    precision,
                    Threads::One,
                    (from, head * d),
                    Into::Overwrite,
                    1.0,
                    ds,
                    k_rows,
                );
            }
        }
        RowGrads { dk, dv }
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

/// What both directions read of the whole micro-batch.
#[derive(Clone, Copy)]
struct Inputs<'a> {
    precision: Precision,
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

struct RowGrads {
    dk: Vec<f32>,
    dv: Vec<f32>,
}
