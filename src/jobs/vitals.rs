//! What workers use: processor and memory, looked at every two seconds while they live.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::machine::Usage;

const EVERY: Duration = Duration::from_secs(2);

/// What a worker uses now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Vitals {
    /// Cores that it keeps busy; `None` until there are two looks.
    pub cores: Option<f64>,
    /// Bytes of memory in use.
    pub resident: u64,
    /// The most that ever were.
    pub peak: u64,
}

/// One look at a process.
#[derive(Debug)]
struct Look {
    at: Instant,
    pid: i64,
    usage: Usage,
    cores: Option<f64>,
}

/// The last look at each worker.
#[derive(Debug, Default)]
pub struct Ward(Mutex<HashMap<String, Look>>);

impl Ward {
    /// Looks at the worker of a run, if the last look is some time ago. True where there is something new.
    pub fn look(&self, id: &str, pid: impl FnOnce() -> Option<i64>) -> bool {
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if looks.get(id).is_some_and(|look| look.at.elapsed() < EVERY) {
            return false;
        }
        let Some((pid, usage)) = pid().and_then(|pid| Some((pid, Usage::of(pid)?))) else {
            return false;
        };
        let at = Instant::now();
        let before = looks.get(id).filter(|look| look.pid == pid);
        let cores = before.map(|look| {
            let seconds = at.duration_since(look.at).as_secs_f64().max(0.1);
            (usage.cpu_s - look.usage.cpu_s).max(0.0) / seconds
        });
        looks.insert(id.to_owned(), Look { at, pid, usage, cores });
        true
    }

    /// Forgets a run that is over.
    pub fn forget(&self, id: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// What the worker of a run uses, where it has one that was looked at.
    pub fn of(&self, id: &str) -> Option<Vitals> {
        let looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        looks.get(id).map(|look| Vitals {
            cores: look.cores,
            resident: look.usage.resident,
            peak: look.usage.peak,
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
        assert!(!ward.look("a", || None));
        assert_eq!(ward.of("a"), None);
        assert!(ward.look("a", own));
        assert!(!ward.look("a", own), "too soon");
        assert!(ward.of("a").unwrap().resident > 0);
        ward.forget("a");
        assert_eq!(ward.of("a"), None);
    }
}
