//! Each kernel beside the same operation composed of candle's, at SmolLM2-135M's shapes, with the
//! ratio of their times: `cargo bench --workspace --bench kernels [-- NAME]`.
//!
//! Shape letters as in `engine::ops`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use criterion::Criterion;
use engine::error::Result;
use engine::model::linear::add;
use engine::ops::activation::Gate;
use engine::ops::attention::Attention;
use engine::ops::bf16;
use engine::ops::embedding;
use engine::ops::head::{Head, WeightGrad};
use engine::ops::matmul::{self, Into, Precision};
use engine::ops::matrix::Matrix;
use engine::ops::rms_norm::RmsNorm;
use engine::ops::rope::{Angles, Direction};
use engine::optim::adamw::AdamW;
use engine::optim::rule::{Rate, Slots};
use engine::quant::{FourBit, FourBitBuilder, HalfBuilder, Packed, Q8Builder};
use engine::rng::{Purpose, Stream};
use engine::tensor::{compose_everything, from_vec};
use run::config::Half;

/// Tokens of a micro-batch of two rows, and where these begin.
const T: usize = 512;
const OFFSETS: [usize; 3] = [0, 200, T];
/// Hidden size, intermediate size, vocabulary.
const D: usize = 576;
const I: usize = 1536;
const V: usize = 49_152;
/// Positions that carry a label.
const N: usize = 256;
const ATTENTION: Attention =
    Attention { heads: 9, kv_heads: 3, head_dim: 64, scale: 0.125, window: None, softcap: None };
const NORM: RmsNorm = RmsNorm { eps: 1e-5, offset: 0.0 };

const EXACT: Precision = Precision::F32;

/// Seconds of one call, by operation: of the kernel and of the composed form.
type Times = BTreeMap<String, [f64; 2]>;

fn main() -> Result<()> {
    let mut bench = Bench {
        criterion: Criterion::default()
            .warm_up_time(Duration::from_millis(300))
            .measurement_time(Duration::from_secs(2))
            .sample_size(10)
            .configure_from_args(),
        times: Times::new(),
    };
    norms_and_gates(&mut bench)?;
    attention(&mut bench)?;
    products(&mut bench)?;
    bf16_products(&mut bench)?;
    packed_products(&mut bench)?;
    head_and_embedding(&mut bench)?;
    adamw(&mut bench)?;
    bench.print();
    Ok(())
}

struct Bench {
    criterion: Criterion,
    times: Times,
}

impl Bench {
    /// Measures `work` with the kernels and composed.
    fn both(&mut self, name: &str, mut work: impl FnMut() -> Result<()>) {
        for (which, form) in ["kernel", "composed"].into_iter().enumerate() {
            compose_everything(which == 1);
            self.one(name, form, which, &mut work);
        }
        compose_everything(false);
    }

    fn one(&mut self, name: &str, form: &str, which: usize, work: &mut dyn FnMut() -> Result<()>) {
        let times = &mut self.times;
        self.criterion.bench_function(&format!("{name}/{form}"), |bencher| {
            bencher.iter_custom(|calls| {
                let at = Instant::now();
                for _ in 0..calls {
                    if let Err(error) = work() {
                        eprintln!("{name}: {error}");
                        std::process::exit(1);
                    }
                }
                let took = at.elapsed();
                let each = took.as_secs_f64() / calls.max(1) as f64;
                let best = &mut times.entry(name.to_owned()).or_insert([f64::MAX; 2])[which];
                *best = best.min(each);
                took
            });
        });
    }

    fn print(&self) {
        println!("\n{:<28} {:>12} {:>12} {:>8}", "fastest of ten", "kernel", "composed", "ratio");
        for (name, [kernel, composed]) in &self.times {
            let ms = |s: &f64| format!("{:.3} ms", s * 1e3);
            println!(
                "{name:<28} {:>12} {:>12} {:>7.2}x",
                ms(kernel),
                ms(composed),
                composed / kernel
            );
        }
    }
}

fn random(seed: u64, rows: usize, cols: usize) -> Result<Tensor> {
    let mut data = vec![0f32; rows * cols];
    Stream::new(seed, Purpose::InitWeights, 0, 0).fill_normal(&mut data, 1.0);
    from_vec(data, (rows, cols))
}

fn norms_and_gates(bench: &mut Bench) -> Result<()> {
    let (x, dy, w) = (random(1, T, D)?, random(2, T, D)?, random(3, 1, D)?.flatten_all()?);
    bench.both("rms_norm forward", || NORM.forward(&x, &w).map(drop));
    let (_, rstd) = NORM.forward(&x, &w)?;
    let (dx, mut dw) = (random(4, T, D)?, w.copy()?);
    bench.both("rms_norm backward", || {
        NORM.backward(dx.clone(), Some(&mut dw), &dy, &x, &w, &rstd).map(drop)
    });
    let (gate, up, da) = (random(5, T, I)?, random(6, T, I)?, random(7, T, I)?);
    bench.both("swiglu forward", || Gate::Silu.forward(&gate, &up).map(drop));
    bench.both("swiglu backward", || Gate::Silu.backward(gate.clone(), up.clone(), &da).map(drop));
    let positions: Vec<u32> = (0..T as u32).collect();
    let inv_freq: Vec<f32> = (0..32).map(|i| 10_000f32.powf(-(i as f32) / 32.0)).collect();
    let angles = Angles::new(&inv_freq, 1.0, &positions);
    bench.both("rope", || angles.apply(x.clone(), 64, Direction::Forward).map(drop));
    bench.both("residual add", || add(dx.clone(), &x).map(drop));
    Ok(())
}

fn attention(bench: &mut Bench) -> Result<()> {
    let (q, k, v) = (random(1, T, D)?, random(2, T, D / 3)?, random(3, T, D / 3)?);
    let dy = random(4, T, D)?;
    bench.both("attention forward", || ATTENTION.forward(EXACT, &q, &k, &v, &OFFSETS).map(drop));
    let saved = ATTENTION.forward(EXACT, &q, &k, &v, &OFFSETS)?;
    bench.both("attention backward", || {
        ATTENTION.backward(EXACT, &dy, &q, &k, &v, &saved, &OFFSETS).map(drop)
    });
    Ok(())
}

fn products(bench: &mut Bench) -> Result<()> {
    let (x, w, dy) = (random(1, T, D)?, random(2, I, D)?, random(3, T, I)?);
    let mut dw = random(4, I, D)?;
    bench.both("linear forward", || matmul::forward(EXACT, &x, &w).map(drop));
    bench.both("linear input gradient", || matmul::input_grad(EXACT, None, 1.0, &dy, &w).map(drop));
    bench.both("linear weight gradient", || {
        matmul::weight_grad(EXACT, &mut dw, Into::Add, 1.0, &dy, &x)
    });
    let (a, b) = (random(5, 8, D)?, random(6, I, 8)?);
    bench.both("lora beside a linear", || {
        let u = matmul::forward(EXACT, &x, &a)?;
        matmul::forward_add(EXACT, matmul::forward(EXACT, &x, &w)?, 2.0, &u, &b).map(drop)
    });
    Ok(())
}

/// Beside the f32 product, where the CPU has a unit for bf16.
fn bf16_products(bench: &mut Bench) -> Result<()> {
    if !bf16::available() {
        return Ok(());
    }
    for (i, o) in [(D, D), (D, D / 3), (D, I), (I, D), (D, 8), (8, I)] {
        let (x, w, dy) = (random(1, T, i)?, random(2, o, i)?, random(3, T, o)?);
        let mut dw = random(4, o, i)?;
        for (place, name, p) in [(0, "bf16", Precision::Bf16), (1, "f32", EXACT)] {
            let shape = format!("{i} to {o}, bf16 beside f32");
            let forward = format!("forward {shape}");
            bench.one(&forward, name, place, &mut || matmul::forward(p, &x, &w).map(drop));
            let back = format!("input gradient {shape}");
            bench.one(&back, name, place, &mut || {
                matmul::input_grad(p, None, 1.0, &dy, &w).map(drop)
            });
            bench.one(&format!("weight gradient {shape}"), name, place, &mut || {
                matmul::weight_grad(p, &mut dw, Into::Add, 1.0, &dy, &x)
            });
        }
    }
    Ok(())
}

/// Beside a packed weight's product: unpack all of it, then multiply.
fn packed_products(bench: &mut Bench) -> Result<()> {
    let (x, dy) = (random(1, T, D)?, random(3, T, I)?);
    let mut data = vec![0f32; I * D];
    Stream::new(2, Purpose::InitWeights, 0, 0).fill_normal(&mut data, 0.05);
    let (mut half, mut eight) = (HalfBuilder::new(Half::Bf16, D), Q8Builder::new(D));
    let mut four = FourBitBuilder::new(FourBit::Nf4, D, true);
    let all = half.push(&data) && eight.push(&data) && four.push(&data);
    assert!(all, "normal numbers are finite");
    for packed in [half.finish()?, eight.finish()?, four.finish()?] {
        let name = packed.format().name();
        let whole = |packed: &Packed| {
            let values = packed.dequantise_rows(0..I)?;
            Ok::<_, engine::error::Error>(Tensor::from_vec(values, (I, D), &Device::Cpu)?)
        };
        let forward = format!("{name} forward");
        bench.one(&forward, "kernel", 0, &mut || packed.forward(EXACT, &x).map(drop));
        bench
            .one(&forward, "unpack whole", 1, &mut || whole(&packed)?.forward(EXACT, &x).map(drop));
        let back = format!("{name} input gradient");
        bench.one(&back, "kernel", 0, &mut || packed.input_grad(EXACT, None, 1.0, &dy).map(drop));
        bench.one(&back, "unpack whole", 1, &mut || {
            whole(&packed)?.input_grad(EXACT, None, 1.0, &dy).map(drop)
        });
    }
    Ok(())
}

fn head_and_embedding(bench: &mut Bench) -> Result<()> {
    let (h, w) = (random(1, N, D)?, random(2, V, D)?);
    let targets: Vec<u32> = (0..N as u32).map(|i| i * 97 % V as u32).collect();
    let mut dw = random(3, V, D)?;
    bench.both("head and loss", || {
        let to = WeightGrad::To(&mut dw, Into::Add);
        Head::default().loss_and_grad(&h, &w, &targets, 1.0, to).map(drop)
    });
    let ids: Vec<u32> = (0..T as u32).map(|i| i * 31 % V as u32).collect();
    let dx = random(4, T, D)?;
    bench.both("embedding backward", || embedding::backward(&mut dw, &ids, 1.0, &dx));
    Ok(())
}

fn adamw(bench: &mut Bench) -> Result<()> {
    let adam = AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 };
    let (param, grad) = (random(1, I, D)?, random(2, I, D)?);
    let mut slots = Slots::zeros(&AdamW::layout(&[I, D]), &Device::Cpu)?;
    slots.step = 1;
    let rate = Rate { lr: 1e-5, weight_decay: 0.01 };
    bench.both("clip and adamw", || adam.update(&param, &grad, &mut slots, 0.5, rate));
    Ok(())
}
