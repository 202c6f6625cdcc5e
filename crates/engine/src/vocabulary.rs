//! Tokens that a run adds to the vocabulary, and the rows of the embedding for them.
//!
//! The embedding grows to the next multiple of 64 where the tokenizer is larger than it. A new row is
//! the mean of the old rows with noise of standard deviation 1/sqrt(width), or the mean of the rows of
//! the token's description; the noise is a function of the seed alone.

use std::path::Path;

use run::config::Config;
use run::fields::InitSpecialTokens;
use serde_json::Value;

use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::model::config::ModelConfig;
use crate::model::weights::{Data, WeightData, Weights};
use crate::observer::Observer;
use crate::rng::{Purpose, Stream};

/// Rows of a resized embedding are a multiple of this, as in the reference.
const MULTIPLE: usize = 64;

/// How an embedding grows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resize {
    /// Rows that it is to have.
    pub rows: usize,
    /// Ids of new tokens, and the ids of the description that each row begins as.
    described: Vec<(u32, Vec<u32>)>,
    /// Described rows get noise too.
    noise: bool,
}

/// What `add_tokens`, `add_special_tokens` and `new_special_tokens_config` made of the tokenizer.
#[derive(Clone, Debug, Default)]
pub struct Added {
    /// The vocabulary has grown, so the embedding must be resized.
    grown: bool,
    descriptions: Vec<(String, String)>,
}

/// Sets the tokenizer up as the arguments say: which text is read as special tokens, and new tokens.
///
/// # Errors
/// When a token cannot be added, or the file of descriptions cannot be read.
pub fn extend(config: &Config, tokenizer: &mut Tokenizer, io: &mut dyn Observer) -> Result<Added> {
    tokenizer.set_split_special_tokens(config.split_special_tokens);
    let mut added = Added::default();
    let mut special = config.add_special_tokens.clone();
    if let Some(path) = &config.new_special_tokens_config {
        added.descriptions = read_descriptions(Path::new(path))?;
        if !special.is_empty() {
            io.warn(
                "Both `add_special_tokens` and `new_special_tokens_config` are given; the latter counts."
                    .into(),
            )?;
        }
        special = added.descriptions.iter().map(|(token, _)| token.clone()).collect();
        io.say(format!("Loaded {} tokens with descriptions from {path}.", special.len()))?;
    }
    if added.descriptions.is_empty() && config.init_special_tokens != InitSpecialTokens::NoiseInit {
        io.warn(format!(
            "init_special_tokens: {} needs `new_special_tokens_config`; new rows begin as with noise_init.",
            config.init_special_tokens
        ))?;
    }
    for (tokens, is_special, name) in
        [(&config.add_tokens, false, "tokens"), (&special, true, "special tokens")]
    {
        if tokens.is_empty() {
            continue;
        }
        let count = tokenizer.add_tokens(tokens, is_special)?;
        io.say(format!("Add {name} {} to tokenizer's vocabulary.", tokens.join(",")))?;
        if count > 0 && !config.resize_vocab && !added.grown {
            io.warn("New tokens have been added, changed `resize_vocab` to True.".into())?;
        }
        added.grown |= count > 0;
    }
    Ok(added)
}

/// How the embedding of `model` must grow for `tokenizer`; `None` where it need not, or where nobody
/// asked for it.
///
/// # Errors
/// When a description has no tokens.
pub fn plan(
    config: &Config,
    added: &Added,
    tokenizer: &Tokenizer,
    model: &ModelConfig,
) -> Result<Option<Resize>> {
    let wanted = config.resize_vocab || added.grown;
    if !wanted || tokenizer.vocab_size() <= model.vocab_size {
        return Ok(None);
    }
    let mut resize = Resize {
        rows: tokenizer.vocab_size().next_multiple_of(MULTIPLE),
        noise: config.init_special_tokens == InitSpecialTokens::DescInitWNoise,
        ..Resize::default()
    };
    if config.init_special_tokens == InitSpecialTokens::NoiseInit {
        return Ok(Some(resize));
    }
    for (token, text) in &added.descriptions {
        let wrong = |why: String| Error::input("new_special_tokens_config", why);
        let ids = tokenizer.encode(text).map_err(|e| wrong(format!("{token}: {e}")))?;
        let old: Vec<u32> =
            ids.into_iter().filter(|id| (*id as usize) < model.vocab_size).collect();
        if old.is_empty() {
            return Err(wrong(format!("the description of {token} has no token of the model")));
        }
        // A token that the model knows already keeps its row.
        let new = tokenizer.id(token).filter(|id| *id as usize >= model.vocab_size);
        resize.described.extend(new.map(|id| (id, old)));
    }
    Ok(Some(resize))
}

impl Resize {
    /// Grows `config` and the embedding, and lm_head where it is not tied, among `weights`.
    pub fn apply(&self, config: &mut ModelConfig, weights: &mut Weights, seed: u64) {
        for (layer, name) in ["model.embed_tokens.weight", "lm_head.weight"].into_iter().enumerate()
        {
            if let Some(weight) = weights.get_mut(name) {
                self.grow(weight, seed, layer as u32);
            }
        }
        config.vocab_size = self.rows;
    }

    fn grow(&self, weight: &mut WeightData, seed: u64, layer: u32) {
        let [old_rows, width] = weight.shape[..] else {
            return;
        };
        if old_rows == 0 || width == 0 || self.rows <= old_rows {
            return;
        }
        let mut values = match std::mem::replace(&mut weight.data, Data::F32(Vec::new())) {
            Data::F32(values) => values,
            Data::Bf16(values) => values.into_iter().map(half::bf16::to_f32).collect(),
        };
        let mut noise = vec![0f32; (self.rows - old_rows) * width];
        Stream::new(seed, Purpose::NewTokens, 0, layer)
            .fill_normal(&mut noise, 1.0 / (width as f32).sqrt());
        let mean = mean_of(&values, width, 0..old_rows);
        for row in noise.chunks_exact_mut(width) {
            row.iter_mut().zip(&mean).for_each(|(x, m)| *x += m);
        }
        for (id, text) in &self.described {
            let at = (*id as usize - old_rows) * width;
            let from = mean_of(&values, width, text.iter().map(|id| *id as usize));
            let row = noise[at..at + width].iter_mut().zip(mean.iter().zip(from));
            row.for_each(|(x, (mean, from))| *x = if self.noise { *x - mean + from } else { from });
        }
        values.extend(noise);
        weight.shape[0] = self.rows;
        weight.data = Data::F32(values);
    }
}

/// The mean of these rows; sums in f64, in order.
fn mean_of(values: &[f32], width: usize, rows: impl Iterator<Item = usize>) -> Vec<f32> {
    let mut sum = vec![0f64; width];
    let mut count = 0u32;
    for row in rows {
        let row = &values[row * width..(row + 1) * width];
        sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
        count += 1;
    }
    sum.into_iter().map(|sum| (sum / f64::from(count.max(1))) as f32).collect()
}

/// `token: description` lines of a YAML file, or of a JSON object.
fn read_descriptions(path: &Path) -> Result<Vec<(String, String)>> {
    let field = "new_special_tokens_config";
    let pairs = run::config::read_pairs(path).map_err(|e| Error::input(field, e.to_string()))?;
    let text = |(token, value): (String, Value)| match value {
        Value::String(text) if !text.is_empty() && !token.is_empty() => Ok((token, text)),
        _ => Err(Error::input(
            field,
            format!("{}: the description of `{token}` must be a text", path.display()),
        )),
    };
    let read = pairs.into_iter().map(text).collect::<Result<Vec<_>>>()?;
    if read.is_empty() {
        return Err(Error::input(field, format!("{}: names no token", path.display())));
    }
    Ok(read)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn grown(resize: &Resize, seed: u64) -> Vec<f32> {
        let rows = vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let mut weight = WeightData::f32(vec![3, 2], rows);
        resize.grow(&mut weight, seed, 0);
        assert_eq!(weight.shape, [64, 2]);
        match weight.data {
            Data::F32(values) => values,
            Data::Bf16(_) => Vec::new(),
        }
    }

    #[test]
    fn new_rows_begin_near_the_mean_or_as_their_description() {
        let plain = Resize { rows: 64, ..Resize::default() };
        let values = grown(&plain, 1);
        assert_eq!(values[..6], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(values, grown(&plain, 1));
        assert_ne!(values, grown(&plain, 2));
        for column in 0..2 {
            let new: Vec<f32> = values[6..].iter().skip(column).step_by(2).copied().collect();
            let mean = new.iter().sum::<f32>() / new.len() as f32;
            let var = new.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / new.len() as f32;
            assert!((mean - 3.0 - column as f32).abs() < 0.3, "{mean}");
            assert!((var - 0.5).abs() < 0.25, "{var}");
        }
        let described = Resize { described: vec![(4, vec![0, 2])], ..plain.clone() };
        let exact = grown(&described, 1);
        assert_eq!(exact[8..10], [3.0, 4.0]);
        assert_eq!(exact[10..], values[10..]);
        let noisy = grown(&Resize { noise: true, ..described }, 1);
        assert!((noisy[8] - values[8]).abs() < 1e-5 && noisy[8] != 3.0);
    }

    #[test]
    fn descriptions_are_read_or_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.yaml");
        let check = |text: &str, expected: Result<Vec<(&str, &str)>, &str>| {
            std::fs::write(&path, text).unwrap();
            match (read_descriptions(&path), expected) {
                (Ok(read), Ok(expected)) => {
                    let read: Vec<_> = read.iter().map(|(t, d)| (&**t, &**d)).collect();
                    assert_eq!(read, expected);
                }
                (Err(error), Err(part)) => {
                    assert!(error.to_string().contains(part), "{error}");
                }
                (read, _) => panic!("{text}: {read:?}"),
            }
        };
        check(
            "\"<a>\": \"begins\"\n\"<b>\": ends it\n",
            Ok(vec![("<a>", "begins"), ("<b>", "ends it")]),
        );
        check("<a>: 1", Err("must be a text"));
        check("", Err("names no token"));
        check("- x", Err("name: value"));
    }
}
