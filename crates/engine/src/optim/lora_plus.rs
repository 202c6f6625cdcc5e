//! LoRA+: the B matrices of an adapter learn faster than the A matrices.
//!
//! LLaMA-Factory's groups: `lora_embedding_B` learns at a rate of its own, `lora_B` and whatever
//! has one dimension (DoRA's lengths, norms, biases) at `ratio` times the rate, the rest at the
//! rate itself. Weight decay is decided elsewhere and stays as it is.
//! Source: Hayou et al., "LoRA+: Efficient Low Rank Adaptation of Large Models", 2024.

use crate::model::store::{ParamId, Params};

/// What the learning rate is multiplied by, parameter by parameter; 1 where nothing is said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Factors(Vec<f64>);

impl Factors {
    /// LoRA+'s factors; `embedding` is the embedding's rate as a multiple of the others'.
    #[must_use]
    pub fn new(params: &Params, ratio: f64, embedding: f64) -> Self {
        let embedding = if embedding.is_finite() { embedding } else { 0.0 };
        let factor = |name: &str, rank: usize| match name {
            _ if name.contains("lora_embedding_B") => embedding,
            _ if name.contains("lora_B") || rank == 1 => ratio,
            _ => 1.0,
        };
        Self(params.iter().map(|(_, p)| factor(&p.name, p.value.rank())).collect())
    }

    /// The factor of one parameter.
    #[must_use]
    pub fn of(&self, id: ParamId) -> f64 {
        self.0.get(id.0).copied().unwrap_or(1.0)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::model::store::Role;
    use crate::tensor::from_vec;

    #[test]
    fn groups_of_llama_factory() {
        let mut params = Params::default();
        let at = "base_model.model.model.layers.0.mlp.up_proj";
        let cases = [
            (format!("{at}.lora_A.weight"), 2, 1.0),
            (format!("{at}.lora_B.weight"), 2, 16.0),
            (format!("{at}.lora_magnitude_vector"), 1, 16.0),
            ("base_model.model.model.embed_tokens.lora_embedding_A".into(), 2, 1.0),
            ("base_model.model.model.embed_tokens.lora_embedding_B".into(), 2, 0.01),
            ("lm_head.weight".into(), 2, 1.0),
            ("model.norm.weight".into(), 1, 16.0),
        ];
        for (name, rank, _) in &cases {
            let value = from_vec(vec![0.0; 4], if *rank == 1 { vec![4] } else { vec![2, 2] });
            params.push(name.clone(), value.unwrap(), Role::Adapter);
        }
        let factors = Factors::new(&params, 16.0, 0.01);
        for ((id, _), (name, _, expected)) in params.iter().zip(&cases) {
            assert_eq!(factors.of(id), *expected, "{name}");
            assert_eq!(Factors::default().of(id), 1.0);
        }
    }
}
