//! One optimiser step: passes over its rows, gradient norm, the finite check, the update.
//!
//! The loss is the sum of cross-entropy over all passes divided by the labels in all of
//! them (transformers >= 4.46). Nothing is updated when loss or norm is not finite.

use crate::batch::{Batch, Sequence};
use crate::error::Result;
use crate::model::decoder::{Decoder, Keep};
use crate::model::linear::Mode;
use crate::model::store::Grads;
use crate::optim::clip::{clip_factor, grad_norm};
use crate::optim::lora_plus::Factors;
use crate::optim::rule::{self, Rate, Rule};

/// What a step is made with.
pub struct Optimiser {
    /// How gradients become updates.
    pub rule: Rule,
    /// What it remembers.
    pub slots: rule::State,
    /// Gradients are scaled down to this norm; 0 = never.
    pub max_grad_norm: f64,
    /// Weight decay of matrices and embeddings.
    pub weight_decay: f64,
    /// What the learning rate is multiplied by, parameter by parameter.
    pub factors: Factors,
    /// Gradients.
    pub grads: Grads,
}

/// A step's measurements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// Mean cross-entropy over the labels.
    pub loss: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Tokens computed.
    pub tokens: u64,
    /// Labels that the loss is over.
    pub labels: u64,
    /// Whether the weights moved.
    pub outcome: Updated,
}

/// Whether a step changed the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Updated {
    /// They moved.
    Yes,
    /// The loss was not finite: they did not.
    BadLoss,
    /// The gradient was not finite: they did not.
    BadGradient,
    /// No token carries a label: there was nothing to learn.
    NoLabels,
}

/// Trains on the rows of `passes`, each of which is computed at once, with learning rate `lr`.
///
/// # Errors
/// When ids lie outside the vocabulary or a tensor operation fails.
pub fn run(
    decoder: &Decoder,
    optimiser: &mut Optimiser,
    passes: &[Vec<&Sequence>],
    lr: f64,
    keep: Keep,
    mode: impl Fn(u64) -> Mode,
) -> Result<Measured> {
    let rows = || passes.iter().flatten();
    let labels: u64 = rows().map(|r| r.label_count() as u64).sum();
    let tokens: u64 = rows().map(|r| r.input_ids.len() as u64).sum();
    let mut measured =
        Measured { loss: 0.0, grad_norm: 0.0, tokens, labels, outcome: Updated::NoLabels };
    if labels == 0 {
        return Ok(measured);
    }

    // forward and backward, gradients adding up in place
    let scale = (1.0 / labels as f64) as f32;
    optimiser.grads.begin(&decoder.params, passes.len())?;
    let mut sum = 0f64;
    for (m, rows) in passes.iter().enumerate() {
        let batch = Batch::new(rows.iter().copied());
        let loss = decoder.train_step(&batch, &mut optimiser.grads, scale, keep, mode(m as u64))?;
        sum += loss.sum;
    }
    measured.loss = sum / labels as f64;
    measured.grad_norm = grad_norm(&decoder.params, &optimiser.grads)?;

    // refuse what is not finite, before anything moves
    measured.outcome = match (measured.loss.is_finite(), measured.grad_norm.is_finite()) {
        (false, _) => Updated::BadLoss,
        (true, false) => Updated::BadGradient,
        (true, true) => Updated::Yes,
    };
    if measured.outcome != Updated::Yes {
        return Ok(measured);
    }

    // clip and update in one pass
    let clip = clip_factor(measured.grad_norm, optimiser.max_grad_norm);
    let Optimiser { rule, slots, grads, weight_decay: decay, factors, .. } = optimiser;
    let rate = |id| {
        let decays = decoder.params.get(id).role.decays();
        Rate { lr: lr * factors.of(id), weight_decay: if decays { *decay } else { 0.0 } }
    };
    rule.step(&decoder.params, grads, slots, clip, rate)?;
    Ok(measured)
}
