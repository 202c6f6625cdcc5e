//! Host access to candle tensors: read a tensor as a slice, write it in place, make one from a
//! vector without a copy.
//!
//! Kernels of `ops` work on slices; tensors are what layers pass to each other. On a CPU device
//! these helpers never copy. All tensors of the engine are contiguous f32, but for the optimiser's 8-bit
//! moments, and for what the MLP keeps where products are of bf16 operands ([`crate::ops::rounded`]).

use std::cell::RefCell;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use candle_core::{
    CpuStorage, DType, Device, InplaceOp1, Layout, Shape, Storage, Tensor, WithDType,
};
use half::bf16;
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::ops::gpu::Machine;
use crate::simd::Stored;

static COMPOSED: AtomicBool = AtomicBool::new(false);
static EMULATED: OnceLock<Arc<dyn Machine>> = OnceLock::new();

/// Whether every operation is composed of candle's from now on, in the whole process, on any machine.
pub fn compose_everything(on: bool) {
    COMPOSED.store(on, Ordering::Relaxed);
}

/// Computes with `machine` what a GPU would, from now on, in the whole process: tensors stay in this machine's
/// memory. For tests. False where there is such a machine already.
pub fn emulate(machine: Arc<dyn Machine>) -> bool {
    EMULATED.set(machine).is_ok()
}

/// What computes an operation.
pub enum Place {
    /// This crate's CPU kernels: the tensor is in this machine's memory.
    Host,
    /// The kernels of [`crate::ops::gpu`].
    Gpu(Arc<dyn Machine>),
    /// Candle's operations, which the operation is composed of.
    Composed,
}

/// What computes with `tensor`.
#[must_use]
pub fn place(tensor: &Tensor) -> Place {
    place_of(tensor.device())
}

/// What computes with tensors of `device`: the one place that decides.
#[must_use]
pub fn place_of(device: &Device) -> Place {
    if COMPOSED.load(Ordering::Relaxed) {
        return Place::Composed;
    }
    match device {
        Device::Cpu => EMULATED.get().cloned().map_or(Place::Host, Place::Gpu),
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => {
            crate::ops::cuda::machine(device).map_or(Place::Composed, Place::Gpu)
        }
        _ => Place::Composed,
    }
}

/// Whether this crate's CPU kernels compute with `tensor`. Elsewhere what [`crate::ops::gpu`] has no kernels for is
/// composed of candle's operations.
#[must_use]
pub fn on_host(tensor: &Tensor) -> bool {
    tensor.device().is_cpu() && matches!(place(tensor), Place::Host)
}

/// A CPU tensor's elements, borrowed for reading.
pub struct View<'a, T = f32> {
    storage: candle_core::StorageRef<'a>,
    start: usize,
    len: usize,
    of: PhantomData<T>,
}

impl<T: Element> Deref for View<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // The constructors have checked the type.
        let data = if let Storage::Cpu(storage) = &*self.storage { T::read(storage) } else { None };
        data.map_or(&[], |data| &data[self.start..self.start + self.len])
    }
}

/// Borrows the elements of a contiguous f32 CPU tensor.
///
/// # Errors
/// When the tensor is elsewhere, of another dtype, or strided.
pub fn view(tensor: &Tensor) -> Result<View<'_>> {
    view_of(tensor)
}

/// As [`view`], for a tensor of `T`.
///
/// # Errors
/// As [`view`].
pub fn view_of<T: Element>(tensor: &Tensor) -> Result<View<'_, T>> {
    let (storage, layout) = tensor.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else {
        return Err(Error::Internal("a kernel was given a strided tensor".into()));
    };
    if !matches!(&*storage, Storage::Cpu(storage) if T::read(storage).is_some()) {
        return Err(Error::Internal(format!(
            "a CPU kernel was given a {:?} tensor on {:?}",
            tensor.dtype(),
            tensor.device().location()
        )));
    }
    Ok(View { storage, start, len: end - start, of: PhantomData })
}

/// Runs `write` on the elements of a contiguous f32 CPU tensor, in place.
///
/// # Errors
/// When the tensor is elsewhere, of another dtype, or strided; and what `write` returns.
pub fn update<R>(tensor: &Tensor, write: impl FnOnce(&mut [f32]) -> R) -> Result<R> {
    update_of(tensor, write)
}

/// As [`update`], for a tensor of `T`.
///
/// # Errors
/// As [`update`].
pub fn update_of<T: Element, R>(tensor: &Tensor, write: impl FnOnce(&mut [T]) -> R) -> Result<R> {
    let op = InPlace { write: RefCell::new(Some(write)), out: RefCell::new(None), of: PhantomData };
    tensor.inplace_op1(&op)?;
    op.out.into_inner().ok_or_else(|| Error::Internal("an in-place kernel did not run".into()))
}

/// What a CPU tensor may hold.
pub trait Element: Sized + Copy {
    /// The elements, where they are of this type.
    fn read(storage: &CpuStorage) -> Option<&[Self]>;

    /// As [`Element::read`], to be written.
    fn write(storage: &mut CpuStorage) -> Option<&mut [Self]>;
}

macro_rules! element {
    ($type:ty, $variant:ident) => {
        impl Element for $type {
            fn read(storage: &CpuStorage) -> Option<&[Self]> {
                if let CpuStorage::$variant(data) = storage { Some(data) } else { None }
            }

            fn write(storage: &mut CpuStorage) -> Option<&mut [Self]> {
                if let CpuStorage::$variant(data) = storage { Some(data) } else { None }
            }
        }
    };
}

element!(f32, F32);
element!(bf16, BF16);
element!(u8, U8);

struct InPlace<T, F, R> {
    write: RefCell<Option<F>>,
    out: RefCell<Option<R>>,
    of: PhantomData<T>,
}

impl<T: Element, F: FnOnce(&mut [T]) -> R, R> InplaceOp1 for InPlace<T, F, R> {
    fn name(&self) -> &'static str {
        "in-place kernel"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("an in-place kernel was given a strided tensor");
        };
        let Some(data) = T::write(storage) else {
            candle_core::bail!("an in-place kernel was given a tensor of another dtype");
        };
        if let Some(write) = self.write.borrow_mut().take() {
            *self.out.borrow_mut() = Some(write(&mut data[start..end]));
        }
        Ok(())
    }
}

/// A CPU tensor that takes over `data`.
///
/// # Errors
/// When the shape does not hold `data.len()` elements.
pub fn from_vec(data: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor> {
    from_vec_of(data, shape)
}

/// As [`from_vec`], for a tensor of `T`.
///
/// # Errors
/// As [`from_vec`].
pub fn from_vec_of<T: WithDType>(data: Vec<T>, shape: impl Into<Shape>) -> Result<Tensor> {
    Ok(Tensor::from_vec(data, shape.into(), &Device::Cpu)?)
}

/// A vector of `len` numbers that tasks fill, `chunk` at a time and each given which one, and what the
/// tasks return. A chunk is cleared right before it is filled, while it is in the task's cache: cleared as
/// a whole before, the vector would go through memory once more, on one thread.
pub fn filled<T: Stored, R: Send>(
    len: usize,
    chunk: usize,
    fill: impl Fn(usize, &mut [T]) -> R + Sync,
) -> (Vec<T>, Vec<R>) {
    let mut out: Vec<T> = Vec::with_capacity(len);
    let parts = out.spare_capacity_mut()[..len].par_chunks_mut(chunk.max(1)).enumerate();
    let task = |(i, part): (usize, &mut [MaybeUninit<T>])| {
        part.fill(MaybeUninit::new(T::ZERO));
        #[expect(unsafe_code, reason = "memory that was cleared just now")]
        // SAFETY: every element of the part was written.
        let part = unsafe { part.assume_init_mut() };
        fill(i, part)
    };
    let returned = parts.map(task).collect();
    #[expect(unsafe_code, reason = "memory that every task has cleared its part of")]
    // SAFETY: the parts are all of the first `len` elements, and each was written.
    unsafe {
        out.set_len(len);
    }
    (out, returned)
}

/// A tensor of `like`'s shape for a kernel that overwrites all of it: clearing it first would be a pass over memory.
///
/// # Safety
/// Every element is written before it is read.
///
/// # Errors
/// When the device cannot allocate it.
#[expect(unsafe_code, reason = "memory that has not been written yet")]
pub(crate) unsafe fn unwritten(like: &Tensor) -> Result<Tensor> {
    if !on_host(like) {
        return Ok(like.zeros_like()?);
    }
    // SAFETY: f32 has no invalid bit patterns; the caller's promise.
    Ok(unsafe { like.empty_like() }?)
}

/// A zero-filled f32 tensor on `device`.
///
/// # Errors
/// When the device cannot allocate it.
pub fn zeros(shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
    Ok(Tensor::zeros(shape.into(), DType::F32, device)?)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_in_place() {
        let t = from_vec(vec![1.0, 2.0, 3.0, 4.0], (2, 2)).unwrap();
        let row = t.narrow(0, 1, 1).unwrap();
        assert_eq!(&*view(&row).unwrap(), [3.0, 4.0]);
        update(&row, |s| s[0] = 9.0).unwrap();
        assert_eq!(&*view(&t).unwrap(), [1.0, 2.0, 9.0, 4.0]);
        let bytes = Tensor::zeros(3, DType::U8, &Device::Cpu).unwrap();
        update_of(&bytes, |b: &mut [u8]| b[1] = 7).unwrap();
        assert_eq!(bytes.to_vec1::<u8>().unwrap(), [0, 7, 0]);
        assert!(update(&bytes, |_| ()).is_err());
        assert!(view(&t.t().unwrap()).is_err());
        assert!(view(&t.to_dtype(DType::F64).unwrap()).is_err());
    }
}
