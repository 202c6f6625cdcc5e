//! Doorbells: "this run has something new", without saying what.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

/// One bell a run, made when somebody listens.
#[derive(Debug, Default)]
pub struct Bells(Mutex<HashMap<String, watch::Sender<u64>>>);

impl Bells {
    /// A receiver that changes with every [`Bells::ring`] from now on.
    pub fn listen(&self, id: &str) -> watch::Receiver<u64> {
        let mut bells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match bells.get(id) {
            Some(bell) => bell.subscribe(),
            None => {
                let (bell, receiver) = watch::channel(0);
                bells.insert(id.to_owned(), bell);
                receiver
            }
        }
    }

    /// Wakes whoever listens to this run; a bell that nobody listens to is thrown away.
    pub fn ring(&self, id: &str) {
        let mut bells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bell) = bells.get(id) {
            if bell.is_closed() {
                bells.remove(id);
            } else {
                bell.send_modify(|count| *count += 1);
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn bells_ring_and_go() {
        let bells = Bells::default();
        bells.ring("a");
        let (mut one, two) = (bells.listen("a"), bells.listen("a"));
        assert!(!one.has_changed().unwrap());
        bells.ring("b");
        assert!(!one.has_changed().unwrap());
        bells.ring("a");
        assert!(one.has_changed().unwrap() && two.has_changed().unwrap());
        one.borrow_and_update();
        assert!(!one.has_changed().unwrap());
        drop((one, two));
        bells.ring("a");
        assert!(bells.0.lock().unwrap().is_empty());
    }
}
