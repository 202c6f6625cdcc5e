//! Operations on a GPU: which kernels of `kernels/*.cu` run, with what, over how many threads.
//!
//! An operation here is a few launches on a [`Machine`]. There are two: `ops::cuda`, an NVIDIA GPU, in builds with
//! the feature `cuda`; and the test's, which runs the same kernels on a CPU with the same grids and arguments.
//! All that is not the driver's is therefore tested without a GPU: `tests/cuda_kernels.rs`.
//!
//! Tensors are f32 and made dense before a kernel sees them; results do not depend on the order in which blocks run.
//! Shape letters as in [`crate::ops`].

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};

pub mod activation;
pub mod attention;
pub mod embedding;
pub mod head;
pub mod matmul;
pub mod optimizer;
pub mod rms_norm;
pub mod rope;

/// Threads of a block, but for rows that are shorter.
pub const THREADS: usize = 256;

/// Threads that advance together; blocks are of whole warps.
const WARP: usize = 32;

/// Blocks of an elementwise launch; each thread goes on to further elements where there are more.
const MOST_BLOCKS: usize = 4096;

/// A function of `kernels/FILE.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// The file's name without its end.
    pub file: &'static str,
    /// The function's name.
    pub name: &'static str,
}

/// How many threads run a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Blocks along x and y.
    pub blocks: (u32, u32),
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of a block's scratch memory.
    pub scratch: u32,
}

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub enum Arg<'a> {
    /// A dense tensor that is only read.
    Read(&'a Tensor),
    /// A dense tensor that is written, or read and written.
    Write(&'a Tensor),
    /// `int`.
    Int(i32),
    /// `long long`.
    Long(i64),
    /// `float`.
    Float(f32),
}

/// Where kernels run. Launches happen one after the other, in the order they were asked for.
pub trait Machine: Send + Sync {
    /// Where its tensors are.
    fn device(&self) -> &Device;

    /// A tensor whose numbers nobody has written yet.
    ///
    /// # Errors
    /// When the device has no memory left.
    fn uninit(&self, shape: &[usize], dtype: DType) -> Result<Tensor>;

    /// Runs a kernel. It may not have happened yet when this returns; reading a tensor waits for it.
    ///
    /// # Errors
    /// When the kernel cannot be started.
    fn launch(&self, kernel: Kernel, grid: Grid, args: &[Arg<'_>]) -> Result<()>;

    /// A product of matrices, in its turn among the launches.
    ///
    /// # Errors
    /// As [`Machine::launch`].
    fn gemm(&self, product: &matmul::Gemm<'_>) -> Result<()>;
}

impl Grid {
    /// A thread for each of `n` elements, up to a number of threads that fills any GPU.
    fn elements(n: usize) -> Self {
        let blocks = n.div_ceil(THREADS).min(MOST_BLOCKS);
        Self { blocks: (blocks as u32, 1), threads: THREADS as u32, scratch: 0 }
    }

    /// A block for each of `rows` rows of `width`, which reduces numbers of `bytes` bytes.
    fn rows(rows: usize, width: usize, bytes: usize) -> Result<Self> {
        let threads = width.next_multiple_of(WARP).clamp(WARP, THREADS) as u32;
        // one number a warp: MOST_WARPS of common.cuh
        let scratch = (32 * bytes) as u32;
        Ok(Self { blocks: (count(rows)?, 1), threads, scratch })
    }
}

/// Launches, where there is anything to do.
fn launch(m: &dyn Machine, kernel: Kernel, grid: Grid, args: &[Arg<'_>]) -> Result<()> {
    if grid.blocks.0 == 0 || grid.blocks.1 == 0 {
        return Ok(());
    }
    m.launch(kernel, grid, args)
}

/// A tensor of f32 like `shape`, not yet written.
fn output(m: &dyn Machine, shape: &[usize]) -> Result<Tensor> {
    m.uninit(shape, DType::F32)
}

/// `numbers` on the machine.
fn upload<T: candle_core::WithDType>(m: &dyn Machine, numbers: &[T]) -> Result<Tensor> {
    Ok(Tensor::from_slice(numbers, numbers.len(), m.device())?)
}

/// `tensor` with its numbers one after the other: itself, nearly always.
fn dense(tensor: &Tensor) -> Result<Tensor> {
    if tensor.dtype() != DType::F32 {
        return Err(Error::Internal(format!("a GPU kernel was given {:?}", tensor.dtype())));
    }
    Ok(tensor.contiguous()?)
}

/// A number of blocks.
fn count(n: usize) -> Result<u32> {
    u32::try_from(n).map_err(|_| too_large(n))
}

/// A size as a kernel's `int`.
fn int(n: usize) -> Result<Arg<'static>> {
    i32::try_from(n).map(Arg::Int).map_err(|_| too_large(n))
}

/// A number of elements as a kernel's `long long`.
fn long(n: usize) -> Result<Arg<'static>> {
    i64::try_from(n).map(Arg::Long).map_err(|_| too_large(n))
}

fn too_large(n: usize) -> Error {
    Error::Internal(format!("a GPU kernel was asked for a size of {n}"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn grids_cover_what_they_should() {
        for (n, blocks) in [(0, 0), (1, 1), (256, 1), (257, 2), (1 << 30, 4096)] {
            assert_eq!(Grid::elements(n).blocks, (blocks, 1), "{n}");
        }
        for (width, threads) in [(1, 32), (33, 64), (256, 256), (4096, 256)] {
            let grid = Grid::rows(7, width, 8).unwrap();
            assert_eq!((grid.blocks, grid.threads, grid.scratch), ((7, 1), threads, 256));
        }
        assert!(int(1 << 31).is_err());
    }
}
