//! LoRA on the token embedding: `y = table[id] + scale * a[:, id] bᵀ`, before Gemma's factor.
//!
//! No dropout acts on it, and a tied head does not see it (PEFT's `lora.Embedding`). Nothing of the
//! size of the table is made. Source: Hu et al., "LoRA", 2021; PEFT 0.18.1.

use candle_core::{Device, Tensor};

use super::store::{Grads, ParamId, Params};
use crate::error::Result;
use crate::ops::matmul;
use crate::tensor::{from_vec, on_host, update, view};

/// The adapter beside the embedding.
#[derive(Clone, Debug)]
pub struct EmbedLora {
    /// [r, v].
    pub a: ParamId,
    /// [d, r].
    pub b: ParamId,
    /// alpha / r, or alpha / sqrt(r).
    pub scale: f32,
}

impl EmbedLora {
    /// Whether one of its matrices is trained.
    #[must_use]
    pub fn trained(&self, params: &Params) -> bool {
        params.trainable(self.a) || params.trainable(self.b)
    }

    /// Adds the adapter's share to the embedded tokens, times `factor` (Gemma's sqrt(d)).
    ///
    /// # Errors
    /// When an id lies outside the table.
    pub fn forward(&self, params: &Params, ids: &[u32], factor: f32, y: Tensor) -> Result<Tensor> {
        let u = columns(params.value(self.a), ids)?;
        matmul::forward_add(params.precision, y, self.scale * factor, &u, params.value(self.b))
    }

    /// Adds the gradients of a and b.
    ///
    /// # Errors
    /// When an id lies outside the table.
    pub fn backward(
        &self,
        params: &Params,
        grads: &mut Grads,
        ids: &[u32],
        factor: f32,
        dy_td: &Tensor,
    ) -> Result<()> {
        let (a, b) = (params.value(self.a), params.value(self.b));
        let scale = self.scale * factor;
        if let Some((db, into)) = grads.slot(self.b, b)? {
            matmul::weight_grad(params.precision, db, into, scale, dy_td, &columns(a, ids)?)?;
        }
        if let Some(da) = grads.summed(self.a, a)? {
            add_columns(da, ids, &matmul::input_grad(params.precision, None, scale, dy_td, b)?)?;
        }
        Ok(())
    }

    /// Adds the adapter to the table itself.
    ///
    /// # Errors
    /// When a product fails.
    pub fn merge(&self, params: &Params, table_vd: &mut Tensor) -> Result<()> {
        let b_rd = params.value(self.b).t()?.contiguous()?;
        let (exact, into) = (matmul::Precision::F32, matmul::Into::Add);
        matmul::weight_grad(exact, table_vd, into, self.scale, params.value(self.a), &b_rd)
    }
}

/// Columns `ids` of `a_rv`, [t, r].
fn columns(a_rv: &Tensor, ids: &[u32]) -> Result<Tensor> {
    let (r, v) = a_rv.dims2()?;
    let host = a_rv.to_device(&Device::Cpu)?;
    let a = view(&host)?;
    let mut out = Vec::with_capacity(ids.len() * r);
    for id in ids {
        out.extend((0..r).map(|k| a[k * v + *id as usize]));
    }
    Ok(from_vec(out, (ids.len(), r))?.to_device(a_rv.device())?)
}

/// Adds rows of `du_tr` to the columns `ids` of `da_rv`, in token order.
fn add_columns(da_rv: &mut Tensor, ids: &[u32], du_tr: &Tensor) -> Result<()> {
    let (r, v) = da_rv.dims2()?;
    let host = du_tr.to_device(&Device::Cpu)?;
    let du = view(&host)?;
    let add = |da: &mut [f32]| {
        for (id, du) in ids.iter().zip(du.chunks_exact(r)) {
            for (k, du) in du.iter().enumerate() {
                da[k * v + *id as usize] += du;
            }
        }
    };
    if on_host(da_rv) {
        return update(da_rv, add);
    }
    let here = da_rv.to_device(&Device::Cpu)?;
    update(&here, |da| add(da))?;
    *da_rv = here.to_device(da_rv.device())?;
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::model::store::Role;
    use crate::ops::embedding;
    use crate::ops::testing::{close, dot, finite_difference, random};

    #[test]
    fn both_directions_and_the_merged_table() {
        let (v, d, r, factor) = (9, 6, 2, 2.0f32);
        let mut params = Params::default();
        let a = params.push("a".into(), random(1, (r, v)), Role::Adapter);
        let b = params.push("b".into(), random(2, (d, r)), Role::Adapter);
        params.set_trainable(|_| true);
        let lora = EmbedLora { a, b, scale: 0.5 };
        let (table, dy, ids) = (random(3, (v, d)), random(4, (4, d)), [3u32, 0, 3, 8]);
        let y = embedding::forward(&table, &ids, factor).unwrap();
        let y = lora.forward(&params, &ids, factor, y).unwrap();
        let mut merged = table.copy().unwrap();
        lora.merge(&params, &mut merged).unwrap();
        close(&y, &embedding::forward(&merged, &ids, factor).unwrap(), 1e-6);
        let mut grads = Grads::new(&params);
        lora.backward(&params, &mut grads, &ids, factor, &dy).unwrap();
        let loss = |a: &Tensor, b: &Tensor| {
            let mut other = Params::default();
            let (a, b) = (a.clone(), b.clone());
            let a = other.push("a".into(), a, Role::Adapter);
            let b = other.push("b".into(), b, Role::Adapter);
            let zero = Tensor::zeros((4, d), candle_core::DType::F32, &Device::Cpu).unwrap();
            let lora = EmbedLora { a, b, scale: 0.5 };
            dot(&lora.forward(&other, &ids, factor, zero).unwrap(), &dy)
        };
        let (av, bv) = (params.value(a), params.value(b));
        finite_difference(av, grads.get(a).unwrap(), 1e-2, |a| loss(a, bv));
        finite_difference(bv, grads.get(b).unwrap(), 1e-2, |b| loss(av, b));
    }
}
