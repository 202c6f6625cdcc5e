//! What workers use: processor, memory and devices, looked at every two seconds or so while they live.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::gpu::{Gpu, Gpus, Load, Nvidia};
use crate::machine::Usage;

const EVERY: Duration = Duration::from_secs(2);
/// A worker that writes nothing is looked at less often: what it writes soon takes the news along, and a thousand clients
/// are woken once for both.
const QUIET: Duration = Duration::from_secs(4);

/// What a worker uses now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Vitals {
    /// Cores that it keeps busy; `None` until there are two looks.
    pub cores: Option<f64>,
    /// Bytes of memory in use.
    pub resident: u64,
    /// The most that ever were.
    pub peak: u64,
    /// What its devices do; `None` on a machine without.
    pub gpu: Option<Load>,
}

/// One look at a process.
#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    pid: i64,
    usage: Usage,
    cores: Option<f64>,
    gpu: Option<Load>,
}

/// The last look at each worker.
#[derive(Debug)]
pub struct Ward {
    looks: Mutex<HashMap<String, Look>>,
    gpus: Box<dyn Gpus>,
}

impl Default for Ward {
    fn default() -> Self {
        Self::new(Box::new(Nvidia::default()))
    }
}

impl Ward {
    fn new(gpus: Box<dyn Gpus>) -> Self {
        Self { looks: Mutex::default(), gpus }
    }

    /// The devices of this machine, now.
    pub fn gpus(&self) -> Vec<Gpu> {
        self.gpus.look()
    }

    /// Looks at the worker of a run, if the last look is some time ago. True where there is something new.
    pub fn look(&self, id: &str, quiet: bool, pid: impl FnOnce() -> Option<i64>) -> bool {
        let every = if quiet { QUIET } else { EVERY };
        let last = self.looks().get(id).copied();
        if last.is_some_and(|look| look.at.elapsed() < every) {
            return false;
        }
        let Some((pid, usage)) = pid().and_then(|pid| Some((pid, Usage::of(pid)?))) else {
            return false;
        };
        let at = Instant::now();
        let cores = last.filter(|look| look.pid == pid).map(|look| {
            let seconds = at.duration_since(look.at).as_secs_f64().max(0.1);
            (usage.cpu_s - look.usage.cpu_s).max(0.0) / seconds
        });
        // a driver may take its time: nobody who only reads waits for it
        let gpu = Load::of(&self.gpus(), pid);
        self.looks().insert(id.to_owned(), Look { at, pid, usage, cores, gpu });
        true
    }

    fn looks(&self) -> MutexGuard<'_, HashMap<String, Look>> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a run that is over.
    pub fn forget(&self, id: &str) {
        self.looks().remove(id);
    }

    /// What the worker of a run uses, where it has one that was looked at.
    pub fn of(&self, id: &str) -> Option<Vitals> {
        self.looks().get(id).map(|look| Vitals {
            cores: look.cores,
            resident: look.usage.resident,
            peak: look.usage.peak,
            gpu: look.gpu,
        })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn looks_are_rare() {
        let ward = Ward::default();
        let own = || Some(i64::from(std::process::id()));
        assert!(!ward.look("a", false, || None));
        assert_eq!(ward.of("a"), None);
        assert!(ward.look("a", false, own));
        assert!(!ward.look("a", false, own), "too soon");
        assert!(ward.of("a").unwrap().resident > 0);
        ward.forget("a");
        assert_eq!(ward.of("a"), None);
    }

    #[derive(Debug)]
    struct Fake;

    impl Gpus for Fake {
        fn look(&self) -> Vec<Gpu> {
            let gpu = |busy, pid| Gpu {
                name: "fake".to_owned(),
                busy,
                used: 3,
                size: 8,
                pids: vec![pid],
            };
            vec![gpu(90, std::process::id()), gpu(5, 1)]
        }
    }

    #[test]
    fn devices_of_a_worker() {
        let ward = Ward::new(Box::new(Fake));
        assert!(ward.look("a", false, || Some(i64::from(std::process::id()))));
        assert_eq!(ward.of("a").unwrap().gpu, Some(Load { busy: 90, used: 3, size: 8 }));
        assert_eq!(ward.gpus().len(), 2);
    }
}
