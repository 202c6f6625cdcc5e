//! The norms of a layer beside those before its branches, and every norm's way back.

use candle_core::Tensor;

use super::Block;
use crate::error::Result;
use crate::model::store::{Grads, ParamId, Params};

impl Block {
    #[expect(clippy::type_complexity, reason = "the raw tensors with their rstd")]
    pub(super) fn norm_qk(
        &self,
        p: &Params,
        q: Tensor,
        k: Tensor,
    ) -> Result<(Tensor, Tensor, Option<[(Tensor, Tensor); 2]>)> {
        let Some([q_norm, k_norm]) = self.qk_norms else {
            return Ok((q, k, None));
        };
        let (q_normed, q_rstd) = self.norm.forward(&q, p.value(q_norm))?;
        let (k_normed, k_rstd) = self.norm.forward(&k, p.value(k_norm))?;
        Ok((q_normed, k_normed, Some([(q, q_rstd), (k, k_rstd)])))
    }

    pub(super) fn norm_qk_backward(
        &self,
        p: &Params,
        grads: &mut Grads,
        dq: Tensor,
        dk: Tensor,
        raw: Option<&[(Tensor, Tensor); 2]>,
    ) -> Result<(Tensor, Tensor)> {
        let (Some([q_norm, k_norm]), Some([(q, q_rstd), (k, k_rstd)])) = (self.qk_norms, raw)
        else {
            return Ok((dq, dk));
        };
        let zero = |like: &Tensor| Ok::<_, crate::error::Error>(like.zeros_like()?);
        let dq_raw = self.norm_backward(p, grads, q_norm, zero(&dq)?, &dq, q, q_rstd)?;
        let dk_raw = self.norm_backward(p, grads, k_norm, zero(&dk)?, &dk, k, k_rstd)?;
        Ok((dq_raw, dk_raw))
    }

    pub(super) fn post_norm(
        &self,
        p: &Params,
        which: usize,
        branch: Tensor,
    ) -> Result<(Tensor, Option<(Tensor, Tensor)>)> {
        let Some(norms) = self.post_norms else {
            return Ok((branch, None));
        };
        let (y, rstd) = self.norm.forward(&branch, p.value(norms[which]))?;
        Ok((y, Some((branch, rstd))))
    }

    /// The branch's gradient; `None` = `dy` itself.
    pub(super) fn post_norm_backward(
        &self,
        p: &Params,
        grads: &mut Grads,
        which: usize,
        dy: &Tensor,
        raw: Option<&(Tensor, Tensor)>,
    ) -> Result<Option<Tensor>> {
        let (Some(norms), Some((x, rstd))) = (self.post_norms, raw) else {
            return Ok(None);
        };
        let zero = dy.zeros_like()?;
        Ok(Some(self.norm_backward(p, grads, norms[which], zero, dy, x, rstd)?))
    }

    #[expect(clippy::too_many_arguments, reason = "one norm's operands")]
    pub(super) fn norm_backward(
        &self,
        p: &Params,
        grads: &mut Grads,
        weight: ParamId,
        dx: Tensor,
        dy: &Tensor,
        x: &Tensor,
        rstd: &Tensor,
    ) -> Result<Tensor> {
        let w = p.value(weight);
        let dw = grads.summed(weight, w)?;
        self.norm.backward(dx, dw, dy, x, w, rstd)
    }
}
