//! Products with a packed weight, tile by tile: a panel is unpacked into a buffer of the thread and
//! multiplied by the same kernel as a plain weight.
//!
//! Forward, a tile is some rows of the weight, whole, and gives some columns of y. Backward, a tile is
//! some columns and gives some columns of dx; the sum over the weight's rows goes in the steps in which
//! the gemm crate itself cuts a long sum, so that the numbers are those of the unpacked weight. Tiles
//! write columns that no other tile touches; nothing depends on the thread count.

use std::cell::RefCell;
use std::ops::Range;

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::{Format, Packed};
use crate::error::{Error, Result};
use crate::ops::bf16::{self, Form, Grain, Lanes, Limbs, Operand, Tile};
use crate::ops::columns::Columns;
use crate::ops::matmul::{Into, Mat, Precision, same};
use crate::ops::matrix::Matrix;
use crate::simd::{sum_sq, with_simd};
use crate::tensor::{from_vec, update, view};

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

    /// `y_to (+)= x_td wᵀ`.
    fn product(
        &self,
        precision: Precision,
        x_td: &Tensor,
        y: &mut [f32],
        into: Into,
    ) -> Result<()> {
        let (t, d) = x_td.dims2()?;
        same("input features", d, self.cols)?;
        self.on_cpu(x_td)?;
        let x = view(x_td)?;
        let o = self.rows;
        if let Some(limbs) = precision.limbs(t, o, d) {
            let x = Lanes::rows(Mat::new(&x, t, d, d), 1.0);
            bf16::product_in(limbs, y, o, into, &x, &Rows(self));
            return Ok(());
        }
        let (columns, step) = (Columns::new(y, o), self.tile_rows());
        (0..o.div_ceil(step)).into_par_iter().for_each(|tile| {
            let rows = tile * step..o.min((tile + 1) * step);
            with_panel(rows.len() * d, |panel| {
                self.unpack(rows.clone(), 0, d, panel);
                let (a, b) = (Mat::new(&x, t, d, d), Mat::new(panel, rows.len(), d, d).t());
                #[expect(
                    unsafe_code,
                    reason = "tiles of one matrix are written by several threads"
                )]
                // SAFETY: tiles have disjoint rows of the weight, which are columns of y.
                unsafe {
                    columns.product(Precision::F32, (0, rows.start), into, 1.0, a, b);
                }
            });
        });
        Ok(())
    }

    fn on_cpu(&self, x: &Tensor) -> Result<()> {
        match x.device() {
            Device::Cpu => Ok(()),
            _ => Err(Error::Internal("quantised weights are computed with on the CPU only".into())),
        }
    }
}

impl Matrix for Packed {
    fn dims(&self) -> Result<(usize, usize)> {
        Ok((self.rows, self.cols))
    }

    fn forward(&self, precision: Precision, x_td: &Tensor) -> Result<Tensor> {
        let mut y = vec![0f32; x_td.dim(0)? * self.rows];
        self.product(precision, x_td, &mut y, Into::Overwrite)?;
        from_vec(y, (x_td.dim(0)?, self.rows))
    }

    fn forward_add(&self, precision: Precision, y_to: Tensor, x_td: &Tensor) -> Result<Tensor> {
        same("output elements", y_to.elem_count(), x_td.dim(0)? * self.rows)?;
        update(&y_to, |y| self.product(precision, x_td, y, Into::Add))??;
        Ok(y_to)
    }

    fn input_grad(
        &self,
        precision: Precision,
        dx_td: Option<Tensor>,
        scale: f32,
        dy_to: &Tensor,
    ) -> Result<Tensor> {
        let (t, o) = dy_to.dims2()?;
        same("output features", o, self.rows)?;
        self.on_cpu(dy_to)?;
        let dy = view(dy_to)?;
        let (d, width) = (self.cols, self.tile_cols());
        let depth = o.div_ceil(o.div_ceil(DEPTH).max(1)).max(1);
        let fill = |dx: &mut [f32], first: Into| {
            if let Some(limbs) = precision.limbs(t, o, d) {
                let dy = Lanes::rows(Mat::new(&dy, t, o, o), scale);
                return bf16::product_in(limbs, dx, d, first, &dy, &Cols(self));
            }
            let columns = Columns::new(dx, d);
            (0..d.div_ceil(width)).into_par_iter().for_each(|tile| {
                let cols = tile * width..d.min((tile + 1) * width);
                with_panel(depth * cols.len(), |panel| {
                    for from in (0..o).step_by(depth) {
                        let rows = from..o.min(from + depth);
                        let panel = &mut panel[..rows.len() * cols.len()];
                        self.unpack(rows.clone(), cols.start, cols.len(), panel);
                        let a = Mat::new(&dy[from..], t, rows.len(), o);
                        let b = Mat::new(panel, rows.len(), cols.len(), cols.len());
                        let into = if from == 0 { first } else { Into::Add };
                        #[expect(unsafe_code, reason = "as above")]
                        // SAFETY: tiles have disjoint columns of the weight, which are those of dx.
                        unsafe {
                            columns.product(Precision::F32, (0, cols.start), into, scale, a, b);
                        }
                    }
                });
            });
        };
        if let Some(dx_td) = dx_td {
            update(&dx_td, |dx| fill(dx, Into::Add))?;
            return Ok(dx_td);
        }
        let mut dx = vec![0f32; t * d];
        fill(&mut dx, Into::Overwrite);
        from_vec(dx, (t, d))
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

/// A weight's rows as the lanes of a product: y = x wᵀ.
struct Rows<'a>(&'a Packed);

impl Operand for Rows<'_> {
    fn lanes(&self) -> usize {
        self.0.rows
    }

    fn terms(&self) -> usize {
        self.0.cols
    }

    fn grain(&self) -> Grain {
        Grain { lanes: 1, terms: self.0.format.block() }
    }

    fn pack(
        &self,
        form: Form,
        limbs: Limbs,
        lanes: Range<usize>,
        terms: Range<usize>,
        tiles: &mut [Tile],
    ) {
        let (n, width) = (lanes.len(), terms.len());
        with_panel(n * width, |panel| {
            self.0.unpack(lanes, terms.start, width, panel);
            let panel = Lanes::rows(Mat::new(panel, n, width, width), 1.0);
            panel.pack(form, limbs, 0..n, 0..width, tiles);
        });
    }
}

/// A weight's columns as the lanes of a product: dx = dy w.
struct Cols<'a>(&'a Packed);

impl Operand for Cols<'_> {
    fn lanes(&self) -> usize {
        self.0.cols
    }

    fn terms(&self) -> usize {
        self.0.rows
    }

    fn grain(&self) -> Grain {
        Grain { lanes: self.0.format.block(), terms: 1 }
    }

    fn pack(
        &self,
        form: Form,
        limbs: Limbs,
        lanes: Range<usize>,
        terms: Range<usize>,
        tiles: &mut [Tile],
    ) {
        let (n, width) = (terms.len(), lanes.len());
        with_panel(n * width, |panel| {
            self.0.unpack(terms, lanes.start, width, panel);
            let panel = Lanes::columns(Mat::new(panel, n, width, width));
            panel.pack(form, limbs, 0..width, 0..n, tiles);
        });
    }
}
