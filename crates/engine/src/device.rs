//! Where a run computes: the CPU, or in a build with the feature `cuda` the first NVIDIA GPU.
//!
//! On a GPU the operations of [`crate::ops`] are kernels of our own ([`crate::ops::gpu`]) or composed of
//! candle's, whose products are cuBLAS's. What has neither form stays on the CPU, and the run says so.

use candle_core::Device;
use run::config::Config;
use run::fields::Optim;

use crate::error::Result;
use crate::observer::Observer;

/// The device of a run.
///
/// # Errors
/// What `io` returns.
pub fn choose(config: &Config, io: &mut dyn Observer) -> Result<Device> {
    if config.use_cpu || !cfg!(feature = "cuda") {
        return Ok(Device::Cpu);
    }
    if let Some(why) = only_on_cpu(config) {
        io.warn(format!("{why}: the run computes on the CPU"))?;
        return Ok(Device::Cpu);
    }
    match gpu() {
        Ok(device) => {
            io.say("Computing on the first GPU.".into())?;
            Ok(device)
        }
        Err(why) => {
            // candle adds a backtrace
            let why = why.to_string();
            let why = why.lines().next().unwrap_or_default();
            io.warn(format!("no GPU can be used ({why}): the run computes on the CPU"))?;
            Ok(Device::Cpu)
        }
    }
}

/// What of a config has kernels for the CPU alone.
fn only_on_cpu(config: &Config) -> Option<String> {
    if config.quantization_bit.is_some() {
        return Some(
            "quantization_bit: quantised weights are computed with on the CPU only".into(),
        );
    }
    if config.use_galore {
        return Some("use_galore has no GPU path".into());
    }
    match config.optim {
        Optim::AdamwTorch | Optim::AdamwTorchFused => None,
        optim => Some(format!("optim {} has no GPU path", optim.name())),
    }
}

#[cfg(feature = "cuda")]
fn gpu() -> candle_core::Result<Device> {
    crate::ops::cuda::first_gpu()
}

#[cfg(not(feature = "cuda"))]
fn gpu() -> candle_core::Result<Device> {
    candle_core::bail!("this build has no GPU code")
}
