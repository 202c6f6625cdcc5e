//! Token embedding: rows of the table, and the gradient as a sparse sum into them.

use candle_core::Tensor;

use crate::error::{Error, Result};
use crate::ops::gpu;
use crate::tensor::{Place, from_vec, place, update, view};

/// Rows `ids` of `table_vd`, times `scale` (sqrt(d) for Gemma, otherwise 1): [t, d].
///
/// # Errors
/// When an id lies outside the table.
pub fn forward(table_vd: &Tensor, ids: &[u32], scale: f32) -> Result<Tensor> {
    let (v, d) = table_vd.dims2()?;
    check_ids(ids, v)?;
    match place(table_vd) {
        Place::Host => {}
        Place::Gpu(m) => return gpu::embedding::forward(&*m, table_vd, ids, scale),
        Place::Composed => {
            let index = Tensor::new(ids, table_vd.device())?;
            return Ok((table_vd.index_select(&index, 0)? * f64::from(scale))?);
        }
    }
    let table = view(table_vd)?;
    let mut out = Vec::with_capacity(ids.len() * d);
    for id in ids {
        let row = &table[*id as usize * d..][..d];
        out.extend(row.iter().map(|x| x * scale));
    }
    from_vec(out, (ids.len(), d))
}

/// Adds `scale * dx_td` to the rows `ids` of `dtable_vd`, in token order.
///
/// # Errors
/// When an id lies outside the table.
pub fn backward(dtable_vd: &mut Tensor, ids: &[u32], scale: f32, dx_td: &Tensor) -> Result<()> {
    let (v, d) = dtable_vd.dims2()?;
    check_ids(ids, v)?;
    match place(dx_td) {
        Place::Host => {}
        Place::Gpu(m) => return gpu::embedding::backward(&*m, dtable_vd, ids, scale, dx_td),
        Place::Composed => {
            let index = Tensor::new(ids, dx_td.device())?;
            *dtable_vd = dtable_vd.index_add(&index, &(dx_td * f64::from(scale))?, 0)?;
            return Ok(());
        }
    }
    let dx = view(dx_td)?;
    update(dtable_vd, |table| {
        for (id, dx) in ids.iter().zip(dx.chunks_exact(d)) {
            for (row, dx) in table[*id as usize * d..][..d].iter_mut().zip(dx) {
                *row += scale * dx;
            }
        }
    })
}

pub(crate) fn check_ids(ids: &[u32], vocab: usize) -> Result<()> {
    match ids.iter().find(|id| **id as usize >= vocab) {
        None => Ok(()),
        Some(id) => Err(Error::input(
            format!("token id {id}"),
            format!(
                "lies outside the model's vocabulary of {vocab}; use the tokenizer that belongs to \
                 this model"
            ),
        )),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::ops::testing::{close, random};

    #[test]
    fn lookup_and_sparse_gradient() {
        let table = random(1, (10, 6));
        let ids = [3u32, 0, 3, 9];
        let index = Tensor::new(&ids, table.device()).unwrap();
        let want = (table.index_select(&index, 0).unwrap() * 2.0).unwrap();
        close(&forward(&table, &ids, 2.0).unwrap(), &want, 1e-7);
        let dx = random(2, (4, 6));
        let mut grad = table.zeros_like().unwrap();
        backward(&mut grad, &ids, 2.0, &dx).unwrap();
        let want = table.zeros_like().unwrap().index_add(&index, &(dx * 2.0).unwrap(), 0).unwrap();
        close(&grad, &want, 1e-6);
        assert!(forward(&table, &[10], 1.0).is_err());
    }
}
