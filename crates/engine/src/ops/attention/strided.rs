//! Attention whose products read q, k and v where they lie.

use super::{Attention, Inputs, Outputs, Results, RowGrads, Task};
use crate::ops::columns::Columns;
use crate::ops::mat::{Mat, Side};
use crate::ops::matmul::{Into, Precision, Threads, product};
use crate::simd::with_simd;

/// Query tokens of one tile.
pub const TILE: usize = 64;

/// Scores of the queries with the keys from `first` on: [end - from, end - first], not yet masked or capped.
fn scores(
    a: &Attention,
    Task { head, from, end, .. }: Task,
    first: usize,
    of: Inputs<'_>,
) -> Vec<f32> {
    let q = a.head_rows(of.q, a.heads, head, from, end);
    let k = a.head_rows(of.k, a.kv_heads, a.group(head), first, end);
    product(Precision::F32, Threads::One, a.scale, Side::Whole(q), Side::Whole(k.t()))
}

/// A tile's part of the output.
pub fn forward(a: &Attention, tile: Task, of: Inputs<'_>, to: Results<'_>) {
    let Task { head, row, from, end } = tile;
    let (n, first) = (end - from, a.first_key(from, row));
    let keys = end - first;
    let mut s = scores(a, tile, first, of);
    let mut lse = vec![0f32; n];
    with_simd(
        #[inline(always)]
        || {
            for (i, (s, lse)) in s.chunks_exact_mut(keys).zip(&mut lse).enumerate() {
                let total;
                (total, *lse) = a.exponentials(s, a.seen(from + i, first));
                let inverse = 1.0 / total;
                s.iter_mut().for_each(|x| *x *= inverse);
            }
        },
    );
    let p = Mat::new(&s, n, keys, keys);
    let v = a.head_rows(of.v, a.kv_heads, a.group(head), first, end);
    let at = (from, head * a.head_dim);
    #[expect(unsafe_code, reason = "parts of one matrix are written by several threads")]
    // SAFETY: this head of these tokens is this tile's alone.
    unsafe {
        to.o.product(Precision::F32, Threads::One, at, Into::Overwrite, 1.0, p, v);
        for (i, lse) in lse.iter().enumerate() {
            to.lse.row(from + i, head, 1)[0] = *lse;
        }
    }
}

/// The gradient of one head of one row: of q into its columns, of k and v by themselves.
pub fn backward(
    a: &Attention,
    task: Task,
    of: Inputs<'_>,
    out: Outputs<'_>,
    dq: &Columns,
) -> RowGrads {
    let Task { head, row, end, .. } = task;
    let (d, group, exact) = (a.head_dim, a.group(head), Precision::F32);
    let (mut dk, mut dv) = (vec![0f32; (end - row) * d], vec![0f32; (end - row) * d]);
    let (to_k, to_v) = (Columns::new(&mut dk, d), Columns::new(&mut dv, d));
    for from in (row..end).step_by(TILE) {
        let tile = Task { from, end: (from + TILE).min(end), ..task };
        let (n, first) = (tile.end - from, a.first_key(from, row));
        let keys = tile.end - first;
        let mut p = scores(a, tile, first, of);
        let dy_tile = a.head_rows(out.dy, a.heads, head, from, tile.end);
        let v_rows = a.head_rows(of.v, a.kv_heads, group, first, tile.end);
        let (dy, v) = (Side::Whole(dy_tile), Side::Whole(v_rows.t()));
        let mut ds = product(exact, Threads::One, 1.0, dy, v);
        with_simd(
            #[inline(always)]
            || {
                let rows = p.chunks_exact_mut(keys).zip(ds.chunks_exact_mut(keys));
                for (i, (p, ds)) in rows.enumerate() {
                    let (token, delta) = (from + i, a.delta(from + i, head, out));
                    let lse = out.lse[token * a.heads + head];
                    a.score_grads(p, ds, a.seen(token, first), lse, delta);
                }
            },
        );
        let (p, ds) = (Mat::new(&p, n, keys, keys), Mat::new(&ds, n, keys, keys));
        let q_tile = a.head_rows(of.q, a.heads, head, from, tile.end);
        let k_rows = a.head_rows(of.k, a.kv_heads, group, first, tile.end);
        let (at, here) = ((first - row, 0), (from, head * d));
        #[expect(unsafe_code, reason = "parts of one matrix are written by several threads")]
        // SAFETY: dk and dv are this task's, and so are the columns of its head in its row of dq.
        unsafe {
            to_v.product(exact, Threads::One, at, Into::Add, 1.0, p.t(), dy_tile);
            to_k.product(exact, Threads::One, at, Into::Add, 1.0, ds.t(), q_tile);
            dq.product(exact, Threads::One, here, Into::Overwrite, 1.0, ds, k_rows);
        }
    }
    RowGrads { dk, dv }
}
