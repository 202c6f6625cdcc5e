//! `do_predict`: the model's own answers to the evaluation rows, beside the ones that stand there.
//!
//! Each row's last answer is taken off and generated anew. `generated_predictions.jsonl` has LLaMA-Factory's
//! lines; its BLEU and ROUGE scores are not computed: they depend on the word lists of a Chinese
//! segmenter (jieba).

use std::collections::BTreeSet;
use std::path::PathBuf;

use run::event::Phase;
use serde_json::{Map, Value, json};

use crate::batch::{IGNORE, Sequence};
use crate::error::{Error, Result};
use crate::generate::{Sampling, generate};
use crate::observer::Observer;
use crate::report::rounded;
use crate::rng::{Purpose, Stream};
use crate::train::Run;

/// The file's name.
pub const FILE: &str = "generated_predictions.jsonl";
/// Seconds between two progress events.
const PROGRESS_EVERY_S: f64 = 0.5;

/// Answers every evaluation row, writes the file, and returns the figures of `predict_results.json`.
///
/// # Errors
/// When there is no tokenizer, a row has no answer to take off, or the file cannot be written.
pub fn write(run: &Run<'_>, io: &mut dyn Observer) -> Result<Map<String, Value>> {
    let Some(tokenizer) = &run.prepared.tokenizer else {
        return Err(Error::input("do_predict", "needs a model with a tokenizer"));
    };
    let config = run.config;
    let examples: Vec<Example> =
        run.prepared.eval.iter().flat_map(|(_, rows)| rows).flat_map(examples).collect();
    if examples.is_empty() {
        return Err(Error::input("do_predict", "no evaluation row has an answer to compare with"));
    }
    let words = run.prepared.template.as_ref().map_or(&[][..], |t| &t.stop_words);
    let stop: BTreeSet<u32> = tokenizer.stop_ids(words).into_iter().collect();
    let sampling = Sampling {
        sample: config.do_sample,
        temperature: config.temperature as f32,
        top_p: config.top_p as f32,
        top_k: config.top_k,
        repetition_penalty: config.repetition_penalty as f32,
    };
    let (began, mut told, mut text) = (io.elapsed_s(), 0.0, String::new());
    let total = examples.len() as u64;
    for (i, example) in examples.iter().enumerate() {
        if io.elapsed_s() - told >= PROGRESS_EVERY_S || i == 0 {
            told = io.elapsed_s();
            io.progress(Phase::Evaluating, i as u64, total)?;
        }
        let limit = match config.max_new_tokens {
            0 => config.max_length.saturating_sub(example.prompt.len()),
            new => new,
        };
        let stream = Stream::new(config.seed, Purpose::Sampling, i as u64, 0);
        let mut drawn = 0;
        let answer = generate(
            &run.prepared.decoder,
            &example.prompt,
            limit,
            &stop,
            || true,
            |z, seen| {
                drawn += 1;
                sampling.choose(z, seen, stream.uniform(drawn - 1))
            },
        )?;
        let shown = |ids: &[u32]| match config.skip_special_tokens {
            true => tokenizer.decode_clean(ids),
            false => tokenizer.decode(ids),
        };
        let quoted = |text: String| Value::from(text).to_string();
        text += &format!(
            "{{\"prompt\": {}, \"predict\": {}, \"label\": {}}}\n",
            quoted(tokenizer.decode(&example.prompt)),
            quoted(shown(&answer)),
            quoted(shown(&example.label)),
        );
    }
    let path: PathBuf = run.dir.path().join(FILE);
    run::atomic::write(&path, text.as_bytes()).map_err(|e| Error::io("write", &path, e))?;
    let runtime = io.elapsed_s() - began;
    let speed = rounded(total as f64 / runtime.max(1e-9), 3);
    let figures = json!({
        "predict_runtime": rounded(runtime, 4),
        "predict_samples_per_second": speed,
        "predict_steps_per_second": speed,
    });
    Ok(figures.as_object().cloned().unwrap_or_default())
}

/// A row without its last answer, and that answer.
struct Example {
    prompt: Vec<u32>,
    label: Vec<u32>,
}

/// The texts of a row (a packed one has several) that have an answer after a prompt.
fn examples(row: &Sequence) -> Vec<Example> {
    let starts: Vec<usize> = (0..row.positions.len()).filter(|i| row.positions[*i] == 0).collect();
    let ends = starts.iter().skip(1).copied().chain([row.input_ids.len()]);
    let one = |(start, end): (&usize, usize)| {
        let labels = &row.labels[*start..end];
        let last = labels.iter().rposition(|label| *label != IGNORE)?;
        let first = labels[..=last].iter().rposition(|label| *label == IGNORE)? + 1;
        Some(Example {
            prompt: row.input_ids[*start..start + first].to_vec(),
            label: row.input_ids[start + first..=start + last].to_vec(),
        })
    };
    starts.iter().zip(ends).filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_answer_is_taken_off() {
        let check = |labels: &[i32], positions: &[u32], expected: &[(&[u32], &[u32])]| {
            let ids: Vec<u32> = (10..10 + labels.len() as u32).collect();
            let mut row = Sequence::plain(ids, labels.to_vec());
            row.positions = positions.to_vec();
            let found = examples(&row);
            let got: Vec<_> = found.iter().map(|e| (&*e.prompt, &*e.label)).collect();
            assert_eq!(got, expected);
        };
        let x = IGNORE;
        check(&[x, x, 12, 13], &[0, 1, 2, 3], &[(&[10, 11], &[12, 13])]);
        check(&[x, 11, x, 13, 14, x], &[0, 1, 2, 3, 4, 5], &[(&[10, 11, 12], &[13, 14])]);
        let packed: [(&[u32], &[u32]); 2] = [(&[10], &[11]), (&[12], &[13])];
        check(&[x, 11, x, 13], &[0, 1, 0, 1], &packed);
        check(&[10, 11, x, x], &[0, 1, 0, 1], &[]);
    }
}
