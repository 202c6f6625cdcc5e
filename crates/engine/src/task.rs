//! What is asked of a config besides training: its rows, its loss.

use run::config::Config;
use run::event::Phase;
use serde_json::Value;

use crate::data::preview::preview_row;
use crate::error::Result;
use crate::eval::{self, EvalLoss};
use crate::observer::Observer;
use crate::prepare::{self, Surroundings};
use crate::rows::Rows;

/// Encodes the rows of `config` and gives each as a JSON object to `sink`, `limit` at the most.
/// Needs tokenizer files alone, and not even those for rows of tokens.
///
/// # Errors
/// When an input cannot be used, and what `sink` returns.
pub fn rows(
    config: &Config,
    around: &Surroundings,
    limit: Option<usize>,
    io: &mut dyn Observer,
    mut sink: impl FnMut(Value) -> Result<()>,
) -> Result<()> {
    let location = prepare::locate(config, around)?;
    let texts = prepare::load_texts(config, around, &location, None, io)?;
    let limit = limit.unwrap_or(usize::MAX);
    for row in texts.dataset.train.iter().take(limit) {
        sink(preview_row(row, texts.tokenizer.as_ref()))?;
    }
    let Some(mut stream) = texts.stream else {
        return Ok(());
    };
    // One pass over the data, in the order in which training sees it.
    let kit = texts.tokenizer.as_ref().zip(texts.template.as_ref());
    for _ in 0..limit {
        let row = stream.next(kit)?;
        if stream.epoch() > 0 {
            break;
        }
        sink(preview_row(&row, texts.tokenizer.as_ref()))?;
    }
    stream.take_report().lines().into_iter().try_for_each(|line| io.warn(line))?;
    Ok(())
}

/// The loss of the config's model (with its adapters) on eval_dataset, else on the val_size split,
/// else on dataset.
///
/// # Errors
/// When an input cannot be used.
pub fn evaluate(
    config: &Config,
    around: &Surroundings,
    io: &mut dyn Observer,
) -> Result<Vec<(String, EvalLoss)>> {
    around.install(config, |_| {
        let prepared = prepare::load_for_eval(config, around, io)?;
        let sets = match (prepared.eval.is_empty(), prepared.train) {
            (true, Rows::Held(train)) => vec![(String::new(), train)],
            _ => prepared.eval,
        };
        io.phase(Phase::Evaluating)?;
        let mut found = Vec::new();
        for (name, rows) in sets {
            let total = rows.len() as u64;
            let batch = config.per_device_eval_batch_size;
            let mut told = io.elapsed_s();
            let losses = eval::run(&prepared.decoder, &rows, batch, |done| {
                if io.elapsed_s() - told < 0.5 {
                    return Ok(());
                }
                told = io.elapsed_s();
                io.progress(Phase::Evaluating, done as u64, total)
            })?;
            found.push((name, losses));
        }
        Ok(found)
    })
}
