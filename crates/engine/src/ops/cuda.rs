//! An NVIDIA GPU as a [`Machine`]: candle's device, one stream, and this crate's kernels as PTX.
//!
//! `build.rs` compiles each `kernels/*.cu` twice, for GPUs of compute capability 8 and for 9 and above; the driver
//! makes machine code of the text when a file's first kernel is used. GPUs before 8.0 (Ampere) have none: there
//! everything is composed of candle's operations.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda::cudarc::cublas;
use candle_core::cuda::cudarc::driver::{CudaSlice, DevicePtr, LaunchConfig, PushKernelArg};
use candle_core::cuda::cudarc::driver::{result, sys};
use candle_core::cuda::{CudaStorageSlice, DeviceId};
use candle_core::{CudaDevice, DType, Device, Storage, Tensor};

use super::gpu::matmul::{Gemm, Operand};
use super::gpu::{Arg, Grid, Kernel, Machine};
use crate::error::{Error, Result};

/// A device and its machine; `None`: it is too old for the kernels.
type Known = (DeviceId, Option<Arc<dyn Machine>>);

/// The devices seen so far.
static MACHINES: Mutex<Vec<Known>> = Mutex::new(Vec::new());

/// A file's PTX for (8.x, 9.x and above).
macro_rules! ptx {
    ($file:literal) => {
        (
            $file,
            [
                include_str!(concat!(env!("OUT_DIR"), "/", $file, ".compute_80.ptx")),
                include_str!(concat!(env!("OUT_DIR"), "/", $file, ".compute_90.ptx")),
            ],
        )
    };
}

/// As `FILES` of build.rs.
const PTX: [(&str, [&str; 2]); 7] = [
    ptx!("activation"),
    ptx!("attention"),
    ptx!("embedding"),
    ptx!("head"),
    ptx!("optimizer"),
    ptx!("rms_norm"),
    ptx!("rope"),
];

/// The first GPU, with one stream for all threads of this process.
///
/// # Errors
/// When there is none, or its driver refuses.
pub fn first_gpu() -> candle_core::Result<Device> {
    let device = Device::new_cuda_with_stream(0)?;
    let cuda = device.as_cuda_device()?;
    #[expect(unsafe_code, reason = "the caller has to know how streams are used")]
    // SAFETY: candle and this crate use the device's one stream for everything, from whatever thread: what is
    // launched, copied or freed later happens later. Without this two events are made for each allocation.
    unsafe {
        cuda.disable_event_tracking();
    }
    keep_memory(cuda)?;
    Ok(device)
}

/// Memory that is freed stays with the process. By default its pool gives it back at each synchronisation, and every
/// step would ask the driver for it again.
fn keep_memory(cuda: &CudaDevice) -> candle_core::Result<()> {
    let stream = cuda.cuda_stream();
    let mut threshold = u64::MAX;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    #[expect(unsafe_code, reason = "a call of the driver's interface")]
    // SAFETY: the device is the stream's; the attribute is a 64-bit number, which lives through the call.
    let done = unsafe {
        result::device::get_default_mem_pool(stream.context().cu_device()).and_then(|pool| {
            result::mem_pool::set_attribute(pool, attribute, (&raw mut threshold).cast())
        })
    };
    done.map_err(candle_core::Error::wrap)
}

/// What runs this crate's kernels on `device`; `None` where the GPU is too old for them.
pub fn machine(device: &CudaDevice) -> Option<Arc<dyn Machine>> {
    let mut machines = MACHINES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, machine)) = machines.iter().find(|(id, _)| *id == device.id()) {
        return machine.clone();
    }
    let capability = device.cuda_stream().context().compute_capability();
    let text = match capability {
        Ok((9.., _)) => Some(1),
        Ok((8, _)) => Some(0),
        _ => None,
    };
    let machine: Option<Arc<dyn Machine>> = text.map(|text| {
        let (cuda, device) = (device.clone(), Device::Cuda(device.clone()));
        Arc::new(Cuda { device, cuda, text }) as Arc<dyn Machine>
    });
    machines.push((device.id(), machine.clone()));
    machine
}

struct Cuda {
    device: Device,
    cuda: CudaDevice,
    /// Which of a file's texts.
    text: usize,
}

/// What a kernel's argument is in memory.
enum Value {
    Address(u64),
    Int(i32),
    Long(i64),
    Float(f32),
}

impl Machine for Cuda {
    fn device(&self) -> &Device {
        &self.device
    }

    fn uninit(&self, shape: &[usize], dtype: DType) -> Result<Tensor> {
        #[expect(unsafe_code, reason = "memory that has not been written yet")]
        // SAFETY: it is the GPU's memory, of numbers without invalid bit patterns, and a kernel writes all of it
        // before it is read.
        let tensor = unsafe { Tensor::empty(shape, dtype, &self.device)? };
        Ok(tensor)
    }

    fn launch(&self, kernel: Kernel, grid: Grid, args: &[Arg<'_>]) -> Result<()> {
        let Some((file, texts)) = PTX.iter().find(|(file, _)| *file == kernel.file) else {
            return Err(Error::Internal(format!("no kernels/{}.cu", kernel.file)));
        };
        let module = format!("tallow_{file}");
        let function = self.cuda.get_or_load_custom_func(kernel.name, &module, texts[self.text])?;
        let values: Vec<Value> = args.iter().map(|arg| self.value(arg)).collect::<Result<_>>()?;
        let mut launch = function.builder();
        for value in &values {
            match value {
                Value::Address(x) => launch.arg(x),
                Value::Int(x) => launch.arg(x),
                Value::Long(x) => launch.arg(x),
                Value::Float(x) => launch.arg(x),
            };
        }
        let config = LaunchConfig {
            grid_dim: (grid.blocks.0, grid.blocks.1, 1),
            block_dim: (grid.threads, 1, 1),
            shared_mem_bytes: grid.scratch,
        };
        #[expect(unsafe_code, reason = "a kernel is not checked against its arguments")]
        // SAFETY: number, order and types of the arguments, sizes of buffers and scratch memory are what
        // tests/cuda_kernels.rs ran the same kernel with. The tensors live until the launch is on the stream, which
        // frees memory after what was launched before; nobody on the host holds a reference into them.
        let launched = unsafe { launch.launch(config) };
        launched.map(|_| ()).map_err(|e| Error::Tensor(candle_core::Error::wrap(e)))
    }

    fn gemm(&self, product: &Gemm<'_>) -> Result<()> {
        use cublas::sys::{cublasComputeType_t, cublasGemmAlgo_t};
        let (a, b, c) = (self.matrix(&product.a)?, self.matrix(&product.b)?, product.c);
        let (to, to_type) = (self.address(c)?, number(c.dtype())?);
        let ([m, n, k], blas) = (product.sizes, self.cuda.cublas_handle());
        let (alpha, beta) = (&raw const product.alpha, &raw const product.beta);
        #[expect(unsafe_code, reason = "a call of cuBLAS's interface")]
        // SAFETY: the addresses are of dense matrices of these types and sizes on the handle's device, alive until
        // the product is on its stream; sizes and strides are what tests/cuda_kernels.rs computes the same products
        // with; the factors live through the call, and are f32 as the arithmetic is.
        let done = unsafe {
            cublas::result::gemm_ex(
                *blas.handle(),
                a.op,
                b.op,
                m,
                n,
                k,
                alpha.cast(),
                a.address as *const _,
                a.number,
                a.stride,
                b.address as *const _,
                b.number,
                b.stride,
                beta.cast(),
                to as *mut _,
                to_type,
                m,
                cublasComputeType_t::CUBLAS_COMPUTE_32F,
                cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        };
        done.map_err(|e| Error::Tensor(candle_core::Error::wrap(e)))
    }
}

/// An operand as cuBLAS takes it.
struct Matrix {
    op: cublas::sys::cublasOperation_t,
    address: u64,
    number: cublas::sys::cudaDataType,
    stride: i32,
}

fn number(dtype: DType) -> Result<cublas::sys::cudaDataType> {
    match dtype {
        DType::F32 => Ok(cublas::sys::cudaDataType::CUDA_R_32F),
        DType::BF16 => Ok(cublas::sys::cudaDataType::CUDA_R_16BF),
        other => Err(Error::Internal(format!("a GPU product was given {other:?}"))),
    }
}

impl Cuda {
    fn matrix(&self, of: &Operand<'_>) -> Result<Matrix> {
        use cublas::sys::cublasOperation_t::{CUBLAS_OP_N, CUBLAS_OP_T};
        Ok(Matrix {
            op: if of.transposed { CUBLAS_OP_T } else { CUBLAS_OP_N },
            address: self.address(of.tensor)?,
            number: number(of.tensor.dtype())?,
            stride: of.stride,
        })
    }

    fn value(&self, arg: &Arg<'_>) -> Result<Value> {
        Ok(match arg {
            Arg::Read(tensor) | Arg::Write(tensor) => Value::Address(self.address(tensor)?),
            Arg::Int(x) => Value::Int(*x),
            Arg::Long(x) => Value::Long(*x),
            Arg::Float(x) => Value::Float(*x),
        })
    }

    /// Where a dense tensor's first number is.
    fn address(&self, tensor: &Tensor) -> Result<u64> {
        let (storage, layout) = tensor.storage_and_layout();
        let Some((start, _)) = layout.contiguous_offsets() else {
            return Err(Error::Internal("a GPU kernel was given a strided tensor".into()));
        };
        let Storage::Cuda(storage) = &*storage else {
            return Err(Error::Internal("a GPU kernel was given a tensor of the host's".into()));
        };
        let first = match &storage.slice {
            CudaStorageSlice::F32(x) => self.first(x),
            CudaStorageSlice::F64(x) => self.first(x),
            CudaStorageSlice::U32(x) => self.first(x),
            CudaStorageSlice::BF16(x) => self.first(x),
            _ => {
                let dtype = tensor.dtype();
                return Err(Error::Internal(format!("a GPU kernel was given {dtype:?}")));
            }
        };
        Ok(first + (start * tensor.dtype().size_in_bytes()) as u64)
    }

    fn first<T>(&self, slice: &CudaSlice<T>) -> u64 {
        slice.device_ptr(&self.cuda.cuda_stream()).0
    }
}
