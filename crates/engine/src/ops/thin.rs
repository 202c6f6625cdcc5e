//! Products with a thin side, which is what adapters of low rank are made of: with AVX-512's f32 instructions,
//! in one pass over the long matrix.
//!
//! Packing a matrix of thousands of columns for a product that reads each number of it eight times costs more
//! than the product. Only thin matrices are copied here. There are three kinds, of a long matrix `x_td` and thin
//! ones of r rows or columns:
//!
//! - dots: `u_tr = x_td a_rdᵀ` (the adapter's first half, and the gradient of what it hands on),
//! - gathers: `g_rd (+)= u_trᵀ x_td` (the gradients of both matrices),
//! - spreads: `y_td (+)= u_tr a_rd` (the adapter's second half, and the gradient of the input).
//!
//! Work is split over t (dots, spreads) or d (gathers), and each element is summed by one task in one order:
//! results do not depend on the threads.

use std::arch::x86_64::{
    __m256, __m512, __mmask16, _mm_add_ps, _mm_storeu_ps, _mm256_add_ps, _mm256_castps256_ps128,
    _mm256_extractf128_ps, _mm256_hadd_ps, _mm512_castpd_ps, _mm512_castpd256_pd512,
    _mm512_castps_pd, _mm512_castps512_ps256, _mm512_extractf64x4_pd, _mm512_fmadd_ps,
    _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_set1_ps,
    _mm512_setzero_ps,
};
use std::ops::Range;

use rayon::prelude::*;

use super::bf16::mask;
use super::columns::Columns;
use super::mat::Mat;
use super::matmul::Into;
use crate::simd::LANES;

/// Rows, columns or terms of a product that is thin, at most: the usual rank of LoRA. From 16 on, the CPU's bf16
/// unit is faster, which multiplies sixteen in the time of one.
const THIN: usize = 8;

/// Long rows of a task.
const ROWS: usize = 24;

/// Registers of a row that a gather sums at once, for each of the thin rows.
const WIDE: usize = 3;

/// Rows that a gather goes through before it turns to the next columns: their lines stay in the first cache.
const DEEP: usize = 16;

/// How a product is thin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Few columns, of long rows.
    Dots,
    /// Few rows (or columns), summed over many rows.
    Gather,
    /// Few terms.
    Spread,
}

impl Kind {
    /// What the product of `a` and `b` is; `None`: not thin, or its long matrix does not lie row by row, or this
    /// CPU has not the instructions.
    #[must_use]
    pub fn of(a: &Mat<'_>, b: &Mat<'_>) -> Option<Self> {
        /// Less than that is not long.
        const LONG: usize = 48;
        let (m, n, k) = (a.rows(), b.cols(), a.cols());
        let (a_rows, a_cols) = (a.strides().1 == 1, a.strides().0 == 1);
        let kind = match () {
            () if k <= THIN && m.min(n) >= LONG => Self::Spread,
            () if n <= THIN && m.min(k) >= LONG && a_rows => Self::Dots,
            () if n <= THIN && m.min(k) >= LONG && a_cols => Self::Gather,
            () if m <= THIN && n.min(k) >= LONG && b.strides().1 == 1 => Self::Gather,
            () => return None,
        };
        (m * n * k > 0 && std::arch::is_x86_feature_detected!("avx512f")).then_some(kind)
    }
}

/// A matrix whose rows lie side by side, as whole registers, filled up to a multiple of [`THIN`] rows with 0.
struct Thin {
    data: Vec<f32>,
    /// Elements from a row to the next.
    stride: usize,
}

impl Thin {
    fn zeros(rows: usize, cols: usize) -> Self {
        let stride = cols.next_multiple_of(LANES);
        Self { data: vec![0.0; rows.next_multiple_of(THIN) * stride], stride }
    }

    fn pack(of: Mat<'_>, scale: f32) -> Self {
        let mut thin = Self::zeros(of.rows(), of.cols());
        let stride = thin.stride;
        match of.strides() {
            (_, 1) => {
                for (i, row) in thin.data.chunks_exact_mut(stride).take(of.rows()).enumerate() {
                    let row = &mut row[..of.cols()];
                    row.iter_mut().zip(of.from(i, 0)).for_each(|(to, x)| *to = scale * x);
                }
            }
            (step, _) => {
                for j in 0..of.cols() {
                    let column = of.from(0, j).iter().step_by(step);
                    let to = thin.data[j..].iter_mut().step_by(stride);
                    to.zip(column).take(of.rows()).for_each(|(to, x)| *to = scale * x);
                }
            }
        }
        thin
    }

    /// A row from `col` on.
    fn at(&self, row: usize, col: usize) -> *const f32 {
        self.data[row * self.stride + col..].as_ptr()
    }
}

/// The part of `to` from `at` on `(+)= scale * a b`.
///
/// # Safety
/// As [`Columns::product`]; and the operands fit each other and are of this kind.
#[expect(unsafe_code, reason = "parts of a matrix are written by several threads")]
pub(crate) unsafe fn product(
    kind: Kind,
    to: &Columns,
    at: (usize, usize),
    into: Into,
    scale: f32,
    a: Mat<'_>,
    b: Mat<'_>,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match kind {
            Kind::Dots => dots(to, at, into, a, (b.cols(), &Thin::pack(b.t(), scale))),
            Kind::Spread => {
                spread(to, at, into, (a, &Thin::pack(a, scale)), (b, &Thin::pack(b, 1.0)))
            }
            Kind::Gather if b.cols() < a.rows() => {
                let sums = gather((b.cols(), &Thin::pack(b, scale)), a.t());
                put(to, at, into, Mat::new(&sums.data, b.cols(), a.rows(), sums.stride).t());
            }
            Kind::Gather => {
                let sums = gather((a.rows(), &Thin::pack(a.t(), scale)), b);
                put(to, at, into, Mat::new(&sums.data, a.rows(), b.cols(), sums.stride));
            }
        }
    }
}

/// Runs tasks, on several threads where the product is worth waking them.
fn tasks(count: usize, products: usize, task: impl Fn(usize) + Sync + Send) {
    const WORTH_WAKING: usize = 1 << 20;
    match products {
        ..WORTH_WAKING => (0..count).for_each(task),
        _ => (0..count).into_par_iter().for_each(task),
    }
}

/// `u_tr (+)= x_td a_rdᵀ`.
#[expect(unsafe_code, reason = "as above")]
unsafe fn dots(
    to: &Columns,
    (row, col): (usize, usize),
    into: Into,
    x: Mat<'_>,
    (r, a): (usize, &Thin),
) {
    const TOGETHER: usize = 3;
    tasks(x.rows().div_ceil(ROWS), x.rows() * x.cols() * r, |task| {
        let rows = task * ROWS..x.rows().min((task + 1) * ROWS);
        for first in rows.clone().step_by(TOGETHER) {
            // a row that is not there is another one again
            let at = |i: usize| x.from((first + i).min(rows.end - 1), 0).as_ptr();
            let from = [at(0), at(1), at(2)];
            // SAFETY: rows of x, and the rows of the result that are this task's.
            unsafe {
                let sums = dot_rows(from, x.cols(), a);
                for (i, sums) in sums.iter().enumerate().take(rows.end - first) {
                    let to = to.row(row + first + i, col, r);
                    for (to, sum) in to.iter_mut().zip(sums) {
                        *to = if into == Into::Add { *to + sum } else { *sum };
                    }
                }
            }
        }
    });
}

/// The products of three long rows and the thin ones.
#[expect(unsafe_code, reason = "vector instructions")]
#[target_feature(enable = "avx512f")]
unsafe fn dot_rows(x: [*const f32; 3], cols: usize, thin: &Thin) -> [[f32; THIN]; 3] {
    let (rows, stride) = (&thin.data[..THIN * thin.stride], thin.stride);
    let mut sums = [[_mm512_setzero_ps(); THIN]; 3];
    for d in (0..cols).step_by(LANES) {
        // SAFETY: the long rows are read up to their ends, and the thin ones are whole registers.
        unsafe {
            let x = x.map(|x| _mm512_maskz_loadu_ps(mask(cols - d), x.add(d)));
            for r in 0..THIN {
                let a = _mm512_loadu_ps(rows.as_ptr().add(r * stride + d));
                for (sums, x) in sums.iter_mut().zip(&x) {
                    sums[r] = _mm512_fmadd_ps(*x, a, sums[r]);
                }
            }
        }
    }
    sums.map(|sums| fold(sums))
}

/// The sums of eight registers' numbers.
#[target_feature(enable = "avx512f")]
fn fold(of: [__m512; THIN]) -> [f32; THIN] {
    let halves: [__m256; THIN] = of.map(|x| {
        let upper = _mm512_castpd_ps(_mm512_castpd256_pd512(_mm512_extractf64x4_pd::<1>(
            _mm512_castps_pd(x),
        )));
        _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_castps512_ps256(upper))
    });
    // neighbours are added, of two registers at a time
    let pairs: [__m256; 4] =
        std::array::from_fn(|i| _mm256_hadd_ps(halves[2 * i], halves[2 * i + 1]));
    let fours: [__m256; 2] =
        std::array::from_fn(|i| _mm256_hadd_ps(pairs[2 * i], pairs[2 * i + 1]));
    // 128 bits of each hold half of the sums of four
    let sum = |x: __m256| _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let mut out = [0f32; THIN];
    for (out, four) in out.as_chunks_mut::<4>().0.iter_mut().zip(fours) {
        #[expect(unsafe_code, reason = "vector instructions")]
        // SAFETY: four numbers.
        unsafe {
            _mm_storeu_ps(out.as_mut_ptr(), sum(four));
        }
    }
    out
}

/// `y_td (+)= u_tr a_rd`.
#[expect(unsafe_code, reason = "as above")]
unsafe fn spread(
    to: &Columns,
    (row, col): (usize, usize),
    into: Into,
    (u, u_thin): (Mat<'_>, &Thin),
    (a, a_thin): (Mat<'_>, &Thin),
) {
    const TOGETHER: usize = 4;
    tasks(u.rows().div_ceil(ROWS), u.rows() * u.cols() * a.cols(), |task| {
        let rows = task * ROWS..u.rows().min((task + 1) * ROWS);
        for first in rows.clone().step_by(TOGETHER) {
            // SAFETY: rows that are this task's, each once.
            unsafe {
                let y = |i: usize| to.row(row + first + i, col, a.cols()).as_mut_ptr();
                let u_at = |i: usize| u_thin.at(first + i, 0);
                if rows.end - first >= TOGETHER {
                    let y = [y(0), y(1), y(2), y(3)];
                    let u_at = [u_at(0), u_at(1), u_at(2), u_at(3)];
                    spread_rows(y, into, u_at, u.cols(), a.cols(), a_thin);
                } else {
                    for i in 0..rows.end - first {
                        spread_rows([y(i)], into, [u_at(i)], u.cols(), a.cols(), a_thin);
                    }
                }
            }
        }
    });
}

/// Some rows of a spread.
#[expect(unsafe_code, reason = "vector instructions")]
#[target_feature(enable = "avx512f")]
unsafe fn spread_rows<const N: usize>(
    y: [*mut f32; N],
    into: Into,
    u: [*const f32; N],
    terms: usize,
    cols: usize,
    a: &Thin,
) {
    for d in (0..cols).step_by(2 * LANES) {
        let masks = [mask(cols - d), mask((cols - d).saturating_sub(LANES))];
        // SAFETY: loads and stores are masked to the rows' elements, and a row of u has sixteen.
        unsafe {
            let mut sums = [[_mm512_setzero_ps(); 2]; N];
            if into == Into::Add {
                for (sums, y) in sums.iter_mut().zip(y) {
                    *sums = load(masks, y.wrapping_add(d));
                }
            }
            for r in 0..terms {
                let row = a.at(r, d);
                let a = load(masks, row);
                for (sums, u) in sums.iter_mut().zip(u) {
                    let u = _mm512_set1_ps(*u.add(r));
                    sums[0] = _mm512_fmadd_ps(u, a[0], sums[0]);
                    sums[1] = _mm512_fmadd_ps(u, a[1], sums[1]);
                }
            }
            for (sums, y) in sums.iter().zip(y) {
                store(masks, y.wrapping_add(d), *sums);
            }
        }
    }
}

/// Registers from `from` on, where the masks have it.
#[expect(unsafe_code, reason = "vector instructions")]
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load<const N: usize>(masks: [__mmask16; N], from: *const f32) -> [__m512; N] {
    let mut registers = [_mm512_setzero_ps(); N];
    for (i, register) in registers.iter_mut().enumerate() {
        // SAFETY: the caller's, who says what may be read.
        *register = unsafe { _mm512_maskz_loadu_ps(masks[i], from.wrapping_add(i * LANES)) };
    }
    registers
}

/// As [`load`].
#[expect(unsafe_code, reason = "vector instructions")]
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store<const N: usize>(masks: [__mmask16; N], to: *mut f32, registers: [__m512; N]) {
    for (i, register) in registers.iter().enumerate() {
        // SAFETY: the caller's, who says what may be written.
        unsafe { _mm512_mask_storeu_ps(to.wrapping_add(i * LANES), masks[i], *register) };
    }
}

/// `u_trᵀ x_td`, r rows of d.
#[expect(unsafe_code, reason = "as above")]
unsafe fn gather((r, u): (usize, &Thin), x: Mat<'_>) -> Thin {
    let d = x.cols();
    let mut sums = Thin::zeros(r, d);
    let stride = sums.stride;
    let to = Columns::new(&mut sums.data, stride);
    let units = d.div_ceil(WIDE * LANES);
    let width = units.div_ceil(2 * rayon::current_num_threads()).min(11) * WIDE * LANES;
    tasks(d.div_ceil(width), x.rows() * d * r, |task| {
        let cols = task * width..d.min((task + 1) * width);
        for top in (0..x.rows()).step_by(DEEP) {
            let rows = top..x.rows().min(top + DEEP);
            for col in cols.clone().step_by(WIDE * LANES) {
                let (x, rows) = ((x.from(top, col), x.strides().0), rows.clone());
                // SAFETY: these columns are this task's alone.
                unsafe {
                    match cols.end - col {
                        ..=16 => gather_unit::<1>(&to, col..cols.end, u, x, rows),
                        17..=32 => gather_unit::<2>(&to, col..cols.end, u, x, rows),
                        _ => gather_unit::<WIDE>(&to, col..cols.end, u, x, rows),
                    }
                }
            }
        }
    });
    sums
}

/// Adds some rows' part in the sums of the first W registers of `cols`.
#[expect(unsafe_code, reason = "vector instructions")]
#[target_feature(enable = "avx512f")]
unsafe fn gather_unit<const W: usize>(
    to: &Columns,
    cols: Range<usize>,
    u: &Thin,
    (x, stride): (&[f32], usize),
    rows: Range<usize>,
) {
    let masks: [__mmask16; W] = std::array::from_fn(|i| mask(cols.len().saturating_sub(i * LANES)));
    let mut sums = [[_mm512_setzero_ps(); W]; THIN];
    // SAFETY: rows of x are read up to their ends, sums are whole registers, and a row of u has sixteen numbers.
    unsafe {
        for (r, sums) in sums.iter_mut().enumerate() {
            *sums = load([!0; W], to.row(r, cols.start, W * LANES).as_ptr());
        }
        for (i, t) in rows.enumerate() {
            let x = load(masks, x.as_ptr().add(i * stride));
            let u = u.at(t, 0);
            for (r, sums) in sums.iter_mut().enumerate() {
                let u = _mm512_set1_ps(*u.add(r));
                for (sum, x) in sums.iter_mut().zip(&x) {
                    *sum = _mm512_fmadd_ps(u, *x, *sum);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            store([!0; W], to.row(r, cols.start, W * LANES).as_mut_ptr(), *sums);
        }
    }
}

/// The part of `to` from `at` on `(+)= sums`.
#[expect(unsafe_code, reason = "as above")]
unsafe fn put(to: &Columns, (row, col): (usize, usize), into: Into, sums: Mat<'_>) {
    for i in 0..sums.rows() {
        // SAFETY: the caller's part, one row at a time.
        let to = unsafe { to.row(row + i, col, sums.cols()) };
        let from = sums.from(i, 0).iter().step_by(sums.strides().1);
        match into {
            Into::Overwrite => to.iter_mut().zip(from).for_each(|(to, x)| *to = *x),
            Into::Add => to.iter_mut().zip(from).for_each(|(to, x)| *to += x),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::ops::mat::Side;
    use crate::ops::matmul::{self, Precision, Threads, gemm_raw};
    use crate::ops::testing::random;
    use crate::tensor::view;

    /// Each kind beside the gemm crate's product, for each order in memory that the operands may have.
    #[test]
    fn thin_products_match_the_others() {
        if !std::arch::is_x86_feature_detected!("avx512f") {
            eprintln!("left out: this CPU has no AVX-512");
            return;
        }
        let mut kinds = Vec::new();
        for (m, n, k) in [
            (48, 1, 48),
            (100, 8, 576),
            (461, 5, 131),
            (8, 100, 61),
            (3, 577, 300),
            (61, 48, 1),
            (100, 577, 8),
            (463, 50, 7),
        ] {
            for (transposed_a, transposed_b) in [(false, false), (false, true), (true, false)] {
                kinds.extend(check((m, n, k), transposed_a, transposed_b));
            }
        }
        for kind in [Kind::Dots, Kind::Gather, Kind::Spread] {
            assert!(kinds.contains(&kind), "{kind:?} was not tried");
        }
    }

    fn check((m, n, k): (usize, usize, usize), ta: bool, tb: bool) -> Option<Kind> {
        let (a, b) = (random(1, (m, k)), random(2, (k, n)));
        let (a, b) = (view(&a).unwrap(), view(&b).unwrap());
        let mat = |data, rows, cols, t: bool| match t {
            true => Mat::new(data, cols, rows, rows).t(),
            false => Mat::new(data, rows, cols, cols),
        };
        let (a, b) = (mat(&a, m, k, ta), mat(&b, k, n, tb));
        let kind = Kind::of(&a, &b)?;
        let (stride, at, scale) = (n + 5, (1, 2), 0.75);
        for into in [Into::Overwrite, Into::Add] {
            let (mut got, mut want) =
                (vec![0.5f32; (m + 2) * stride], vec![0.5f32; (m + 2) * stride]);
            #[expect(unsafe_code, reason = "parts of a matrix are written through a pointer")]
            // SAFETY: both are exclusively borrowed, and the part lies inside.
            unsafe {
                product(kind, &Columns::new(&mut got, stride), at, into, scale, a, b);
                let to = want.as_mut_ptr().add(at.0 * stride + at.1);
                gemm_raw(to, stride, into, scale, a, b, Threads::One);
            }
            for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                let close = 1e-5 * (k as f32).sqrt() + 1e-6 * want.abs();
                assert!(
                    (got - want).abs() < close,
                    "{kind:?} {m} {n} {k} {ta} {tb} {i}: {got} {want}"
                );
            }
        }
        Some(kind)
    }

    /// A product that is asked for goes there, and its result does not depend on the threads.
    #[test]
    fn threads_do_not_change_a_digit() {
        let (x, a) = (random(3, (300, 600)), random(4, (8, 600)));
        let (x, a) = (view(&x).unwrap(), view(&a).unwrap());
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let (x, a) = (Mat::new(&x, 300, 600, 600), Mat::new(&a, 8, 600, 600));
                let of = |a, b| {
                    let (a, b) = (Side::Whole(a), Side::Whole(b));
                    matmul::product(Precision::F32, Threads::Pool, 1.0, a, b)
                };
                let u = of(x, a.t());
                let g = of(Mat::new(&u, 300, 8, 8).t(), x);
                (of(Mat::new(&u, 300, 8, 8), a), u, g)
            })
        };
        assert_eq!(run(1), run(3));
    }
}
