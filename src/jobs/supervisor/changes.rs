//! Tells when a worker has written into its run directory: what it says is read at once, and not at the next tick.
//!
//! The system is asked (inotify); where it has no watch left, or the folder is not there yet, there is the tick alone.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use run::dir::RunDir;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// What belongs together (a line of the log, its event) is written within this time.
const SETTLE: Duration = Duration::from_millis(5);
/// The files are not read more often than this, however much is written.
const APART: Duration = Duration::from_millis(200);

/// The ear at one run directory.
#[derive(Debug)]
pub(super) struct Changes {
    dir: RunDir,
    ear: Option<AsyncFd<OwnedFd>>,
    /// When the last wait ended.
    last: Instant,
}

impl Changes {
    pub(super) fn of(dir: RunDir) -> Self {
        Self { dir, ear: None, last: Instant::now() }
    }

    /// Waits until the worker has written, and at most so long. True where it has.
    pub(super) async fn wait(&mut self, at_most: Duration) -> bool {
        if self.ear.is_none() {
            self.ear = listen(self.dir.path());
        }
        let written = match &self.ear {
            Some(ear) => timeout(at_most, heard(ear, &self.dir)).await.ok(),
            None => {
                sleep(at_most).await;
                None
            }
        };
        match written {
            Some(true) => sleep_until((self.last + APART).max(Instant::now() + SETTLE)).await,
            // the folder went: another may come in its place
            Some(false) => {
                self.ear = None;
                sleep(SETTLE).await;
            }
            None => {}
        }
        self.last = Instant::now();
        written == Some(true)
    }
}

/// A watch on the files of a folder; `None` where the system gives none.
fn listen(dir: &Path) -> Option<AsyncFd<OwnedFd>> {
    let flags = WatchFlags::MODIFY | WatchFlags::CLOSE_WRITE | WatchFlags::DELETE_SELF;
    let ear = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).and_then(|ear| {
        inotify::add_watch(&ear, dir, flags | WatchFlags::MOVE_SELF)?;
        Ok(ear)
    });
    #[expect(
        deprecated,
        reason = "its successor is unsafe; this descriptor is owned and stays the same"
    )]
    let ear = ear.map_err(std::io::Error::from).and_then(AsyncFd::new);
    match ear {
        Ok(ear) => Some(ear),
        Err(error) => {
            tracing::debug!(%error, dir = %dir.display(), "no watch on a run's folder; it is looked at by the clock");
            None
        }
    }
}

/// Waits until one of the two files that the server reads was written; false where the folder is gone.
async fn heard(ear: &AsyncFd<OwnedFd>, dir: &RunDir) -> bool {
    let (events, log) = (dir.events(), dir.worker_log());
    let wanted = [events.file_name(), log.file_name()];
    loop {
        let Ok(mut ready) = ear.readable().await else {
            return false;
        };
        let (mut written, mut gone) = (false, false);
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut told = inotify::Reader::new(ear.get_ref(), &mut buffer);
        while let Ok(event) = told.next() {
            let name = event.file_name().and_then(|name| name.to_str().ok());
            written |= name.is_some_and(|name| wanted.contains(&Some(name.as_ref())));
            let end = ReadFlags::IGNORED | ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF;
            gone |= event.events().intersects(end);
            // too much to be told of: something was written
            written |= event.events().contains(ReadFlags::QUEUE_OVERFLOW);
        }
        ready.clear_ready();
        if gone || written {
            return !gone;
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs;

    use super::*;

    /// Long enough to be missed by no machine, and never waited for where the watch works.
    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn writing_wakes() {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::new(folder.path().join("run"));
        let mut changes = Changes::of(dir.clone());
        assert!(!changes.wait(Duration::from_millis(1)).await, "there is no folder yet");
        fs::create_dir(dir.path()).unwrap();
        assert!(!changes.wait(Duration::from_millis(1)).await, "nothing was written");
        for file in [dir.events(), dir.worker_log()] {
            fs::write(file, "a line\n").unwrap();
            assert!(changes.wait(LONG).await);
        }
        fs::write(dir.path().join("trainer_log.jsonl"), "not ours").unwrap();
        assert!(!changes.wait(Duration::from_millis(1)).await, "nobody reads that");
        fs::remove_dir_all(dir.path()).unwrap();
        assert!(!changes.wait(LONG).await, "it is gone");
        fs::create_dir(dir.path()).unwrap();
        assert!(!changes.wait(Duration::from_millis(1)).await);
        fs::write(dir.events(), "again\n").unwrap();
        assert!(changes.wait(LONG).await, "another folder in its place");
    }

    #[tokio::test]
    async fn much_writing_is_read_now_and_then() {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::new(folder.path());
        let mut changes = Changes::of(dir.clone());
        assert!(!changes.wait(Duration::from_millis(1)).await);
        let began = Instant::now();
        for _ in 0..3 {
            fs::write(dir.events(), "a line\n").unwrap();
            assert!(changes.wait(LONG).await);
        }
        assert!(began.elapsed() >= APART * 2, "{:?}", began.elapsed());
    }
}
