//! Rounds a model's f32 weights to bf16: half the size, and what the sample model ships as.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use half::bf16;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

/// Rewrites `model.safetensors` and the `dtype` of `config.json` from folder `from` into `to`.
pub fn convert(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    let source = from.join("model.safetensors");
    let bytes = fs::read(&source).with_context(|| format!("cannot read {}", source.display()))?;
    let tensors = SafeTensors::deserialize(&bytes)
        .with_context(|| format!("{} is no safetensors file", source.display()))?;
    let mut rounded: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    for (name, tensor) in tensors.tensors() {
        if tensor.dtype() != Dtype::F32 {
            bail!("{}: {name} is {:?}, not F32", source.display(), tensor.dtype());
        }
        let (words, _) = tensor.data().as_chunks::<4>();
        let halves = words.iter().map(|word| bf16::from_f32(f32::from_le_bytes(*word)));
        let data = halves.flat_map(bf16::to_le_bytes).collect();
        rounded.push((name, tensor.shape().to_vec(), data));
    }
    rounded.sort();
    let views: Result<Vec<(&str, TensorView)>, _> = rounded
        .iter()
        .map(|(name, shape, data)| {
            TensorView::new(Dtype::BF16, shape.clone(), data).map(|view| (name.as_str(), view))
        })
        .collect();
    let format = [("format".to_owned(), "pt".to_owned())].into();
    let bytes = safetensors::serialize(views?, Some(format))?;
    super::write(&to.join("model.safetensors"), bytes)?;

    let config = from.join("config.json");
    let text = fs::read_to_string(&config).with_context(|| config.display().to_string())?;
    let mut config: serde_json::Value = serde_json::from_str(&text)?;
    config["dtype"] = "bfloat16".into();
    let text = serde_json::to_string_pretty(&config)? + "\n";
    super::write(&to.join("config.json"), text)
}
