//! Launches of `kernels/embedding.cu`: rows of the table, and the gradient as a sparse sum into them.

use candle_core::Tensor;

use super::Arg::{Float, Read, Write};
use super::{Grid, Kernel, Machine, dense, int, launch, output, upload};
use crate::error::Result;

const fn kernel(name: &'static str) -> Kernel {
    Kernel { file: "embedding", name }
}

/// As [`crate::ops::embedding::forward`], for ids that were checked.
///
/// # Errors
/// When the machine refuses.
pub fn forward(m: &dyn Machine, table_vd: &Tensor, ids: &[u32], scale: f32) -> Result<Tensor> {
    let table = dense(table_vd)?;
    let (_, d) = table.dims2()?;
    let y = output(m, &[ids.len(), d])?;
    let index = upload(m, ids)?;
    let args = [Write(&y), Read(&table), Read(&index), int(d)?, Float(scale)];
    launch(m, kernel("embedding_forward"), Grid::rows(ids.len(), d, 0)?, &args)?;
    Ok(y)
}

/// As [`crate::ops::embedding::backward`], for ids that were checked.
///
/// # Errors
/// When the machine refuses.
pub fn backward(
    m: &dyn Machine,
    dtable_vd: &mut Tensor,
    ids: &[u32],
    scale: f32,
    dx_td: &Tensor,
) -> Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    let dx = dense(dx_td)?;
    *dtable_vd = dense(dtable_vd)?;
    let (_, d) = dtable_vd.dims2()?;
    let ByRow { rows, offsets, order } = ByRow::new(ids);
    let grid = Grid::rows(rows.len(), d, 0)?;
    let (rows, offsets, order) = (upload(m, &rows)?, upload(m, &offsets)?, upload(m, &order)?);
    let args = [Write(dtable_vd), Read(&dx), Read(&rows), Read(&offsets), Read(&order)];
    let args = [&args[..], &[int(d)?, Float(scale)]].concat();
    launch(m, kernel("embedding_backward"), grid, &args)
}

/// Tokens by the row they look up: row `rows[u]` is that of `order[offsets[u]..offsets[u + 1]]`, in token order.
#[derive(Debug, Default, PartialEq, Eq)]
struct ByRow {
    rows: Vec<u32>,
    offsets: Vec<u32>,
    order: Vec<u32>,
}

impl ByRow {
    fn new(ids: &[u32]) -> Self {
        let mut order: Vec<u32> = (0..ids.len() as u32).collect();
        order.sort_by_key(|token| ids[*token as usize]);
        let mut by = Self::default();
        for (at, token) in order.iter().enumerate() {
            let id = ids[*token as usize];
            if by.rows.last() != Some(&id) {
                by.rows.push(id);
                by.offsets.push(at as u32);
            }
        }
        by.offsets.push(ids.len() as u32);
        Self { order, ..by }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_stay_in_order() {
        let by = ByRow::new(&[7, 2, 7, 9, 2]);
        let want = (vec![2, 7, 9], vec![0, 2, 4, 5], vec![1, 4, 0, 2, 3]);
        assert_eq!((by.rows, by.offsets, by.order), want);
        assert_eq!(ByRow::new(&[]).offsets, [0]);
    }
}
