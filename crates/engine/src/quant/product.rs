//! Products with a packed weight, tile by tile: a panel is unpacked into a buffer of the thread and
//! multiplied by the same kernel as a plain weight.
//!
//! Forward, a tile is some rows of the weight, whole, and gives some columns of y. Backward, a tile is
//! some columns and gives some columns of dx; the sum over the weight's rows goes in the steps in which
//! the gemm crate itself cuts a long sum, so that the numbers are those of the unpacked weight. Tiles
//! write columns that no other tile touches; nothing depends on the thread count. Where the CPU's bf16
//! unit computes the product, the weight is a side of it, unpacked where that packs its part.

use std::cell::RefCell;
use std::ops::Range;

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::{Format, Packed};
use crate::error::{Error, Result};
use crate::ops::bf16::{Grain, Lanes, Operand, Part, Tile};
use crate::ops::columns::Columns;
use crate::ops::mat::Mat;
use crate::ops::matmul::{Into, Precision, Threads, same};
use crate::ops::matrix::Matrix;
use crate::simd::{sum_sq, with_simd};
use crate::tensor::{View, from_vec, update, view};

/// Terms of a sum that gemm takes at once: it cuts a longer sum into equal parts of at most this.
const DEPTH: usize = 512;

/// Rows of a forward tile, at most: a multiple of the kernels' heights (24, 48).
const TILE: usize = 96;

/// Numbers of a panel that stay in a core's cache.
const PANEL: usize = 1 << 17;

thread_local! {
    static BUFFER: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Runs `work` on a buffer of this thread with `len` numbers, whatever they are.
fn with_panel<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.len() < len {
            buffer.resize(len, 0.0);
        }
        work(&mut buffer[..len])
    })
}

impl Packed {
    fn unpack(&self, rows: Range<usize>, from: usize, width: usize, out: &mut [f32]) {
        with_simd(
            #[inline(always)]
            || self.unpack_rows(rows, from, width, out),
        );
    }

    /// Rows `rows`, unpacked, [rows, cols].
    ///
    /// # Errors
    /// When they lie outside.
    pub fn dequantise_rows(&self, rows: Range<usize>) -> Result<Vec<f32>> {
        if rows.start > rows.end || rows.end > self.rows {
            return Err(Error::Internal(format!("rows {rows:?} of {}", self.rows)));
        }
        let mut out = vec![0f32; rows.len() * self.cols];
        out.par_chunks_mut(64 * self.cols.max(1)).enumerate().for_each(|(i, part)| {
            let from = rows.start + 64 * i;
            self.unpack(from..from + part.len() / self.cols, 0, self.cols, part);
        });
        Ok(out)
    }

    /// Rows of a forward tile: enough tiles for the threads, and a panel that fits the cache.
    fn tile_rows(&self) -> usize {
        let threads = rayon::current_num_threads();
        let fits = |n: &usize| n * self.cols <= PANEL && self.rows >= n * 2 * threads;
        [TILE, TILE / 2].into_iter().find(fits).unwrap_or(TILE / 4)
    }

    /// Columns of a backward tile: whole blocks, and whole kernels where blocks are small.
    fn tile_cols(&self) -> usize {
        match self.format {
            Format::Q4K | Format::Q5K | Format::Q6K => 256,
            Format::Nf4 | Format::Fp4 => 192,
            _ => TILE,
        }
    }

    /// The elements of [t, width], and t.
    fn operand<'x>(&self, what: &str, x: &'x Tensor, width: usize) -> Result<(View<'x>, usize)> {
        let (t, d) = x.dims2()?;
        same(what, d, width)?;
        match x.device() {
            Device::Cpu => Ok((view(x)?, t)),
            _ => Err(Error::Internal("quantised weights are computed with on the CPU only".into())),
        }
    }

    /// `y_to (+)= x_td wᵀ`, all of it.
    fn product(&self, precision: Precision, x: &[f32], t: usize, y: &Columns, into: Into) {
        let (o, d) = (self.rows, self.cols);
        let x = Mat::new(x, t, d, d);
        if let Some(limbs) = precision.limbs(t, o, d) {
            let (x, w) = (Lanes::rows(x, 1.0), Side { weight: self, lanes: Axis::Rows });
            #[expect(unsafe_code, reason = "parts of one matrix are written by several threads")]
            // SAFETY: y is nobody else's.
            return unsafe { y.product_of(limbs, Threads::Pool, (0, 0), into, &x, &w) };
        }
        let step = self.tile_rows();
        (0..o.div_ceil(step)).into_par_iter().for_each(|tile| {
            let rows = tile * step..o.min((tile + 1) * step);
            with_panel(rows.len() * d, |panel| {
                self.unpack(rows.clone(), 0, d, panel);
                let w = Mat::new(panel, rows.len(), d, d).t();
                let at = (0, rows.start);
                #[expect(unsafe_code, reason = "as above")]
                // SAFETY: tiles have disjoint rows of the weight, which are columns of y.
                unsafe {
                    y.product(Precision::F32, Threads::One, at, into, 1.0, x, w);
                }
            });
        });
    }

    /// `dx_td (+)= scale * dy_to w`, all of it.
    fn product_back(
        &self,
        precision: Precision,
        (dy, t): (&[f32], usize),
        dx: &Columns,
        first: Into,
        scale: f32,
    ) {
        let (o, d, width) = (self.rows, self.cols, self.tile_cols());
        if let Some(limbs) = precision.limbs(t, o, d) {
            let dy = Lanes::rows(Mat::new(dy, t, o, o), scale);
            let w = Side { weight: self, lanes: Axis::Cols };
            #[expect(unsafe_code, reason = "parts of one matrix are written by several threads")]
            // SAFETY: dx is nobody else's.
            return unsafe { dx.product_of(limbs, Threads::Pool, (0, 0), first, &dy, &w) };
        }
        let depth = o.div_ceil(o.div_ceil(DEPTH).max(1)).max(1);
        (0..d.div_ceil(width)).into_par_iter().for_each(|tile| {
            let cols = tile * width..d.min((tile + 1) * width);
            with_panel(depth * cols.len(), |panel| {
                for from in (0..o).step_by(depth) {
                    let rows = from..o.min(from + depth);
                    let panel = &mut panel[..rows.len() * cols.len()];
                    self.unpack(rows.clone(), cols.start, cols.len(), panel);
                    let a = Mat::new(dy.get(from..).unwrap_or(&[]), t, rows.len(), o);
                    let b = Mat::new(panel, rows.len(), cols.len(), cols.len());
                    let (at, into) = ((0, cols.start), if from == 0 { first } else { Into::Add });
                    #[expect(unsafe_code, reason = "as above")]
                    // SAFETY: tiles have disjoint columns of the weight, which are those of dx.
                    unsafe {
                        dx.product(Precision::F32, Threads::One, at, into, scale, a, b);
                    }
                }
            });
        });
    }
}

impl Matrix for Packed {
    fn dims(&self) -> Result<(usize, usize)> {
        Ok((self.rows, self.cols))
    }

    fn forward(&self, precision: Precision, x_td: &Tensor) -> Result<Tensor> {
        let (x, t) = self.operand("input features", x_td, self.cols)?;
        #[expect(unsafe_code, reason = "memory that has not been written yet")]
        // SAFETY: the product is as large as the matrix, overwrites all of it and reads none.
        let y = unsafe {
            Columns::written(t, self.rows, |y| self.product(precision, &x, t, y, Into::Overwrite))
        };
        from_vec(y, (t, self.rows))
    }

    fn forward_add(&self, precision: Precision, y_to: Tensor, x_td: &Tensor) -> Result<Tensor> {
        let (x, t) = self.operand("input features", x_td, self.cols)?;
        same("output elements", y_to.elem_count(), t * self.rows)?;
        update(&y_to, |y| {
            self.product(precision, &x, t, &Columns::new(y, self.rows), Into::Add);
        })?;
        Ok(y_to)
    }

    fn input_grad(
        &self,
        precision: Precision,
        dx_td: Option<Tensor>,
        scale: f32,
        dy_to: &Tensor,
    ) -> Result<Tensor> {
        let (dy, t) = self.operand("output features", dy_to, self.rows)?;
        let fill = |dx: &Columns, into| self.product_back(precision, (&dy, t), dx, into, scale);
        if let Some(dx_td) = dx_td {
            same("input elements", dx_td.elem_count(), t * self.cols)?;
            update(&dx_td, |dx| fill(&Columns::new(dx, self.cols), Into::Add))?;
            return Ok(dx_td);
        }
        #[expect(unsafe_code, reason = "memory that has not been written yet")]
        // SAFETY: as in `forward`.
        let dx = unsafe { Columns::written(t, self.cols, |dx| fill(dx, Into::Overwrite)) };
        from_vec(dx, (t, self.cols))
    }

    fn rows(&self, ids: &[u32], scale: f32) -> Result<Tensor> {
        crate::ops::embedding::check_ids(ids, self.rows)?;
        let mut out = vec![0f32; ids.len() * self.cols];
        with_simd(
            #[inline(always)]
            || {
                self.unpack_rows(ids.iter().map(|id| *id as usize), 0, self.cols, &mut out);
                if scale != 1.0 {
                    out.iter_mut().for_each(|x| *x *= scale);
                }
            },
        );
        from_vec(out, (ids.len(), self.cols))
    }

    fn row_squares(&self) -> Result<Vec<f64>> {
        let square = |row| {
            with_panel(self.cols, |panel| {
                self.unpack(row..row + 1, 0, self.cols, panel);
                with_simd(
                    #[inline(always)]
                    || sum_sq(panel),
                )
            })
        };
        Ok((0..self.rows).into_par_iter().map(square).collect())
    }
}

/// What the lanes of a product are in a weight.
#[derive(Clone, Copy)]
enum Axis {
    /// Its rows: y = x wᵀ.
    Rows,
    /// Its columns: dx = dy w.
    Cols,
}

/// A weight as a side of a product.
struct Side<'a> {
    weight: &'a Packed,
    lanes: Axis,
}

impl Operand for Side<'_> {
    fn lanes(&self) -> usize {
        match self.lanes {
            Axis::Rows => self.weight.rows,
            Axis::Cols => self.weight.cols,
        }
    }

    fn terms(&self) -> usize {
        match self.lanes {
            Axis::Rows => self.weight.cols,
            Axis::Cols => self.weight.rows,
        }
    }

    fn grain(&self) -> Grain {
        let block = self.weight.format.block();
        match self.lanes {
            Axis::Rows => Grain { lanes: 1, terms: block },
            Axis::Cols => Grain { lanes: block, terms: 1 },
        }
    }

    fn pack(&self, part: Part, tiles: &mut [Tile]) {
        let (lanes, terms) = (0..part.lanes.len(), 0..part.terms.len());
        let (rows, cols) = match self.lanes {
            Axis::Rows => (part.lanes, part.terms),
            Axis::Cols => (part.terms, part.lanes),
        };
        let (n, width) = (rows.len(), cols.len());
        with_panel(n * width, |panel| {
            self.weight.unpack(rows, cols.start, width, panel);
            let panel = Mat::new(panel, n, width, width);
            let panel = match self.lanes {
                Axis::Rows => Lanes::rows(panel, 1.0),
                Axis::Cols => Lanes::columns(panel),
            };
            panel.pack(Part { lanes, terms, form: part.form, limbs: part.limbs }, tiles);
        });
    }
}
