//! Floating-point operations of training: what the matrix products of a model need, 2 m n k each.
//!
//! Only what the mathematics asks for is counted: nothing that is computed again, nothing below
//! the lowest trained layer on the way back, and of the head only positions that carry a label.

use std::collections::HashSet;

use crate::batch::Batch;
use crate::model::decoder::Decoder;
use crate::model::params::{ParamKind, expected_params, layer_of};
use crate::model::store::Role;

/// One product of a linear layer over t tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Product {
    /// y = x wᵀ.
    Forward,
    /// dx = dy w.
    InputGrad,
    /// dw = dyᵀ x.
    WeightGrad,
}

/// A product of one shape: t tokens, `inputs` to `outputs` features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shape {
    /// Which of the three.
    pub product: Product,
    /// Tokens.
    pub tokens: usize,
    /// Features in.
    pub inputs: usize,
    /// Features out.
    pub outputs: usize,
}

impl Shape {
    /// Its floating-point operations.
    #[must_use]
    pub fn flops(&self) -> f64 {
        2.0 * self.tokens as f64 * self.inputs as f64 * self.outputs as f64
    }
}

/// What a micro-batch costs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cost {
    /// Every product of a linear layer, adapter or head.
    pub products: Vec<Shape>,
    /// Operations of attention's products, both ways.
    pub attention: f64,
}

impl Cost {
    /// All operations.
    #[must_use]
    pub fn flops(&self) -> f64 {
        self.attention + self.products.iter().map(Shape::flops).sum::<f64>()
    }
}

/// The cost of training on `batch`, forward and backward.
#[must_use]
pub fn of(decoder: &Decoder, batch: &Batch) -> Cost {
    let (config, params) = (&decoder.config, &decoder.params);
    let (tokens, labels) = (batch.len(), batch.predict.len());
    let lowest = decoder.lowest_trained();
    let names: HashSet<&str> =
        params.iter().filter(|(_, p)| p.trainable).map(|(_, p)| p.name.as_str()).collect();
    let trained = |name: &str| names.contains(name);
    let embedding_trained = trained("model.embed_tokens.weight");
    let mut cost = Cost::default();
    let mut add = |tokens, inputs, outputs, backward: bool, weight: bool| {
        let shape = |product| Shape { product, tokens, inputs, outputs };
        cost.products.push(shape(Product::Forward));
        cost.products.extend(backward.then(|| shape(Product::InputGrad)));
        cost.products.extend(weight.then(|| shape(Product::WeightGrad)));
    };
    for spec in expected_params(config).iter().filter(|s| s.kind == ParamKind::Matrix) {
        let Some(layer) = layer_of(&spec.name) else { continue };
        // The lowest layer's input needs no gradient when nothing below its matrices is trained.
        let reads_input =
            ["q_proj", "k_proj", "v_proj", "qkv_proj"].iter().any(|n| spec.name.contains(n));
        let norm = format!("model.layers.{layer}.input_layernorm.weight");
        let ends = layer == lowest && reads_input && !embedding_trained && !trained(&norm);
        add(tokens, spec.shape[1], spec.shape[0], layer >= lowest && !ends, trained(&spec.name));
    }
    for (_, p) in params.iter().filter(|(_, p)| p.role == Role::Adapter) {
        if let [outputs, inputs] = *p.value.dims() {
            add(tokens, inputs, outputs, p.trainable, p.trainable);
        }
    }
    let head = match config.tie_word_embeddings {
        true => embedding_trained,
        false => trained("lm_head.weight"),
    };
    add(labels, config.hidden_size, config.vocab_size, true, head);
    let width = (config.num_attention_heads * config.head_dim) as f64;
    for (layer, window) in layers(decoder).enumerate() {
        let pairs: f64 = batch.offsets.windows(2).map(|w| attended(w[1] - w[0], window)).sum();
        // scores and weighted values; backward has two products for each.
        let forward = 2.0 * 2.0 * pairs * width;
        cost.attention += if layer >= lowest { 3.0 * forward } else { forward };
    }
    cost
}

fn layers(decoder: &Decoder) -> impl Iterator<Item = Option<usize>> + '_ {
    let config = &decoder.config;
    (0..config.num_hidden_layers).map(|l| config.windows.get(l).copied().flatten())
}

/// Pairs of a query and a key that it sees, in a text of n tokens.
fn attended(n: usize, window: Option<usize>) -> f64 {
    let seen = window.unwrap_or(n).min(n) as f64;
    let n = n as f64;
    seen * (seen + 1.0) / 2.0 + (n - seen) * seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_counted_one_by_one() {
        let check = |n: usize, window: Option<usize>| {
            let seen = |q: usize| (q + 1).min(window.unwrap_or(n));
            let counted: usize = (0..n).map(seen).sum();
            assert_eq!(attended(n, window), counted as f64, "{n} {window:?}");
        };
        for n in [0, 1, 2, 7, 64] {
            for window in [None, Some(1), Some(3), Some(64), Some(1000)] {
                check(n, window);
            }
        }
    }
}
