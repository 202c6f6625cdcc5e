//! Processes: the only place that starts or kills one.
//!
//! A worker is this executable again, in a process group of its own, with no terminal and a short list of environment
//! variables. Its output goes to a file: a pipe that nobody drains would stop it.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;

use run::dir::RunDir;
use run::lock;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

/// What a worker may know of the server's environment.
const ENVIRONMENT: [&str; 16] = [
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "RAYON_NUM_THREADS",
    "SOURCE_DATE_EPOCH",
    "RUST_LOG",
    "RUST_BACKTRACE",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
    "MODELSCOPE_CACHE",
    "CUDA_VISIBLE_DEVICES",
];

/// Where workers keep what they would otherwise make again: the data folder's `cache`, unless told.
const CACHE: &str = "TALLOW_CACHE_DIR";

/// Starts `BIN worker RUN_DIR --after-wish SERIAL [--resume]`. Wishes up to `serial` are settled; `resume` lets it go on
/// from its own checkpoints even where the configuration says to overwrite.
///
/// # Errors
/// Where the log cannot be opened or the process cannot be started.
pub fn worker(
    bin: &Path,
    cwd: &Path,
    dir: &RunDir,
    serial: u64,
    resume: bool,
) -> io::Result<Child> {
    let log = OpenOptions::new().append(true).create(true).open(dir.worker_log())?;
    let mut command = Command::new(bin);
    command
        .arg("worker")
        .arg(dir.path())
        .arg("--after-wish")
        .arg(serial.to_string())
        .args(resume.then_some("--resume"))
        .current_dir(cwd)
        .env_clear()
        .envs(ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
        .env(CACHE, std::env::var_os(CACHE).unwrap_or_else(|| cwd.join("cache").into()))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .kill_on_drop(false);
    command.spawn()
}

/// Kills the process that holds the lock of a run, and no other: the kernel's table of locks says who that is. Returns
/// false where it cannot be told.
#[must_use]
pub fn kill_holder(dir: &RunDir) -> bool {
    let Some(pid) = lock::holder(dir).and_then(|pid| i32::try_from(pid).ok()) else {
        return false;
    };
    let Ok(inode) = fs::metadata(dir.lock()).map(|meta| meta.ino()) else {
        return false;
    };
    let table = fs::read_to_string("/proc/locks").unwrap_or_default();
    let Some(process) = Pid::from_raw(pid) else {
        return false;
    };
    holds(&table, pid, inode) && kill_process(process, Signal::KILL).is_ok()
}

/// A line is `1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF`: pid, then device and inode.
fn holds(table: &str, pid: i32, inode: u64) -> bool {
    table.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [_, "FLOCK", _, "WRITE", owner, file, ..] => {
                *owner == pid.to_string() && file.rsplit(':').next() == Some(&inode.to_string())
            }
            _ => false,
        }
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table() {
        let table = "1: POSIX  ADVISORY  WRITE 7 08:01:9 0 EOF\n2: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 55 08:01:5678 0 EOF\n3: FLOCK  ADVISORY  READ 8 08:01:10 0 EOF\n";
        let check = |pid: i32, inode: u64, expected: bool| {
            assert_eq!(holds(table, pid, inode), expected, "{pid} {inode}")
        };
        check(1234, 5678, true);
        check(1234, 567, false);
        check(123, 5678, false);
        check(55, 5678, false);
        check(7, 9, false);
        check(8, 10, false);
    }

    #[test]
    fn a_bystander_named_in_the_lock_file_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let dir = RunDir::new(root.path());
        // our own pid: the test would not survive a mistake
        fs::write(dir.lock(), std::process::id().to_string()).unwrap();
        assert!(!kill_holder(&dir));
    }
}
