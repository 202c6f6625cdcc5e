//! Every CUDA kernel, in both directions, against the CPU kernels, without a GPU.
//!
//! The launches are those of `ops::gpu`; `support/emulator.rs` says what runs them, and what it would notice.
//! Tolerances are relative to the norm of what is expected: both sides sum in f32, in another order.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "support/emulator.rs"]
mod emulator;

use candle_core::{DType, Shape, Tensor};
use emulator::Emulator;
use engine::ops::activation::Gate;
use engine::ops::attention::Attention;
use engine::ops::head::{Head, Objective, WeightGrad};
use engine::ops::matmul::{self, Into, Precision};
use engine::ops::rms_norm::RmsNorm;
use engine::ops::rope::{Angles, Direction};
use engine::ops::{embedding, gpu};
use engine::optim::adamw::AdamW;
use engine::optim::rule::{Rate, Slots};
use engine::rng::{Purpose, Stream};
use engine::tensor::{from_vec, view};

/// Of elementwise operations and short sums.
const EXACT: f64 = 1e-6;
/// Of sums over rows, keys and the vocabulary.
const SUMS: f64 = 1e-5;

fn random(seed: u64, shape: impl std::convert::Into<Shape>) -> Tensor {
    let shape = shape.into();
    let mut data = vec![0f32; shape.elem_count()];
    Stream::new(seed, Purpose::InitWeights, 0, 0).fill_normal(&mut data, 1.0);
    from_vec(data, shape).unwrap()
}

#[track_caller]
fn close(what: &str, got: &Tensor, want: &Tensor, tolerance: f64) {
    assert_eq!(got.dims(), want.dims(), "{what}");
    let (got, want) = (view(got).unwrap(), view(want).unwrap());
    let square = |x: f32| f64::from(x) * f64::from(x);
    let norm = want.iter().map(|x| square(*x)).sum::<f64>().sqrt();
    let error = got.iter().zip(&*want).map(|(a, b)| square(a - b)).sum::<f64>().sqrt();
    // also where it is no number
    assert!(error <= tolerance * norm.max(1e-6), "{what}: error {error:.3e} of {norm:.3e}");
}

fn near(what: &str, got: f64, want: f64, tolerance: f64) {
    assert!((got - want).abs() <= tolerance * want.abs().max(1e-6), "{what}: {got}, not {want}");
}

#[test]
fn norms() {
    let Some(m) = Emulator::start(true) else { return };
    for (t, d, heads, offset) in
        [(1, 8, 1, 0.0), (70, 96, 1, 0.0), (9, 24, 4, 0.0), (5, 33, 1, 1.0), (131, 520, 1, 0.0)]
    {
        let what = format!("t {t} d {d} heads {heads}");
        let norm = RmsNorm { eps: 1e-5, offset };
        let (x, w) = (random(1, (t, d * heads)), random(2, d));
        let (dy, dx) = (random(3, (t, d * heads)), random(4, (t, d * heads)));
        let (y, rstd) = gpu::rms_norm::forward(&m, &norm, &x, &w).unwrap();
        let (want_y, want_rstd) = norm.forward(&x, &w).unwrap();
        close(&what, &y, &want_y, EXACT);
        close(&what, &rstd, &want_rstd, EXACT);
        let (mut dw, mut want_dw) = (random(5, d), random(5, d));
        let want_dx = dx.copy().unwrap();
        let (got, want) = (Some(&mut dw), Some(&mut want_dw));
        let dx = gpu::rms_norm::backward(&m, &norm, &dx, got, &dy, &x, &w, &rstd).unwrap();
        let want_dx = norm.backward(want_dx, want, &dy, &x, &w, &rstd).unwrap();
        close(&what, &dx, &want_dx, EXACT);
        close(&what, &dw, &want_dw, SUMS);
    }
}

#[test]
fn rotations() {
    let Some(m) = Emulator::start(true) else { return };
    for (t, heads, dim, half) in [(1, 1, 4, 2), (40, 3, 16, 8), (5, 2, 12, 4), (33, 9, 64, 32)] {
        let inv_freq: Vec<f32> = (0..half).map(|i| 0.7f32.powi(i)).collect();
        let positions: Vec<u32> = (0..t as u32).map(|p| p % 7).collect();
        let angles = Angles::new(&inv_freq, 1.0, &positions);
        let (cos, sin): (Vec<f32>, Vec<f32>) = positions
            .iter()
            .flat_map(|p| inv_freq.iter().map(move |f| f64::from(*p as f32 * f)))
            .map(|angle| (angle.cos() as f32, angle.sin() as f32))
            .unzip();
        let tables = gpu::rope::tables(&m, &cos, &sin).unwrap();
        let x = random(1, (t, heads * dim));
        for (direction, sign) in [(Direction::Forward, 1.0), (Direction::Backward, -1.0)] {
            let want = angles.apply(x.copy().unwrap(), dim, direction).unwrap();
            let got = gpu::rope::apply(&m, &x.copy().unwrap(), &tables, dim, sign).unwrap();
            close(&format!("t {t} heads {heads}"), &got, &want, EXACT);
        }
    }
}

#[test]
fn gates() {
    let Some(m) = Emulator::start(true) else { return };
    // the last has more numbers than a launch has threads
    for (t, i) in [(1, 1), (7, 129), (3, 349_601)] {
        for gate in [Gate::Silu, Gate::GeluTanh] {
            if t * i > 1_000_000 && gate == Gate::GeluTanh {
                continue;
            }
            let what = format!("{gate:?} {t} x {i}");
            let (g, up, da) = (random(1, (t, i)), random(2, (t, i)), random(3, (t, i)));
            let copies = || (g.copy().unwrap(), up.copy().unwrap(), da.copy().unwrap());
            let a = gpu::activation::forward(&m, gate, &g, &up).unwrap();
            close(&what, &a, &gate.forward(&g, &up).unwrap(), EXACT);
            let (x, y, _) = copies();
            let got = gpu::activation::backward(&m, gate, &x, &y, &da).unwrap();
            let (x, y, _) = copies();
            let want = gate.backward(x, y, &da).unwrap();
            close(&what, &got.0, &want.0, EXACT);
            close(&what, &got.1, &want.1, EXACT);
            let (x, y, z) = copies();
            let got = gpu::activation::backward_and_forward(&m, gate, &x, &y, &z).unwrap();
            close(&what, &got.0, &want.0, EXACT);
            close(&what, &got.1, &want.1, EXACT);
            close(&what, &got.2, &a, EXACT);
        }
    }
}

/// Heads, key/value heads, head width, window, soft-cap, row offsets.
type Case = (usize, usize, usize, Option<usize>, Option<f32>, &'static [usize]);

const ATTENTION: &[Case] = &[
    (1, 1, 8, None, None, &[0, 1]),
    (4, 2, 24, None, None, &[0, 40, 41, 120]),
    (6, 3, 64, None, None, &[0, 64, 193]),
    (2, 1, 64, Some(2), None, &[0, 70]),
    (2, 2, 64, Some(5), None, &[0, 90, 100]),
    (4, 1, 128, Some(70), Some(3.0), &[0, 150, 150, 160]),
    (2, 1, 96, Some(1000), None, &[0, 129]),
    (2, 1, 256, None, Some(20.0), &[0, 33, 100]),
    (3, 3, 200, Some(40), None, &[0, 95]),
];

#[test]
fn attentions() {
    let Some(m) = Emulator::start(true) else { return };
    for case in ATTENTION {
        let (heads, kv_heads, head_dim, window, softcap, offsets) = *case;
        let what = format!("{case:?}");
        let scale = 1.0 / (head_dim as f32).sqrt();
        let a = Attention { heads, kv_heads, head_dim, scale, window, softcap };
        assert!(gpu::attention::supports(&a));
        let t = *offsets.last().unwrap();
        let (q, dy) = (random(1, (t, heads * head_dim)), random(4, (t, heads * head_dim)));
        let (k, v) = (random(2, (t, kv_heads * head_dim)), random(3, (t, kv_heads * head_dim)));
        let want = a.forward(Precision::F32, &q, &k, &v, offsets).unwrap();
        let got = gpu::attention::forward(&m, &a, &q, &k, &v, offsets).unwrap();
        close(&what, &got.o_thk, &want.o_thk, SUMS);
        close(&what, &got.lse_th, &want.lse_th, SUMS);
        let got = gpu::attention::backward(&m, &a, &dy, &q, &k, &v, &want, offsets).unwrap();
        let want = a.backward(Precision::F32, &dy, &q, &k, &v, &want, offsets).unwrap();
        close(&format!("dq {what}"), &got.0, &want.0, 2.0 * SUMS);
        close(&format!("dk {what}"), &got.1, &want.1, 2.0 * SUMS);
        close(&format!("dv {what}"), &got.2, &want.2, 2.0 * SUMS);
    }
    let wide =
        Attention { heads: 1, kv_heads: 1, head_dim: 264, scale: 1.0, window: None, softcap: None };
    assert!(!gpu::attention::supports(&wide));
    assert!(!gpu::attention::supports(&Attention { head_dim: 20, ..wide }));
}

#[test]
fn heads() {
    let Some(m) = Emulator::start(true) else { return };
    for (n, v, softcap) in [(1, 5, None), (40, 300, None), (7, 33, Some(4.0)), (3, 1003, None)] {
        for objective in [Objective::CrossEntropy, Objective::Smoothed(0.1), Objective::Dft] {
            let head = Head { softcap, objective, ..Head::default() };
            let what = format!("{head:?} n {n} v {v}");
            // The identity for a weight: h is the logits, and its gradient theirs.
            let ones = (0..v * v).map(|i| f32::from(u8::from(i % (v + 1) == 0))).collect();
            let identity = from_vec(ones, (v, v)).unwrap();
            let raw = (random(1, (n, v)) * 3.0).unwrap();
            let targets: Vec<u32> = (0..n as u32).map(|i| (i * 7) % v as u32).collect();
            let (want, want_dz) =
                head.loss_and_grad(&raw, &identity, &targets, 0.25, WeightGrad::None).unwrap();
            let mut z = raw.copy().unwrap();
            if let Some(cap) = softcap {
                z = gpu::head::softcap(&m, &z, cap).unwrap();
                close(&what, &z, &head.logits(&raw, &identity).unwrap(), EXACT);
            }
            let start = z.copy().unwrap();
            let (alone, same) = gpu::head::cross_entropy(&m, &head, &z, &targets, None).unwrap();
            close(&what, &same, &start, 0.0);
            let (got, dz) = gpu::head::cross_entropy(&m, &head, &z, &targets, Some(0.25)).unwrap();
            assert_eq!(alone, got, "{what}");
            near(&what, got.sum, want.sum, EXACT);
            near(&what, got.plain, want.plain, EXACT);
            assert_eq!(got.correct, want.correct, "{what}");
            close(&what, &dz, &want_dz, SUMS);
        }
    }
}

#[test]
fn embeddings() {
    let Some(m) = Emulator::start(true) else { return };
    for d in [1, 6, 300] {
        let table = random(1, (10, d));
        let ids = [3u32, 0, 3, 9, 3, 0];
        let y = gpu::embedding::forward(&m, &table, &ids, 2.0).unwrap();
        close("rows", &y, &embedding::forward(&table, &ids, 2.0).unwrap(), 0.0);
        let dx = random(2, (ids.len(), d));
        let (mut got, mut want) = (random(3, (10, d)), random(3, (10, d)));
        gpu::embedding::backward(&m, &mut got, &ids, 0.7, &dx).unwrap();
        embedding::backward(&mut want, &ids, 0.7, &dx).unwrap();
        close("gradient", &got, &want, EXACT);
    }
    gpu::embedding::backward(&m, &mut random(3, (4, 8)), &[], 1.0, &random(2, (0, 8))).unwrap();
}

#[test]
fn products() {
    let Some(m) = Emulator::start(false) else { return };
    for p in [Precision::F32, Precision::Bf16] {
        for (t, d, o) in [(1, 1, 1), (3, 5, 7), (33, 64, 48), (0, 4, 5)] {
            let what = format!("{p:?} {t} {d} {o}");
            // numbers that bf16 has exactly: both precisions owe the same products
            let rounded = |seed: u64, shape: (usize, usize)| {
                random(seed, shape).to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap()
            };
            let (x, w, dy) = (rounded(1, (t, d)), rounded(2, (o, d)), rounded(3, (t, o)));
            let (y, dx, dw) = (random(4, (t, o)), random(5, (t, d)), random(6, (o, d)));
            let copy = |x: &Tensor| x.copy().unwrap();
            let exact = Precision::F32;

            let got = gpu::matmul::forward(&m, p, &x, &w).unwrap();
            close(&what, &got, &matmul::forward(exact, &x, &w).unwrap(), EXACT);
            let got = gpu::matmul::forward_add(&m, p, &copy(&y), 0.5, &x, &w).unwrap();
            let want = matmul::forward_add(exact, copy(&y), 0.5, &x, &w).unwrap();
            close(&what, &got, &want, EXACT);

            let got = gpu::matmul::input_grad(&m, p, None, 2.0, &dy, &w).unwrap();
            let want = matmul::input_grad(exact, None, 2.0, &dy, &w).unwrap();
            close(&what, &got, &want, EXACT);
            let got = gpu::matmul::input_grad(&m, p, Some(&copy(&dx)), 2.0, &dy, &w).unwrap();
            let want = matmul::input_grad(exact, Some(copy(&dx)), 2.0, &dy, &w).unwrap();
            close(&what, &got, &want, EXACT);

            for into in [Into::Overwrite, Into::Add] {
                let (mut got, mut want) = (copy(&dw), copy(&dw));
                gpu::matmul::weight_grad(&m, p, &mut got, into, 0.5, &dy, &x).unwrap();
                matmul::weight_grad(exact, &mut want, into, 0.5, &dy, &x).unwrap();
                close(&what, &got, &want, EXACT);
            }
        }
    }
    let (fine, one) = (from_vec(vec![1.0009766], (1, 1)), from_vec(vec![1.0], (1, 1)));
    let got = gpu::matmul::forward(&m, Precision::Bf16, &fine.unwrap(), &one.unwrap()).unwrap();
    assert_eq!(view(&got).unwrap()[0], 1.0, "bf16 has eight bits");
}

#[test]
fn updates() {
    let Some(m) = Emulator::start(true) else { return };
    let adamw = AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 };
    let rate = Rate { lr: 1e-2, weight_decay: 0.1 };
    for n in [1, 1000, 70_001] {
        let (param, want) = (random(1, n), random(1, n));
        let mut slots = Slots::zeros(&AdamW::layout(param.dims()), param.device()).unwrap();
        let (first, second) = (param.zeros_like().unwrap(), param.zeros_like().unwrap());
        for step in 1..=3u64 {
            let grad = random(10 + step, n);
            slots.step = step;
            adamw.update(&want, &grad, &mut slots, 0.5, rate).unwrap();
            let with = adamw.kernel(step, 0.5, rate);
            gpu::optimizer::adamw(&m, &with, &param, (&first, &second), &grad).unwrap();
            close("parameter", &param, &want, EXACT);
            close("first moment", &first, slots.get("exp_avg").unwrap(), EXACT);
            close("second moment", &second, slots.get("exp_avg_sq").unwrap(), EXACT);
        }
    }
}

#[test]
fn norms_of_gradients() {
    let Some(m) = Emulator::start(true) else { return };
    let grads = [random(1, 1), random(2, 5000), random(3, (700, 513))];
    let square = |x: &f32| f64::from(*x) * f64::from(*x);
    let got = gpu::optimizer::square_sums(&m, &grads.each_ref()).unwrap();
    for (got, grad) in got.into_iter().zip(&grads) {
        near("sum of squares", got, view(grad).unwrap().iter().map(square).sum(), 1e-12);
    }
    assert!(gpu::optimizer::square_sums(&m, &[]).unwrap().is_empty());
}
