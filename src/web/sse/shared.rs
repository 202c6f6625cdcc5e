//! One reading for all clients of a run that are at the same place: the first to come reads, the others wait and take it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use axum::body::Bytes;

use crate::jobs::vitals::Vitals;

/// What was read is taken so long, should a bell have been missed.
const FRESH: Duration = Duration::from_secs(1);

/// What comes after a place, as it goes out.
#[derive(Debug, Clone, Default)]
pub(super) struct Flush {
    /// The place after it.
    pub(super) next: i64,
    /// Nothing more was there.
    pub(super) complete: bool,
    /// Worth sending whatever was sent before.
    pub(super) news: bool,
    /// The run is over: the stream ends with this.
    pub(super) over: bool,
    /// What the worker used.
    pub(super) vitals: Option<Vitals>,
    /// The frames; one buffer for all clients.
    pub(super) bytes: Bytes,
}

/// The last flush of a run, and from where it was read.
#[derive(Debug, Default)]
pub(super) struct Slot(tokio::sync::Mutex<Option<Read>>);

#[derive(Debug)]
struct Read {
    after: i64,
    bell: u64,
    at: Instant,
    flush: Flush,
}

impl Slot {
    /// What comes after `after`, read by `look` unless somebody read it since the bell rang `bell` times.
    pub(super) async fn flush<E, F>(
        &self,
        after: i64,
        bell: u64,
        look: impl FnOnce() -> F,
    ) -> Result<Flush, E>
    where
        F: Future<Output = Result<Flush, E>>,
    {
        let mut last = self.0.lock().await;
        if let Some(read) = &*last
            && (read.after, read.bell) == (after, bell)
            && read.at.elapsed() < FRESH
        {
            return Ok(read.flush.clone());
        }
        let at = Instant::now();
        let flush = look().await?;
        // somebody far behind must not take from all others what they share
        if last.as_ref().is_none_or(|read| read.after <= after || read.at.elapsed() >= FRESH) {
            *last = Some(Read { after, bell, at, flush: flush.clone() });
        }
        Ok(flush)
    }
}

/// The slots of the runs that somebody looks at.
#[derive(Debug, Default)]
pub struct Streams(Mutex<HashMap<i64, Weak<Slot>>>);

impl Streams {
    /// The slot of a run; it goes with the last who has it.
    pub(super) fn slot(&self, run: i64) -> Arc<Slot> {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(&run).and_then(Weak::upgrade) {
            return slot;
        }
        slots.retain(|_, slot| slot.strong_count() > 0);
        let slot = Arc::new(Slot::default());
        slots.insert(run, Arc::downgrade(&slot));
        slot
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;

    use super::*;

    #[tokio::test]
    async fn one_reads_for_all() {
        let (slot, reads) = (Slot::default(), Cell::new(0));
        let ask = async |after, bell| {
            let look = || async {
                reads.set(reads.get() + 1);
                let next = after + 10;
                Ok::<_, Infallible>(Flush { next, ..Flush::default() })
            };
            let flush = slot.flush(after, bell, look).await.unwrap();
            (flush.next, reads.get())
        };
        assert_eq!(ask(5, 1).await, (15, 1));
        assert_eq!(ask(5, 1).await, (15, 1), "the second takes it");
        assert_eq!(ask(5, 2).await, (15, 2), "it rang since");
        assert_eq!(ask(0, 2).await, (10, 3), "somebody far behind reads alone");
        assert_eq!(ask(5, 2).await, (15, 3), "and takes nothing from the others");
        assert_eq!(ask(15, 2).await, (25, 4));
    }

    #[test]
    fn slots_go_with_their_clients() {
        let streams = Streams::default();
        let (one, two) = (streams.slot(1), streams.slot(1));
        assert!(Arc::ptr_eq(&one, &two));
        drop((one, two));
        let _other = streams.slot(2);
        assert_eq!(streams.0.lock().unwrap().len(), 1);
    }
}
