//! SIGINT, SIGTERM and SIGHUP in a worker: the first asks it to stop and save, the second ends it at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

/// Exit status of a process that a second signal ended, as shells have it.
const INTERRUPTED: i32 = 130;

/// True once a signal has come.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Listens from now on, on a thread of its own.
    ///
    /// # Errors
    /// Where the system does not let it.
    pub fn on_signals() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let stop = Self::default();
        let told = stop.clone();
        let guard = runtime.enter();
        let mut signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
            .into_iter()
            .map(signal)
            .collect::<io::Result<Vec<_>>>()?;
        drop(guard);
        let listen = move || {
            runtime.block_on(async move {
                loop {
                    let waiting = signals.iter_mut().map(|signal| Box::pin(signal.recv()));
                    futures::future::select_all(waiting).await;
                    if told.0.swap(true, Ordering::SeqCst) {
                        std::process::exit(INTERRUPTED);
                    }
                    warn_line!(
                        "stopping at the next step, with a checkpoint; once more to stop at once"
                    );
                }
            });
        };
        thread::Builder::new().name("signals".to_owned()).spawn(listen)?;
        Ok(stop)
    }

    /// Whether a signal has come.
    #[must_use]
    pub fn asked(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
