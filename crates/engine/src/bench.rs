//! How fast a config trains here, and how that compares with what this machine's own matrix
//! product can do at the model's shapes.

use std::collections::BTreeMap;

use candle_core::Tensor;
use rayon::prelude::*;
use run::config::Config;
use run::dir::RunDir;

use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::flops::{self, Cost, Product, Shape};
use crate::observer::Observer;
use crate::ops::matmul::{self, Into, Precision};
use crate::plan::EpochOrder;
use crate::prepare::{Prepared, Surroundings};
use crate::tensor::from_vec;
use crate::train::Run;

/// Steps at the beginning that are not counted: buffers are made and caches filled.
pub const WARMUP: u64 = 2;

/// Repeats of each product when the ceiling is measured; the fastest counts.
const REPEATS: usize = 5;

/// Numbers of tokens that the ceiling is measured at, at most.
const COUNTS: usize = 17;

/// One optimiser step.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Tokens; there is no padding.
    pub tokens: u64,
    /// Seconds.
    pub seconds: f64,
    /// Floating-point operations that the model needs.
    pub flops: f64,
    /// Loss, for comparison between engines.
    pub loss: f64,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Bench {
    /// Seconds from the call to the first micro-batch.
    pub start_s: f64,
    /// The steps after the first [`WARMUP`].
    pub steps: Vec<Step>,
    /// The linear products of these steps, and how often each was computed.
    shapes: BTreeMap<Shape, u64>,
    /// Threads.
    pub threads: usize,
    /// Parameters that are trained, and all.
    pub params: (u64, u64),
    /// What products were computed in.
    pub precision: Precision,
}

impl Bench {
    /// Tokens a second over all counted steps.
    #[must_use]
    pub fn tokens_per_s(&self) -> f64 {
        self.steps.iter().map(|s| s.tokens as f64).sum::<f64>() / self.seconds()
    }

    /// Model operations a second over all counted steps.
    #[must_use]
    pub fn flops_per_s(&self) -> f64 {
        self.steps.iter().map(|s| s.flops).sum::<f64>() / self.seconds()
    }

    /// Operations of the linear products of these steps a second, if each ran alone: measured now,
    /// with memory of its own.
    ///
    /// # Errors
    /// When a product cannot be computed.
    pub fn ceiling_flops_per_s(
        &self,
        config: &Config,
        around: &Surroundings,
        io: &mut dyn Observer,
    ) -> Result<f64> {
        around.install(config, |_| ceiling(&self.shapes, self.precision, io))
    }

    fn seconds(&self) -> f64 {
        self.steps.iter().map(|s| s.seconds).sum::<f64>().max(1e-9)
    }
}

/// Trains `steps` counted steps of `config` and writes nothing.
///
/// # Errors
/// When an input cannot be used, or the run has too few steps.
pub fn run(
    config: &Config,
    around: &Surroundings,
    steps: u64,
    io: &mut dyn Observer,
) -> Result<Bench> {
    around.install(config, |threads| measure(config, around, steps, threads, io))
}

fn measure(
    config: &Config,
    around: &Surroundings,
    steps: u64,
    threads: usize,
    io: &mut dyn Observer,
) -> Result<Bench> {
    let began = io.elapsed_s();
    let mut run = Run::fresh(config, RunDir::new(""), around, threads, io)?;
    let start_s = io.elapsed_s() - began;
    let total = run.plan.total_steps;
    if total < WARMUP + steps {
        let why = format!("the run has {total} steps; {WARMUP} + {steps} are needed");
        return Err(Error::input("max_steps", why));
    }
    let mut order = EpochOrder::default();
    let (mut measured, mut shapes) = (Vec::new(), BTreeMap::new());
    while run.state.step < WARMUP + steps {
        let costs = costs(&mut run, &mut order, io)?;
        let at = io.elapsed_s();
        let (step, _) = run.next(&mut order, io)?;
        let seconds = io.elapsed_s() - at;
        if run.state.step <= WARMUP {
            continue;
        }
        for shape in costs.iter().flat_map(|cost| &cost.products) {
            *shapes.entry(*shape).or_insert(0u64) += 1;
        }
        let flops = costs.iter().map(Cost::flops).sum();
        measured.push(Step { tokens: step.tokens, seconds, flops, loss: step.loss });
    }
    let params = run.prepared.decoder.params.counts();
    let precision = run.prepared.decoder.params.precision;
    Ok(Bench { start_s, steps: measured, shapes, threads, params, precision })
}

/// The costs of the next step's passes.
fn costs(run: &mut Run<'_>, order: &mut EpochOrder, io: &mut dyn Observer) -> Result<Vec<Cost>> {
    let passes = run.passes(order, io)?;
    let Prepared { decoder, train, .. } = &run.prepared;
    let cost = |rows: &Vec<usize>| Ok(flops::of(decoder, &Batch::new(train.pick(rows)?)));
    passes.rows.iter().map(cost).collect()
}

/// Operations a second of these products, each as often as it was counted. Of many numbers of tokens, as a
/// long measurement has, [`COUNTS`] stand for all.
fn ceiling(
    shapes: &BTreeMap<Shape, u64>,
    precision: Precision,
    io: &mut dyn Observer,
) -> Result<f64> {
    let mut tokens: Vec<usize> = shapes.keys().map(|shape| shape.tokens).collect();
    tokens.sort_unstable();
    tokens.dedup();
    let nearest = |count: usize| {
        let picked = (0..COUNTS).map(|i| tokens[i * (tokens.len() - 1) / (COUNTS - 1)]);
        picked.min_by_key(|pick| pick.abs_diff(count)).unwrap_or(count)
    };
    let mut picked: BTreeMap<Shape, f64> = BTreeMap::new();
    for (shape, count) in shapes {
        let tokens = nearest(shape.tokens);
        *picked.entry(Shape { tokens, ..*shape }).or_insert(0.0) += shape.flops() * *count as f64;
    }
    let (mut flops, mut seconds) = (0.0, 0.0);
    for (shape, weight) in picked {
        flops += weight;
        seconds += weight / shape.flops().max(1.0) * fastest(shape, precision, io)?;
    }
    Ok(flops / f64::max(seconds, 1e-12))
}

/// Seconds of the fastest of a few runs of one product.
fn fastest(shape: Shape, precision: Precision, io: &dyn Observer) -> Result<f64> {
    let Shape { product, tokens, inputs, outputs } = shape;
    let (x, w) = (varied(tokens, inputs)?, varied(outputs, inputs)?);
    let (y, mut dw) = (varied(tokens, outputs)?, varied(outputs, inputs)?);
    let mut best = f64::INFINITY;
    for _ in 0..REPEATS {
        let at = io.elapsed_s();
        match product {
            Product::Forward => drop(matmul::forward(precision, &x, &w)?),
            Product::InputGrad => drop(matmul::input_grad(precision, None, 1.0, &y, &w)?),
            Product::WeightGrad => matmul::weight_grad(precision, &mut dw, Into::Add, 1.0, &y, &x)?,
        }
        best = best.min(io.elapsed_s() - at);
    }
    Ok(best)
}

/// A matrix of numbers that use all their bits: a CPU multiplies zeros and round numbers at a higher clock than
/// those that training has (here by a fifth).
fn varied(rows: usize, cols: usize) -> Result<Tensor> {
    let number = |i: usize| {
        let bits = (i as u32).wrapping_mul(0x9e37_79b9) >> 8;
        bits as f32 / (1 << 24) as f32 - 0.5
    };
    from_vec((0..rows * cols).into_par_iter().map(number).collect(), (rows, cols))
}
