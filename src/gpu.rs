//! NVIDIA devices as their driver tells of them: how busy, how much memory, whose processes. The driver's library (NVML)
//! is loaded when it is first asked for and never linked; where there is none, there are no devices.

use std::fmt::Debug;
use std::sync::OnceLock;

use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;
use serde::Serialize;
use utoipa::ToSchema;

/// One device, now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Gpu {
    /// Its name.
    pub name: String,
    /// Percent of the last moment in which it computed.
    pub busy: u32,
    /// Bytes of its memory in use, by whomever.
    pub used: u64,
    /// Bytes of its memory.
    pub size: u64,
    /// Processes that compute on it.
    #[serde(skip)]
    pub pids: Vec<u32>,
}

/// What a worker's devices do, taken together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct Load {
    /// Percent of the last moment in which they computed, on average.
    pub busy: u32,
    /// Bytes of their memory in use, by whomever.
    pub used: u64,
    /// Bytes of their memory.
    pub size: u64,
}

/// Whoever can tell of devices.
pub trait Gpus: Debug + Send + Sync {
    /// All of them, now.
    fn look(&self) -> Vec<Gpu>;
}

/// The driver of this machine.
#[derive(Debug, Default)]
pub struct Nvidia(OnceLock<Option<Nvml>>);

impl Gpus for Nvidia {
    fn look(&self) -> Vec<Gpu> {
        let driver = self.0.get_or_init(|| {
            Nvml::init()
                .inspect_err(|error| tracing::debug!(%error, "no NVIDIA driver to ask"))
                .ok()
        });
        let Some(driver) = driver else {
            return Vec::new();
        };
        let count = driver.device_count().unwrap_or(0);
        (0..count).filter_map(|index| read(driver, index).ok()).collect()
    }
}

fn read(driver: &Nvml, index: u32) -> Result<Gpu, NvmlError> {
    let device = driver.device_by_index(index)?;
    let memory = device.memory_info()?;
    // a part of a device (MIG) has no utilisation, and some systems hide processes
    let busy = device.utilization_rates().map_or(0, |rates| rates.gpu.min(100));
    let processes = device.running_compute_processes().unwrap_or_default();
    Ok(Gpu {
        name: device.name()?,
        busy,
        used: memory.used,
        size: memory.total,
        pids: processes.into_iter().map(|process| process.pid).collect(),
    })
}

impl Load {
    /// The devices that a process computes on. Numbers of processes are another namespace's in a container: the only
    /// device there is then stands for it. `None` where there is no telling.
    #[must_use]
    pub fn of(gpus: &[Gpu], pid: i64) -> Option<Self> {
        let computes = |gpu: &&Gpu| gpu.pids.iter().any(|one| i64::from(*one) == pid);
        let own: Vec<&Gpu> = gpus.iter().filter(computes).collect();
        let own = match (own.is_empty(), gpus) {
            (true, [only]) => vec![only],
            _ => own,
        };
        let count = u32::try_from(own.len()).ok().filter(|count| *count > 0)?;
        Some(Self {
            busy: own.iter().map(|gpu| gpu.busy).sum::<u32>() / count,
            used: own.iter().map(|gpu| gpu.used).sum(),
            size: own.iter().map(|gpu| gpu.size).sum(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(busy: u32, used: u64, pids: &[u32]) -> Gpu {
        Gpu { name: "H200".to_owned(), busy, used, size: 100, pids: pids.to_vec() }
    }

    #[test]
    fn whose_devices() {
        let load = |busy, used, size| Some(Load { busy, used, size });
        for (gpus, expected) in [
            (vec![], None),
            (vec![gpu(80, 30, &[7])], load(80, 30, 100)),
            (vec![gpu(80, 30, &[8])], load(80, 30, 100)),
            (vec![gpu(80, 30, &[7]), gpu(10, 5, &[8])], load(80, 30, 100)),
            (vec![gpu(80, 30, &[7]), gpu(40, 5, &[8, 7])], load(60, 35, 200)),
            (vec![gpu(80, 30, &[]), gpu(10, 5, &[8])], None),
        ] {
            assert_eq!(Load::of(&gpus, 7), expected, "{gpus:?}");
        }
    }

    #[test]
    fn a_machine_without_a_driver_has_none() {
        let nvidia = Nvidia::default();
        let seen = nvidia.look();
        assert_eq!(seen.len(), nvidia.look().len(), "it is asked for once");
        assert!(seen.iter().all(|gpu| gpu.used <= gpu.size && gpu.busy <= 100));
    }
}
