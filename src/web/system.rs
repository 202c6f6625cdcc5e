//! The state of server and machine, as the system page and the API tell it.

use serde::Serialize;
use utoipa::ToSchema;

use super::error::{Error, Result};
use super::state::AppState;
use crate::db;
use crate::gpu::Gpu;
use crate::machine::{self, Disk, Machine};

/// Less room than this on the data folder's disk is worth a warning.
const LOW_DISK: u64 = 2 << 30;
/// Less memory than this is, too.
const LOW_MEMORY: u64 = 1 << 30;

/// Server and machine.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct System {
    /// The program's version.
    pub version: &'static str,
    /// SQLite's version.
    pub sqlite: String,
    /// Seconds since the server was started.
    pub uptime_s: f64,
    /// The data folder.
    pub data_dir: String,
    /// Bytes of the database, with what is not yet merged.
    pub database_bytes: u64,
    /// Runs in it.
    pub runs: i64,
    /// Devices that can train.
    pub devices: Vec<Device>,
    /// NVIDIA devices that the driver tells of; they train where the program was built for them.
    pub gpus: Vec<Gpu>,
    /// Cores that this program may use.
    pub cores: usize,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes of memory that can be had.
    pub memory_free_bytes: u64,
    /// Processes that want to run, over the last minute.
    pub load: Option<f64>,
    /// Bytes of the disk that the data folder is on.
    pub disk_bytes: u64,
    /// Bytes of it that are free.
    pub disk_free_bytes: u64,
    /// Folders besides the data folder that runs may read.
    pub allowed_folders: Vec<String>,
    /// Whether people log in.
    pub login: bool,
    /// What is as it should be, and what is not.
    pub health: Vec<Check>,
}

/// Something that trains.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Device {
    /// `cpu`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Instruction sets that are used.
    pub features: Vec<&'static str>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Check {
    /// `database`, `folder`, `disk`, `memory` or `queue`.
    pub name: &'static str,
    /// Whether it is as it should be.
    pub good: bool,
}

impl System {
    /// As it is now.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn look(state: &AppState) -> Result<Self> {
        let (folder, jobs) = (state.config.data_dir.clone(), state.jobs.clone());
        let seen = tokio::task::spawn_blocking(move || {
            let size = |name: &str| folder.join(name).metadata().map_or(0, |file| file.len());
            let database = size("tallow.db") + size("tallow.db-wal");
            let writable = machine::is_writable(&folder);
            let disk = Disk::of(&folder).unwrap_or_default();
            (Machine::look(), disk, jobs.gpus(), database, writable)
        });
        let (machine, disk, gpus, database_bytes, writable) =
            seen.await.map_err(Error::internal)?;
        let counts = db::runs::counts(&state.db).await?;
        let queue = state.jobs.queue().await?;
        let sqlite = db::version(&state.db).await?;
        let check = |name, good| Check { name, good };
        #[expect(clippy::cast_precision_loss, reason = "milliseconds are far below 2^52")]
        let uptime_s = (state.clock.now_ms() - state.started_ms).max(0) as f64 / 1000.0;
        let name = if machine.cpu.is_empty() { "CPU".to_owned() } else { machine.cpu };
        Ok(Self {
            version: env!("CARGO_PKG_VERSION"),
            sqlite,
            uptime_s,
            data_dir: state.config.data_dir.display().to_string(),
            database_bytes,
            runs: counts.iter().map(|(_, count)| count).sum(),
            devices: vec![Device { kind: "cpu", name, features: machine.features }],
            gpus,
            cores: machine.cores,
            memory_bytes: machine.memory,
            memory_free_bytes: machine.memory_free,
            load: machine.load,
            disk_bytes: disk.size,
            disk_free_bytes: disk.free,
            allowed_folders: {
                let folders = state.config.allow_paths.iter();
                folders.map(|path| path.display().to_string()).collect()
            },
            login: state.config.wants_token(),
            health: vec![
                check("database", true),
                check("folder", writable),
                check("disk", disk.free >= LOW_DISK),
                check("memory", machine.memory_free >= LOW_MEMORY),
                check("queue", !queue.paused),
            ],
        })
    }
}
