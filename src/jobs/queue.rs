//! The queue as people see it: what runs, what waits and why, in which order. Every start goes through it.

use super::{ActionError, Jobs};
use crate::db::queue::{self, Place, Settings};
use crate::db::runs::{self, RunRow, Status};

/// Most runs at a time that can be asked for.
pub const MOST_SLOTS: usize = 64;

/// The queue at one moment.
#[derive(Debug, Clone)]
pub struct Queue {
    /// Nothing new starts.
    pub paused: bool,
    /// How many runs train at a time.
    pub slots: usize,
    /// What has a worker.
    pub active: Vec<RunRow>,
    /// What waits, the next one first.
    pub waiting: Vec<RunRow>,
}

/// Why a run waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The queue is paused.
    Paused,
    /// So many runs are before it.
    Behind(usize),
    /// It is the next one, and all slots are taken.
    Slots,
    /// It starts in this very moment.
    Now,
}

impl Why {
    /// The word in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Paused => "paused",
            Self::Behind(_) => "behind",
            Self::Slots => "slots",
            Self::Now => "now",
        }
    }
}

impl Queue {
    /// Why the run at that place (0 = next) waits.
    #[must_use]
    pub fn why(&self, place: usize) -> Why {
        if self.paused {
            Why::Paused
        } else if self.active.len() + place < self.slots {
            Why::Now
        } else if place > 0 {
            Why::Behind(place)
        } else {
            Why::Slots
        }
    }
}

impl Jobs {
    /// The queue as it is.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn queue(&self) -> crate::db::Result<Queue> {
        let db = &self.0.db;
        let Settings { paused, slots } = queue::settings(db).await?;
        Ok(Queue {
            paused,
            slots: slots.unwrap_or(self.0.config.workers).max(1),
            active: runs::in_status(db, &[Status::Running, Status::Stopping]).await?,
            waiting: runs::in_status(db, &[Status::Queued]).await?,
        })
    }

    /// Pauses the queue: what runs goes on, nothing new starts. Or lets it go on.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn pause(&self, paused: bool) -> crate::db::Result<()> {
        queue::pause(&self.0.db, paused).await?;
        tracing::info!(paused, "queue");
        self.0.nudge.notify_one();
        Ok(())
    }

    /// Sets how many runs train at a time. Fewer than run now: those go on, and the next waits longer.
    ///
    /// # Errors
    /// Where it is none of 1 to [`MOST_SLOTS`], or the database fails.
    pub async fn set_slots(&self, slots: usize) -> Result<(), ActionError> {
        if !(1..=MOST_SLOTS).contains(&slots) {
            return Err(ActionError::Invalid(
                "slots",
                format!("must be a whole number from 1 to {MOST_SLOTS}"),
            ));
        }
        queue::set_slots(&self.0.db, slots).await?;
        self.0.nudge.notify_one();
        Ok(())
    }

    /// Moves a waiting run to another place.
    ///
    /// # Errors
    /// Where there is no such run, or it does not wait.
    pub async fn shift(&self, id: &str, place: &Place) -> Result<(), ActionError> {
        if queue::shift(&self.0.db, id, place).await? {
            return Ok(());
        }
        match runs::get(&self.0.db, id).await? {
            Some(_) => Err(ActionError::Refused("The run is not in the queue.".to_owned())),
            None => Err(ActionError::NoRun(id.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_a_run_waits() {
        let check = |paused: bool, slots: usize, place: usize, expected: Why| {
            let queue = Queue { paused, slots, active: Vec::new(), waiting: Vec::new() };
            assert_eq!(queue.why(place), expected);
        };
        check(true, 1, 0, Why::Paused);
        check(true, 1, 5, Why::Paused);
        check(false, 1, 0, Why::Now);
        check(false, 2, 1, Why::Now);
        check(false, 1, 1, Why::Behind(1));
        check(false, 0, 0, Why::Slots);
        check(false, 0, 2, Why::Behind(2));
    }
}
