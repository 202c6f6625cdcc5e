//! Each kernel against the product of the rounded operands in f64.
#![expect(clippy::unwrap_used, reason = "tests")]

use half::bf16;

use super::operand::Grain;
use super::pack::{Source, part, plain, portable};
use super::*;
use crate::ops::mat::Mat;
use crate::ops::testing::random;
use crate::tensor::view;

fn numbers(seed: u64, count: usize) -> Vec<f32> {
    view(&random(seed, (count, 1))).unwrap().to_vec()
}

/// An operand that may only be asked for parts of a size.
struct Coarse<'a>(Lanes<'a>, Grain);

impl Operand for Coarse<'_> {
    fn lanes(&self) -> usize {
        self.0.lanes()
    }

    fn terms(&self) -> usize {
        self.0.terms()
    }

    fn grain(&self) -> Grain {
        self.1
    }

    fn pack(&self, part: Part, tiles: &mut [Tile]) {
        let whole = |of: &Range<usize>, grain: usize, all: usize| {
            of.start.is_multiple_of(grain) && (of.len().is_multiple_of(grain) || of.end == all)
        };
        assert!(whole(&part.lanes, self.1.lanes, self.lanes()), "{part:?}");
        assert!(whole(&part.terms, self.1.terms, self.terms()), "{part:?}");
        self.0.pack(part, tiles);
    }
}

#[test]
fn products_are_those_of_the_rounded_operands() {
    for (m, n, k) in [
        (1, 1, 1),
        (16, 16, 32),
        (32, 32, 64),
        (33, 47, 65),
        (5, 200, 31),
        (200, 8, 700),
        (70, 96, 1601),
        (300, 260, 40),
    ] {
        for (transposed_a, transposed_b) in [(false, false), (false, true), (true, false)] {
            for kernel in Kernel::all() {
                for limbs in [Limbs::One, Limbs::Three] {
                    check(kernel, limbs, (m, n, k), transposed_a, transposed_b);
                }
            }
        }
    }
}

#[test]
fn rounded_results_are_the_sums_rounded() {
    for (m, n, k) in [(1, 1, 1), (33, 47, 65), (64, 96, 32), (70, 130, 1601)] {
        let (a, b) = (numbers(1, m * k), numbers(2, k * n));
        let left = Lanes::rows(Mat::new(&a, m, k, k), 1.0);
        let right = Lanes::columns(Mat::new(&b, k, n, n));
        for kernel in Kernel::all() {
            for threads in [1, 3] {
                let mut sums = vec![0.5f32; m * n];
                let mut rounded = vec![bf16::from_f32(0.5); m * n];
                for start in [Start::Whole(sums.as_mut_ptr()), Start::Rounded(rounded.as_mut_ptr())]
                {
                    let to = Destination { start, stride: n, rows: m, cols: n };
                    let how = (kernel, Limbs::One, threads);
                    multiply(how, &to, Into::Overwrite, &left, &right);
                }
                let want: Vec<bf16> = sums.iter().map(|sum| bf16::from_f32(*sum)).collect();
                assert_eq!(rounded, want, "{kernel:?} {m} x {n} x {k}, {threads} threads");
            }
        }
    }
}

fn check(kernel: Kernel, limbs: Limbs, (m, n, k): (usize, usize, usize), ta: bool, tb: bool) {
    let (a, b) = (numbers(1, m * k), numbers(2, k * n));
    let mat = |data, rows, cols, t: bool| match t {
        true => Mat::new(data, cols, rows, rows).t(),
        false => Mat::new(data, rows, cols, cols),
    };
    let (left, right) = (mat(&a, m, k, ta), mat(&b, k, n, tb));
    let scale = 0.75;
    let rounded = |x: f32| match limbs {
        Limbs::One => f64::from(bf16::from_f32(x).to_f32()),
        Limbs::Three => f64::from(x),
    };
    let want = |i: usize, j: usize| -> f64 {
        let a = |l: usize| rounded(scale * if ta { a[l * m + i] } else { a[i * k + l] });
        let b = |l: usize| rounded(if tb { b[j * k + l] } else { b[l * n + j] });
        (0..k).map(|l| a(l) * b(l)).sum()
    };
    let stride = n + 3;
    let mut dst = vec![0.5f32; m * stride];
    for (into, times) in [(Into::Overwrite, 1.0), (Into::Add, 2.0)] {
        let to = Destination { start: Start::Whole(dst.as_mut_ptr()), stride, rows: m, cols: n };
        let left = Lanes::rows(left, scale);
        if into == Into::Overwrite {
            multiply((kernel, limbs, 1), &to, into, &left, &Lanes::columns(right));
        } else {
            let grain = Grain { lanes: 96, terms: 64 };
            let right = Coarse(Lanes::columns(right), grain);
            multiply((kernel, limbs, 2), &to, into, &left, &right);
        }
        for i in 0..m {
            for j in 0..n {
                let (got, want) = (f64::from(dst[i * stride + j]), times * want(i, j));
                let close = 1e-5 * (k as f64).sqrt().max(1.0) + 1e-6 * want.abs();
                // Arm's instruction rounds to odd: by a whole unit of the last place, not by half of one
                let close = if cfg!(target_arch = "aarch64") { 2.0 * close } else { close };
                assert!(
                    (got - want).abs() < close,
                    "{kernel:?} {m} {n} {k} {ta} {tb} {i} {j}: {got} {want}"
                );
            }
            // what lies between the rows is not touched
            assert!(dst[i * stride + n..(i + 1) * stride].iter().all(|x| *x == 0.5));
        }
    }
}

/// More terms than the shared operand's tiles hold at once.
#[test]
fn a_sum_of_many_terms() {
    let (m, n, k) = (33, 32, 60_000);
    assert!(n / SIDE * Limbs::Three.tiles(k) > SHARE);
    let (a, b) = (numbers(5, m * k), numbers(6, k * n));
    let mut dst = vec![1f32; m * n];
    let to = Destination { start: Start::Whole(dst.as_mut_ptr()), stride: n, rows: m, cols: n };
    let left = Lanes::rows(Mat::new(&a, m, k, k), 1.0);
    let right = Lanes::columns(Mat::new(&b, k, n, n));
    multiply((Kernel::best(), Limbs::Three, 2), &to, Into::Add, &left, &right);
    for (i, j) in [(0, 0), (5, 31), (17, 16), (32, 0), (32, 31)] {
        let terms = (0..k).map(|l| f64::from(a[i * k + l]) * f64::from(b[l * n + j]));
        let want = 1.0 + terms.sum::<f64>();
        assert!((f64::from(dst[i * n + j]) - want).abs() < 2e-3, "{i} {j}");
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let (m, n, k) = (150, 333, 1700);
    let (a, b) = (numbers(3, m * k), numbers(4, k * n));
    let product = |limbs: Limbs, threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut dst = vec![0f32; m * n];
        let to = Destination { start: Start::Whole(dst.as_mut_ptr()), stride: n, rows: m, cols: n };
        let left = Lanes::rows(Mat::new(&a, m, k, k), 1.0);
        let right = Lanes::columns(Mat::new(&b, k, n, n));
        pool.install(|| {
            multiply((Kernel::best(), limbs, threads), &to, Into::Overwrite, &left, &right)
        });
        dst
    };
    for limbs in [Limbs::One, Limbs::Three] {
        let one = product(limbs, 1);
        assert!(one.iter().any(|x| *x != 0.0));
        assert_eq!(one, product(limbs, 2));
        assert_eq!(one, product(limbs, 5));
    }
}

#[test]
fn no_terms_are_a_sum_of_zero() {
    let empty: [f32; 0] = [];
    for kernel in Kernel::all() {
        let mut dst = vec![7f32; 40 * 40];
        let to =
            Destination { start: Start::Whole(dst.as_mut_ptr()), stride: 40, rows: 40, cols: 40 };
        let left = Lanes::rows(Mat::new(&empty, 40, 0, 0), 1.0);
        let right = Lanes::columns(Mat::new(&empty, 0, 40, 40));
        for limbs in [Limbs::One, Limbs::Three] {
            dst.fill(7.0);
            multiply((kernel, limbs, 1), &to, Into::Overwrite, &left, &right);
            assert!(dst.iter().all(|x| *x == 0.0), "{kernel:?} {limbs:?}");
        }
        assert!(dst.iter().all(|x| *x == 0.0), "{kernel:?}");
    }
}

const FORMS: [(Form, Limbs); 4] = [
    (Form::Left, Limbs::One),
    (Form::Right, Limbs::One),
    (Form::Left, Limbs::Three),
    (Form::Right, Limbs::Three),
];

#[test]
fn tiles_are_the_portable_ones() {
    let mut data = numbers(5, 4000);
    // what rounds oddly: ties, the largest, what is not finite, what is tiny
    let odd = [
        1.003_906_2,
        1.011_718_7,
        f32::MAX,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        -0.0,
        1e-40,
        -1e-40,
    ];
    data[..odd.len()].copy_from_slice(&odd);
    for scale in [1.0, 0.75] {
        tiles_are(&data, scale);
        tiles_are(&data.iter().map(|x| bf16::from_f32(*x)).collect::<Vec<_>>(), scale);
    }
}

fn tiles_are<T: Number>(data: &[T], scale: f32) {
    let nan = |bits: u32| {
        let is = |bits: u32| f32::from_bits(bits).is_nan();
        is(bits << 16) || is(bits & 0xffff_0000)
    };
    let shapes =
        [(16, 32), (16, 31), (3, 17), (1, 1), (16, 16), (7, 2), (40, 70), (33, 64), (48, 1)];
    for (lanes, terms) in shapes {
        for (lane_stride, term_stride) in [(75, 1), (1, 50)] {
            for (form, limbs) in FORMS {
                let source = Source { data, lane_stride, term_stride, lanes, terms, scale };
                let count = usize::div_ceil(lanes, SIDE) * limbs.tiles(terms);
                let (mut got, mut want) =
                    (vec![Tile([9; 256]); count], vec![Tile([8; 256]); count]);
                portable(&source, form, limbs, &mut want);
                let numbers = |tiles: &[Tile]| tiles.iter().flat_map(|t| t.0).collect::<Vec<u32>>();
                let mut check = |pack: &dyn Fn(&mut [Tile])| {
                    pack(&mut got);
                    for (i, (got, want)) in numbers(&got).iter().zip(&numbers(&want)).enumerate() {
                        let same = got == want || nan(*got) && nan(*want);
                        assert!(same, "{lanes} {terms} {form:?} {i}: {got:x} {want:x}");
                    }
                };
                check(&|tiles| part(&source, form, limbs, tiles));
                if limbs == Limbs::One {
                    check(&|tiles| plain(&source, form, tiles));
                }
            }
        }
    }
}
