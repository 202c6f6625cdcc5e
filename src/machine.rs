//! The machine as Linux tells of it: cores, memory, disk, and what a process uses. A value that cannot be read is left
//! out; nothing here fails.

use std::fs;
use std::path::Path;

/// Cores and memory.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// Cores that this program may use.
    pub cores: usize,
    /// Instruction sets that the engine has kernels for, of those that the processor has.
    pub features: Vec<&'static str>,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes of memory that can be had without swapping.
    pub memory_free: u64,
    /// Processes that want to run, over the last minute.
    pub load: Option<f64>,
}

/// Room on the file system of a folder, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Disk {
    /// In all.
    pub size: u64,
    /// That this user may still fill.
    pub free: u64,
}

/// What a process uses.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// Seconds of processor time so far, over all threads.
    pub cpu_s: f64,
    /// Bytes of memory that are in use.
    pub resident: u64,
    /// The most that ever were.
    pub peak: u64,
}

impl Machine {
    /// As it is now.
    #[must_use]
    pub fn look() -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let meminfo = read("/proc/meminfo");
        let line = |name: &str| field(&cpuinfo, name).unwrap_or_default().to_owned();
        let flags = line("flags");
        let has = |flag: &str| flags.split(' ').any(|known| known == flag);
        let known = [("avx2", "AVX2"), ("fma", "FMA"), ("avx512f", "AVX-512"), ("asimd", "NEON")];
        Self {
            cpu: line("model name"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            features: known
                .into_iter()
                .filter(|(flag, _)| has(flag))
                .map(|(_, name)| name)
                .collect(),
            memory: kibibytes(&meminfo, "MemTotal"),
            memory_free: kibibytes(&meminfo, "MemAvailable"),
            load: read("/proc/loadavg").split(' ').next().and_then(|text| text.parse().ok()),
        }
    }
}

impl Disk {
    /// Room where `folder` lies.
    #[must_use]
    pub fn of(folder: &Path) -> Option<Self> {
        let told = rustix::fs::statvfs(folder).ok()?;
        Some(Self { size: told.f_blocks * told.f_frsize, free: told.f_bavail * told.f_frsize })
    }
}

impl Usage {
    /// What the process of that id uses; `None` where it is gone.
    #[must_use]
    pub fn of(pid: i64) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let status = read(&format!("/proc/{pid}/status"));
        Some(Self {
            cpu_s: cpu_seconds(&stat)?,
            resident: kibibytes(&status, "VmRSS"),
            peak: kibibytes(&status, "VmHWM"),
        })
    }
}

/// Bytes that this process may still take: what the machine has, or less where its control group
/// has a limit. Files that are only kept in memory until it is needed count as free.
#[must_use]
pub fn free_memory() -> Option<u64> {
    let machine = in_kibibytes(&read("/proc/meminfo"), "MemAvailable")?;
    let group = |file: &str| read(&format!("/sys/fs/cgroup/memory.{file}"));
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let stat = group("stat");
    let files = stat.lines().find_map(|line| number(line.strip_prefix("inactive_file ")?));
    let group = number(&group("max"))
        .zip(number(&group("current")))
        .map(|(limit, used)| limit.saturating_sub(used.saturating_sub(files.unwrap_or(0))));
    Some(group.map_or(machine, |group| group.min(machine)))
}

/// Whether a file can be made in that folder.
#[must_use]
pub fn is_writable(folder: &Path) -> bool {
    let path = folder.join(format!(".writable-{}", std::process::id()));
    let made = fs::write(&path, b"").is_ok();
    let _ = fs::remove_file(path);
    made
}

/// The sum of user and system time. The name before it, in brackets, may hold anything.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    // USER_HZ is 100 on every Linux
    Some((user + system) / 100.0)
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The value of the first line `name: value`.
fn field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.map(|(key, value)| (key.trim(), value.trim())).find(|pair| pair.0 == name).map(|p| p.1)
}

fn kibibytes(text: &str, name: &str) -> u64 {
    in_kibibytes(text, name).unwrap_or(0)
}

/// Bytes, where there is such a line.
fn in_kibibytes(text: &str, name: &str) -> Option<u64> {
    field(text, name)?.split(' ').next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_linux_writes() {
        let stat = "77 (a (b) c) R 1 77 77 0 -1 4194304 1 0 0 0 250 50 0 0 20 0 1 0 5 6 7";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds("77 (a"), None);
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t 1024 kB\n";
        assert_eq!(kibibytes(status, "VmHWM"), 2 << 20);
        assert_eq!(kibibytes(status, "VmSwap"), 0);
        assert_eq!(field("flags\t\t: fpu avx2\n", "flags"), Some("fpu avx2"));
    }

    #[test]
    fn this_machine_and_process() {
        let machine = Machine::look();
        assert!(machine.cores > 0 && machine.memory > machine.memory_free);
        let disk = Disk::of(Path::new("/")).unwrap();
        assert!(disk.size >= disk.free && disk.size > 0);
        assert_eq!(Disk::of(Path::new("/no/such/folder")), None);
        let usage = Usage::of(i64::from(std::process::id())).unwrap();
        assert!(usage.peak >= usage.resident && usage.resident > 0);
        assert_eq!(Usage::of(-1), None);
        assert!(is_writable(&std::env::temp_dir()) && !is_writable(Path::new("/no/such")));
    }
}
