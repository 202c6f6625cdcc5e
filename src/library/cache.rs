//! Answers that take long: each is worked out once, on a blocking thread, however many ask; a few at a time.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

use indexmap::IndexMap;
use tokio::sync::{Semaphore, watch};

use super::{LibraryError, Patience, Result};

type Answer = Arc<dyn Any + Send + Sync>;
type Slot = watch::Receiver<Option<Answer>>;

/// Answers by their question. The oldest question goes when there are too many.
pub struct Cache {
    slots: Arc<Mutex<IndexMap<String, Slot>>>,
    most: usize,
    gate: Arc<Semaphore>,
}

impl Cache {
    /// A cache of at most `most` answers; `gate` lets so many be worked out at a time.
    #[must_use]
    pub fn new(most: usize, gate: Arc<Semaphore>) -> Self {
        Self { slots: Arc::default(), most, gate }
    }

    /// The answer to `key`, from before or from `work`. A failure is an answer too, and is not kept.
    ///
    /// # Errors
    /// What `work` returns; [`LibraryError::Busy`] where patience ends before the work.
    pub async fn get<T: Send + Sync + 'static>(
        &self,
        key: String,
        patience: Patience,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<Arc<T>> {
        let key = format!("{}\0{key}", std::any::type_name::<T>());
        let mut slot = self.slot(&key, work);
        let waiting = slot.wait_for(Option::is_some);
        let found = match patience.limit() {
            None => waiting.await.map(|answer| answer.clone()),
            Some(limit) => match tokio::time::timeout(limit, waiting).await {
                Ok(found) => found.map(|answer| answer.clone()),
                Err(_) => return Err(LibraryError::Busy),
            },
        };
        let lost = || LibraryError::Io("a background task ended without an answer".to_owned());
        let answer = match found {
            Ok(Some(answer)) => answer,
            _ => {
                self.forget(&key);
                return Err(lost());
            }
        };
        let answer = answer.downcast::<Result<Arc<T>>>().map_err(|_| lost())?;
        if answer.is_err() {
            self.forget(&key);
        }
        (*answer).clone()
    }

    /// The answer where it is there already.
    #[must_use]
    pub fn known<T: Send + Sync + 'static>(&self, key: &str) -> Option<Arc<T>> {
        let key = format!("{}\0{key}", std::any::type_name::<T>());
        let slot = self.lock().get(&key)?.clone();
        let answer = slot.borrow().clone()?;
        answer.downcast::<Result<Arc<T>>>().ok()?.as_ref().clone().ok()
    }

    /// Keeps an answer that was worked out elsewhere.
    pub fn put<T: Send + Sync + 'static>(&self, key: String, answer: Arc<T>) {
        let key = format!("{}\0{key}", std::any::type_name::<T>());
        let answer: Result<Arc<T>> = Ok(answer);
        let (_, slot) = watch::channel(Some(Arc::new(answer) as Answer));
        let mut slots = self.lock();
        while slots.len() >= self.most {
            slots.shift_remove_index(0);
        }
        slots.insert(key, slot);
    }

    fn slot<T: Send + Sync + 'static>(
        &self,
        key: &str,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Slot {
        let mut slots = self.lock();
        if let Some(slot) = slots.get(key) {
            return slot.clone();
        }
        let (sender, slot) = watch::channel(None);
        while slots.len() >= self.most {
            slots.shift_remove_index(0);
        }
        slots.insert(key.to_owned(), slot.clone());
        let gate = self.gate.clone();
        tokio::spawn(async move {
            let permit = gate.acquire_owned().await;
            let done = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                work().map(Arc::new)
            });
            if let Ok(done) = done.await {
                let _ = sender.send(Some(Arc::new(done) as Answer));
            }
        });
        slot
    }

    fn forget(&self, key: &str) {
        self.lock().shift_remove(key);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, IndexMap<String, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn worked_out_once_kept_and_forgotten() {
        let cache = Cache::new(2, Arc::new(Semaphore::new(1)));
        let count = Arc::new(AtomicUsize::new(0));
        let ask = |key: &str| {
            let count = count.clone();
            cache.get(key.to_owned(), Patience::End, move || {
                Ok(count.fetch_add(1, Ordering::SeqCst))
            })
        };
        let (a, b) = tokio::join!(ask("x"), ask("x"));
        assert_eq!((*a.unwrap(), *b.unwrap()), (0, 0));
        assert_eq!(cache.known::<usize>("x").as_deref(), Some(&0));
        assert_eq!(*ask("y").await.unwrap(), 1);
        assert_eq!(*ask("z").await.unwrap(), 2);
        assert!(cache.known::<usize>("x").is_none(), "the oldest goes");
        let failing = || Err::<usize, _>(LibraryError::wrong("a", "b"));
        assert!(cache.get("f".to_owned(), Patience::End, failing).await.is_err());
        assert!(cache.known::<usize>("f").is_none());
        let panicking = || -> Result<usize> { panic!("x") };
        assert!(cache.get("p".to_owned(), Patience::End, panicking).await.is_err());
        assert_eq!(*ask("p").await.unwrap(), 3);
    }

    #[tokio::test]
    async fn a_page_does_not_wait_for_ever() {
        let cache = Cache::new(2, Arc::new(Semaphore::new(1)));
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let slow = move || wait.recv().map(|()| 7_usize).map_err(|_| LibraryError::Busy);
        let first = cache.get("k".to_owned(), Patience::Moment, slow).await;
        assert!(matches!(first, Err(LibraryError::Busy)));
        go.send(()).unwrap();
        assert_eq!(*cache.get("k".to_owned(), Patience::End, || Ok(0_usize)).await.unwrap(), 7);
    }
}
