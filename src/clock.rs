//! The wall clock, behind a trait so that tests own the time.

use std::time::{SystemTime, UNIX_EPOCH};

/// Where "now" comes from. Durations never use it: they come from `Instant`.
pub trait Clock: Send + Sync {
    /// Milliseconds since 1970, UTC; 0 for a clock set before that.
    fn now_ms(&self) -> i64;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }
}
