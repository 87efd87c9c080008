//! What the guest is not told of its disk's failures, while there is another site whose disk has not failed.
//!
//! ```text
//!                                    not kept back ───────────────▶ the guest sees an I/O error
//!   a request has failed ──▶ [`Failures`] ──┬─────────────────────────▲
//!                                           └ kept back ─▶ waits ── this site is alone, or follows
//!                                                └──▶ the driver: the VM may go on there
//! ```
//!
//! An I/O error that is told is in the log, and no other disk can take it back. One that is not told is a request that is
//! under way: the other site, whose own disk has done it, goes live and says so to its guest (P5).

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::DiskHandle;
use crate::devices::{DiskCompletion, DiskOutcome};

#[derive(Default)]
struct State {
    /// Is told of each failure that is kept back; none if they are not.
    listener: Option<Box<dyn Fn() + Send>>,
    kept: Vec<DiskCompletion>,
}

/// The failed requests of a disk in service, between its workers and the guest.
#[derive(Default)]
pub(super) struct Failures {
    state: Mutex<State>,
}

impl fmt::Debug for Failures {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("Failures")
            .field(&self.state().kept)
            .finish()
    }
}

impl Failures {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker has ended a request. Answers with it, unless it is kept back.
    pub(super) fn ended(&self, completion: DiskCompletion) -> Option<DiskCompletion> {
        let mut state = self.state();
        match (&state.listener, &completion.outcome) {
            (Some(listener), DiskOutcome::Failed) => listener(),
            _ => return Some(completion),
        }
        state.kept.push(completion);
        None
    }

    /// From now on failures are kept back, and each is told to `listener`, which must not wait.
    pub(super) fn keep_back(&self, listener: impl Fn() + Send + 'static) {
        self.state().listener = Some(Box::new(listener));
    }

    /// From now on they are not. Answers with those that were.
    pub(super) fn let_go(&self) -> Vec<DiskCompletion> {
        let mut state = self.state();
        state.listener = None;
        std::mem::take(&mut state.kept)
    }
}

impl DiskHandle {
    /// From now on the guest is not told what has failed; `listener`, which must not wait, is.
    pub fn keep_failures_back(&self, listener: impl Fn() + Send + 'static) {
        self.failures().keep_back(listener);
    }

    /// The guest is told what was kept back, and from now on of each failure at once.
    pub fn let_failures_go(&self) {
        self.flushes().tell(self.failures().let_go());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::devices::DiskRequestId;

    #[test]
    fn failures_alone_are_kept_back_until_they_are_let_go() {
        let failures = Failures::default();
        let is_told = |id, outcome| {
            let id = DiskRequestId(id);
            failures.ended(DiskCompletion { id, outcome }).is_some()
        };
        assert!(is_told(1, DiskOutcome::Failed), "nobody wants to know");
        let heard = Arc::<AtomicU32>::default();
        let count = Arc::clone(&heard);
        failures.keep_back(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert!(is_told(2, DiskOutcome::Done));
        assert!(!is_told(3, DiskOutcome::Failed) && !is_told(4, DiskOutcome::Failed));
        assert_eq!(heard.load(Ordering::Relaxed), 2);
        let kept: Vec<u64> = failures.let_go().iter().map(|kept| kept.id.0).collect();
        assert_eq!(kept, [3, 4]);
        assert!(is_told(5, DiskOutcome::Failed), "it is let go");
        assert!(failures.let_go().is_empty(), "each is told once");
    }
}
