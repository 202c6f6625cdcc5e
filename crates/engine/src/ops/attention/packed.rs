//! Attention on the CPU's bf16 unit: a row's keys and values are packed once, for all of its queries, and so
//! is a tile's every operand, in the layout that takes no transposing where there is a choice.
//!
//! Blocks are of 32 queries and 32 keys. Of scores [queries, keys] in f32, rounded to P and dS:
//! o = P v, dq = dS k (queries are lanes), and dvᵀ = doᵀ P, dkᵀ = qᵀ dS (keys are lanes): dk and dv are summed
//! transposed.

use std::cell::Cell;

use super::{Attention, Inputs, Outputs, Results, RowGrads, Task};
use crate::ops::bf16::packed::{BLOCK, Packed, View, begin, multiply};
use crate::ops::bf16::{Form, Limbs};
use crate::ops::columns::Columns;
use crate::ops::mat::Mat;
use crate::ops::matmul::Into;
use crate::simd::with_simd;

/// Query tokens of one tile.
const TILE: usize = 2 * BLOCK;

/// Keys whose scores are held at once on the way back: two tiles of them fit the second cache.
const KEYS: usize = 4 * BLOCK;

/// What tasks work in; each thread keeps one.
#[derive(Default)]
struct Scratch {
    /// Keys and values of the row as lanes, and as terms.
    k: Packed,
    v: Packed,
    k_terms: Packed,
    v_terms: Packed,
    /// A tile's queries and output gradients as lanes, and as terms.
    q: Packed,
    dy: Packed,
    q_terms: Packed,
    dy_terms: Packed,
    /// Probabilities or gradients of scores.
    p: Packed,
    p_terms: Packed,
    /// [queries, keys]: scores, then probabilities; gradients of them.
    s: Vec<f32>,
    ds: Vec<f32>,
    /// [queries, k]: the tile's part of the output, or of q's gradient.
    part: Vec<f32>,
    /// [k, keys] of the row.
    dk: Vec<f32>,
    dv: Vec<f32>,
}

thread_local! {
    static SCRATCH: Cell<Scratch> = Cell::default();
}

impl Scratch {
    /// Keeps it for this thread's next task, unless it has grown large with a row of `tokens`.
    fn put_back(self, tokens: usize) {
        if tokens <= KEPT {
            SCRATCH.set(self);
        }
    }
}

/// Queries that are a task of their own on the way forward: for each, keys and values are packed again.
pub const PIECE: usize = 8 * TILE;

/// Tokens of the longest row after which a thread keeps what it worked in: some ten MiB.
const KEPT: usize = 4096;

/// Part of the output: some queries of one head of one row.
pub fn forward(
    a: &Attention,
    limbs: Limbs,
    Task { head, row, from, end }: Task,
    of: Inputs<'_>,
    to: Results<'_>,
) {
    let (d, width) = (a.head_dim, spread(a.head_dim));
    let mut x = SCRATCH.take();
    let unit = begin();
    let keys = a.head_rows(of.k, a.kv_heads, a.group(head), row, end);
    let values = a.head_rows(of.v, a.kv_heads, a.group(head), row, end);
    x.k.pack(Form::Right, limbs, keys, 1.0);
    x.v_terms.pack(Form::Right, limbs, values.t(), 1.0);
    for from in (from..end).step_by(TILE) {
        let tile = (from, end.min(from + TILE));
        let n = tile.1 - from;
        let (first, last) = seen_blocks(a, tile, row);
        let seen = (last - first) * BLOCK;
        let stride = spread(seen);
        x.q.pack(Form::Left, limbs, a.head_rows(of.q, a.heads, head, from, tile.1), a.scale);
        let blocks = Blocks { tile, row, first, last };
        let s = sized(&mut x.s, TILE * stride);
        blocks.each(|queries, keys, at| {
            let view = x.k.blocks(keys);
            multiply(&unit, x.q.blocks(queries), view, &mut s[at..], stride, Into::Overwrite);
        });
        let (mut totals, mut lse) = ([0f32; TILE], [0f32; TILE]);
        with_simd(
            #[inline(always)]
            || {
                let rows = s.chunks_exact_mut(stride).take(n).enumerate();
                for (i, s) in rows {
                    let seen = a.seen(from + i, row + first * BLOCK);
                    (totals[i], lse[i]) = a.exponentials(s, seen);
                }
            },
        );
        x.p.pack(Form::Left, limbs, Mat::new(s, n, seen, stride), 1.0);
        let part = sized(&mut x.part, TILE * width);
        multiply(&unit, x.p.all(), x.v_terms.steps(first..last), part, width, Into::Overwrite);
        for (i, part) in part.chunks_exact(width).take(n).enumerate() {
            #[expect(unsafe_code, reason = "parts of one matrix are written by several threads")]
            // SAFETY: this head of this row is this task's alone.
            let (o, to) =
                unsafe { (to.o.row(from + i, head * d, d), to.lse.row(from + i, head, 1)) };
            let inverse = 1.0 / totals[i];
            o.iter_mut().zip(part).for_each(|(o, part)| *o = part * inverse);
            to[0] = lse[i];
        }
    }
    drop(unit);
    x.put_back(end - row);
}

/// The gradient of one head of one row: of q into its columns, of k and v by themselves.
pub fn backward(
    a: &Attention,
    limbs: Limbs,
    Task { head, row, end, .. }: Task,
    of: Inputs<'_>,
    out: Outputs<'_>,
    dq: &Columns,
) -> RowGrads {
    let (d, width) = (a.head_dim, spread(a.head_dim));
    let length = spread(end - row);
    let mut x = SCRATCH.take();
    let unit = begin();
    let keys = a.head_rows(of.k, a.kv_heads, a.group(head), row, end);
    let values = a.head_rows(of.v, a.kv_heads, a.group(head), row, end);
    x.k.pack(Form::Right, limbs, keys, 1.0);
    x.v.pack(Form::Right, limbs, values, 1.0);
    x.k_terms.pack(Form::Right, limbs, keys.t(), 1.0);
    let all = d.next_multiple_of(BLOCK) * length;
    let (dk, dv) = (sized(&mut x.dk, all), sized(&mut x.dv, all));
    dk.fill(0.0);
    dv.fill(0.0);
    for from in (row..end).step_by(TILE) {
        let tile = (from, end.min(from + TILE));
        let n = tile.1 - from;
        let queries = a.head_rows(of.q, a.heads, head, from, tile.1);
        let dy = a.head_rows(out.dy, a.heads, head, from, tile.1);
        x.q.pack(Form::Left, limbs, queries, a.scale);
        x.dy.pack(Form::Left, limbs, dy, 1.0);
        x.q_terms.pack(Form::Left, limbs, queries.t(), 1.0);
        x.dy_terms.pack(Form::Left, limbs, dy.t(), 1.0);
        let deltas = deltas(a, tile, head, out);
        let part = sized(&mut x.part, TILE * width);
        let seen = seen_blocks(a, tile, row);
        for first in (seen.0..seen.1).step_by(KEYS / BLOCK) {
            let last = seen.1.min(first + KEYS / BLOCK);
            let held = (last - first) * BLOCK;
            let stride = spread(held);
            let (s, ds) = (sized(&mut x.s, TILE * stride), sized(&mut x.ds, TILE * stride));
            Blocks { tile, row, first, last }.each(|queries, keys, at| {
                let (k, v) = (x.k.blocks(keys.clone()), x.v.blocks(keys));
                let (q, dy) = (x.q.blocks(queries.clone()), x.dy.blocks(queries));
                multiply(&unit, q, k, &mut s[at..], stride, Into::Overwrite);
                multiply(&unit, dy, v, &mut ds[at..], stride, Into::Overwrite);
            });
            with_simd(
                #[inline(always)]
                || {
                    let rows = s.chunks_exact_mut(stride).zip(ds.chunks_exact_mut(stride));
                    for (i, (p, ds)) in rows.take(n).enumerate() {
                        let (low, high) = a.seen(from + i, row + first * BLOCK);
                        let (low, high) = (low.min(held), high.min(held));
                        let lse = out.lse[(from + i) * a.heads + head];
                        a.score_grads(p, ds, (low, high), lse, deltas[i]);
                    }
                },
            );
            let (p, ds) = (Mat::new(s, n, held, stride), Mat::new(ds, n, held, stride));
            let mut add = |of: View<'_>, scores: Mat<'_>, sums: &mut [f32]| {
                x.p_terms.pack(Form::Right, limbs, scores.t(), 1.0);
                let sums = &mut sums[first * BLOCK..];
                multiply(&unit, of, x.p_terms.all(), sums, length, Into::Add);
            };
            add(x.dy_terms.all(), p, dv);
            add(x.q_terms.all(), ds, dk);
            x.p.pack(Form::Left, limbs, ds, 1.0);
            let into = if first == seen.0 { Into::Overwrite } else { Into::Add };
            multiply(&unit, x.p.all(), x.k_terms.steps(first..last), part, width, into);
        }
        for (i, part) in part.chunks_exact(width).take(n).enumerate() {
            #[expect(unsafe_code, reason = "parts of one matrix are written by several threads")]
            // SAFETY: the columns of this head in this row are this task's alone.
            let dq = unsafe { dq.row(from + i, head * d, d) };
            dq.copy_from_slice(&part[..d]);
        }
    }
    let [dk, dv] = [&*dk, &*dv].map(|sums| turned(sums, length, end - row, d));
    drop(unit);
    x.put_back(end - row);
    RowGrads { dk, dv }
}

/// Of each query of a tile, the sum of its output times the output's gradient.
fn deltas(a: &Attention, tile: (usize, usize), head: usize, out: Outputs<'_>) -> [f32; TILE] {
    let mut deltas = [0f32; TILE];
    with_simd(
        #[inline(always)]
        || {
            for (token, delta) in (tile.0..tile.1).zip(&mut deltas) {
                *delta = a.delta(token, head, out);
            }
        },
    );
    deltas
}

/// The row's first block of keys that a tile's queries see, and the one past the last.
fn seen_blocks(a: &Attention, tile: (usize, usize), row: usize) -> (usize, usize) {
    let first = a.first_key(tile.0, row) - row;
    (first / BLOCK, (tile.1 - row).div_ceil(BLOCK))
}

/// Scores of a tile with the row's blocks of keys from `first` to `last`.
struct Blocks {
    tile: (usize, usize),
    row: usize,
    first: usize,
    last: usize,
}

impl Blocks {
    /// Each block of queries (counted from the tile's first), the blocks of keys (from the row's) that any of
    /// them sees, and where their scores begin.
    fn each(&self, mut work: impl FnMut(std::ops::Range<usize>, std::ops::Range<usize>, usize)) {
        let stride = spread((self.last - self.first) * BLOCK);
        for block in 0..(self.tile.1 - self.tile.0).div_ceil(BLOCK) {
            let diagonal = (self.tile.0 - self.row) / BLOCK + block;
            let last = self.last.min(diagonal + 1);
            if self.first < last {
                work(block..block + 1, self.first..last, block * BLOCK * stride);
            }
        }
    }
}

/// From one row of `len` numbers to the next: whole blocks, and an odd number of cache lines, so that the rows of
/// a block lie in different sets of the first cache.
fn spread(len: usize) -> usize {
    len.next_multiple_of(BLOCK) + BLOCK / 2
}

/// The first `len` numbers of a buffer, whatever they are.
fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// The first `rows` columns of the first `cols` rows of a matrix, as rows.
fn turned(x: &[f32], stride: usize, rows: usize, cols: usize) -> Vec<f32> {
    let mut turned = vec![0f32; rows * cols];
    // a few rows at a time, which the first cache holds
    for (i, to) in turned.chunks_mut(BLOCK / 2 * cols).enumerate() {
        for (col, x) in x.chunks_exact(stride).take(cols).enumerate() {
            let x = &x[i * BLOCK / 2..];
            to[col..].iter_mut().step_by(cols).zip(x).for_each(|(to, x)| *to = *x);
        }
    }
    turned
}
