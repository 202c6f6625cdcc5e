//! The queue's loop and, for each run that has a worker, a task that watches it.
//!
//! A worker of ours is noticed dead by its exit; an adopted one, which is no child of this process, by its lock. What it
//! did last is in events.jsonl: an exit event is its word, and without one it died.

mod changes;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::Jobs;
use crate::db::runs::{self, Status};
use watch::Watch;

/// The queue looks for itself so often, should a nudge be lost.
const PATIENCE: Duration = Duration::from_secs(1);

/// Counts a run that has a worker (or is about to), and nudges the queue when it is over.
struct Slot {
    jobs: Jobs,
    taken: Arc<AtomicUsize>,
}

impl Slot {
    fn take(jobs: &Jobs, taken: &Arc<AtomicUsize>) -> Self {
        taken.fetch_add(1, Ordering::SeqCst);
        Self { jobs: jobs.clone(), taken: taken.clone() }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::SeqCst);
        self.jobs.0.nudge.notify_one();
    }
}

pub(super) async fn run(jobs: Jobs) {
    let taken = Arc::new(AtomicUsize::new(0));
    let stop = jobs.0.stop.clone();
    let mut adopted = false;
    while !stop.is_cancelled() {
        let outcome = if adopted { fill(&jobs, &taken).await } else { adopt(&jobs, &taken).await };
        if let Err(error) = outcome {
            // not woken by a nudge: a database that fails at once must not be asked in a circle
            tracing::warn!(%error, "the queue cannot reach the database; it tries again");
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(PATIENCE) => {}
            }
        } else if adopted {
            tokio::select! {
                () = stop.cancelled() => {}
                () = jobs.0.nudge.notified() => {}
                () = tokio::time::sleep(PATIENCE) => {}
            }
        } else {
            adopted = true;
        }
    }
}

/// Takes over the workers of the server before this one.
async fn adopt(jobs: &Jobs, taken: &Arc<AtomicUsize>) -> crate::db::Result<()> {
    for row in runs::in_status(&jobs.0.db, &[Status::Running, Status::Stopping]).await? {
        tracing::info!(run.id = %row.id, worker.pid = row.worker_pid, "run adopted");
        let slot = Slot::take(jobs, taken);
        let watch = Watch::adopted(jobs.0.clone(), row);
        tokio::spawn(async move {
            watch.until_over().await;
            drop(slot);
        });
    }
    Ok(())
}

/// Starts queued runs while there are free slots.
async fn fill(jobs: &Jobs, taken: &Arc<AtomicUsize>) -> crate::db::Result<()> {
    loop {
        let queue = jobs.queue().await?;
        if queue.paused || taken.load(Ordering::SeqCst) >= queue.slots {
            break;
        }
        let Some(row) = queue.waiting.into_iter().next() else {
            break;
        };
        let slot = Slot::take(jobs, taken);
        // `None`: it was stopped in this very moment, or could not be started and is failed now
        if let Some(watch) = Watch::start(jobs.0.clone(), row).await? {
            tokio::spawn(async move {
                watch.until_over().await;
                drop(slot);
            });
        }
    }
    Ok(())
}
