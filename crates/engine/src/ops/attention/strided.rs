//! Attention whose products read q, k and v where they lie.

use super::{Attention, Inputs, Outputs, Results, RowGrads, Task};
use crate::ops::columns::Columns;
use crate::ops::matmul::{Into, Mat, Precision, Threads, product};
use crate::simd::{exp, max, sum, sum2, with_simd};

/// Query tokens of one tile.
const TILE: usize = 64;

/// A tile of queries of one head in one row.
#[derive(Clone, Copy)]
pub struct Tile {
    head: usize,
    /// First token of the row.
    row: usize,
    /// First and past-the-last query token.
    from: usize,
    to: usize,
}

/// Every tile of every row and head.
pub fn tiles(a: &Attention, offsets: &[usize]) -> Vec<Tile> {
    let mut tiles = Vec::new();
    for row in offsets.windows(2) {
        // Later tiles see more keys: largest first balances the threads.
        for from in (row[0]..row[1]).step_by(TILE).rev() {
            let to = (from + TILE).min(row[1]);
            tiles.extend((0..a.heads).map(|head| Tile { head, row: row[0], from, to }));
        }
    }
    tiles
}

/// Capped scores of the tile: [to - from, to - first], unseen keys not yet masked.
fn scores(a: &Attention, tile: &Tile, first: usize, of: Inputs<'_>) -> Vec<f32> {
    let q = a.head_rows(of.q, a.heads, tile.head, tile.from, tile.to);
    let k = a.head_rows(of.k, a.kv_heads, a.group(tile.head), first, tile.to);
    let mut s = product(Precision::F32, Threads::One, a.scale, q, k.t());
    with_simd(
        #[inline(always)]
        || a.cap(&mut s),
    );
    s
}

/// The tile's part of the output.
pub fn forward(a: &Attention, tile: Tile, of: Inputs<'_>, to: Results<'_>) {
    let (n, first) = (tile.to - tile.from, a.first_key(tile.from, tile.row));
    let keys = tile.to - first;
    let mut s = scores(a, &tile, first, of);
    let mut lse = vec![0f32; n];
    with_simd(
        #[inline(always)]
        || {
            for (i, (s, lse)) in s.chunks_exact_mut(keys).zip(&mut lse).enumerate() {
                let (low, high) = a.seen(tile.from + i, first);
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
    let v = a.head_rows(of.v, a.kv_heads, a.group(tile.head), first, tile.to);
    let at = (tile.from, tile.head * a.head_dim);
    #[expect(unsafe_code, reason = "parts of one matrix are written by several threads")]
    // SAFETY: this head of these tokens is this tile's alone.
    unsafe {
        to.o.product(Precision::F32, Threads::One, at, Into::Overwrite, 1.0, p, v);
        for (i, lse) in lse.iter().enumerate() {
            to.lse.row(tile.from + i, tile.head, 1)[0] = *lse;
        }
    }
}

/// The gradient of one head of one row: of q into its columns, of k and v by themselves.
pub fn backward(
    a: &Attention,
    Task { head, row, end, .. }: Task,
    of: Inputs<'_>,
    out: Outputs<'_>,
    dq: &Columns,
) -> RowGrads {
    let (d, group, exact) = (a.head_dim, a.group(head), Precision::F32);
    let (mut dk, mut dv) = (vec![0f32; (end - row) * d], vec![0f32; (end - row) * d]);
    let (to_k, to_v) = (Columns::new(&mut dk, d), Columns::new(&mut dv, d));
    for from in (row..end).step_by(TILE) {
        let tile = Tile { head, row, from, to: (from + TILE).min(end) };
        let (n, first) = (tile.to - from, a.first_key(from, row));
        let keys = tile.to - first;
        let mut p = scores(a, &tile, first, of);
        let dy_tile = a.head_rows(out.dy, a.heads, head, from, tile.to);
        let v_rows = a.head_rows(of.v, a.kv_heads, group, first, tile.to);
        let mut ds = product(exact, Threads::One, 1.0, dy_tile, v_rows.t());
        with_simd(
            #[inline(always)]
            || {
                let rows = p.chunks_exact_mut(keys).zip(ds.chunks_exact_mut(keys));
                for (i, (p, ds)) in rows.enumerate() {
                    let (token, at) = (from + i, a.at(from + i, head));
                    let (dy, o) = (&out.dy[at..at + d], &out.o[at..at + d]);
                    let delta = sum2(dy, o, |dy, o| dy * o);
                    let lse = out.lse[token * a.heads + head];
                    a.score_grads(p, ds, a.seen(token, first), lse, delta);
                }
            },
        );
        let (p, ds) = (Mat::new(&p, n, keys, keys), Mat::new(&ds, n, keys, keys));
        let q_tile = a.head_rows(of.q, a.heads, head, from, tile.to);
        let k_rows = a.head_rows(of.k, a.kv_heads, group, first, tile.to);
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
