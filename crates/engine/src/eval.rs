//! Loss on held-out rows.

use crate::batch::{Batch, Sequence};
use crate::error::Result;
use crate::model::decoder::Decoder;

/// Losses over a set of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EvalLoss {
    /// What is minimised, as Hugging Face computes it: each batch's token mean, averaged over rows.
    pub eval_loss: f64,
    /// Mean cross-entropy over all labels.
    pub token_loss: f64,
    /// Share of labels that the model puts first.
    pub token_accuracy: f64,
    /// The same share row by row, averaged over the rows that have labels (LLaMA-Factory's
    /// `eval_accuracy`).
    pub accuracy: f64,
    /// Rows.
    pub rows: usize,
    /// Labels.
    pub labels: u64,
}

/// Evaluates `rows` in batches of `batch_size`; `progress` hears the rows done.
///
/// A batch without any label counts in neither mean (transformers makes it NaN).
///
/// # Errors
/// When ids lie outside the vocabulary, and what `progress` returns.
pub fn run(
    decoder: &Decoder,
    rows: &[Sequence],
    batch_size: usize,
    mut progress: impl FnMut(usize) -> Result<()>,
) -> Result<EvalLoss> {
    let (mut by_rows, mut counted) = (0f64, 0usize);
    let (mut sum, mut labels, mut correct) = (0f64, 0u64, 0u64);
    let (mut shares, mut labelled) = (0f64, 0u64);
    for (b, rows) in rows.chunks(batch_size.max(1)).enumerate() {
        let batch = Batch::new(rows);
        let losses = decoder.losses(&batch)?;
        let batch_sum: f64 = losses.iter().map(|l| l.sum).sum();
        let batch_labels = batch.targets.len() as u64;
        if batch_labels > 0 {
            by_rows += batch_sum / batch_labels as f64 * rows.len() as f64;
            counted += rows.len();
        }
        sum += losses.iter().map(|l| l.plain).sum::<f64>();
        for (loss, range) in losses.iter().zip(&batch.rows).filter(|(_, r)| !r.is_empty()) {
            shares += loss.correct as f64 / range.len() as f64;
            labelled += 1;
        }
        labels += batch_labels;
        correct += losses.iter().map(|l| l.correct as u64).sum::<u64>();
        progress(b * batch_size.max(1) + rows.len())?;
    }
    Ok(EvalLoss {
        eval_loss: by_rows / counted as f64,
        token_loss: sum / labels as f64,
        token_accuracy: correct as f64 / labels as f64,
        accuracy: shares / labelled as f64,
        rows: rows.len(),
        labels,
    })
}
