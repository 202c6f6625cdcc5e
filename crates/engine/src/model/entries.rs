//! Some entries of a parameter, where not all of them are trained.

use candle_core::Tensor;

use crate::error::Result;
use crate::tensor::{from_vec, on_host, update, view, zeros};

/// Indices into a parameter's values, rows one after the other; each at most once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entries {
    indices: Vec<u32>,
}

impl Entries {
    /// `count` of `size` entries side by side, beginning at `from` and going on at 0.
    #[must_use]
    pub fn adjacent(from: usize, count: usize, size: usize) -> Self {
        Self::scattered((from..from + count).map(|i| (i % size) as u32).collect())
    }

    /// The entries with these indices.
    #[must_use]
    pub fn scattered(mut indices: Vec<u32>) -> Self {
        indices.sort_unstable();
        Self { indices }
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// The indices, ascending.
    #[must_use]
    pub fn indices(&self) -> &[u32] {
        &self.indices
    }

    /// Adds these entries of `from` to `sums` ([`Entries::len`] values), which is made when `None`.
    ///
    /// # Errors
    /// When a tensor cannot be read or written.
    pub fn gather_add(&self, sums: &mut Option<Tensor>, from: &Tensor) -> Result<()> {
        let device = from.device();
        let host = from.to_device(&candle_core::Device::Cpu)?;
        let values = view(&host)?;
        if on_host(from) {
            if sums.is_none() {
                *sums = Some(zeros(self.len(), device)?);
            }
            if let Some(sums) = sums {
                update(sums, |sums| {
                    for (sum, at) in sums.iter_mut().zip(&self.indices) {
                        *sum += values[*at as usize];
                    }
                })?;
            }
            return Ok(());
        }
        let picked: Vec<f32> = self.indices.iter().map(|at| values[*at as usize]).collect();
        let picked = from_vec(picked, self.len())?.to_device(device)?;
        *sums = Some(match sums.take() {
            Some(sums) => (sums + picked)?,
            None => picked,
        });
        Ok(())
    }
}
