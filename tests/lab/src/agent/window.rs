//! Credit: how many data bytes one direction of a channel may still send.

use super::message::WINDOW_BYTES;
use std::sync::{Condvar, Mutex, PoisonError};

/// Shared between the thread that sends and the one that hears of credit.
#[derive(Debug)]
pub(super) struct Window {
    /// `None` once the channel is over.
    credit: Mutex<Option<usize>>,
    changed: Condvar,
}

impl Window {
    pub(super) fn new() -> Self {
        Self {
            credit: Mutex::new(Some(WINDOW_BYTES)),
            changed: Condvar::new(),
        }
    }

    /// Waits for credit and takes up to `wanted` bytes of it; 0 means that the channel is over.
    pub(super) fn take(&self, wanted: usize) -> usize {
        let mut credit = self.credit.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match *credit {
                None => return 0,
                Some(0) => credit = self.changed.wait(credit).unwrap_or_else(PoisonError::into_inner),
                Some(available) => {
                    let taken = available.min(wanted);
                    *credit = Some(available - taken);
                    return taken;
                }
            }
        }
    }

    /// The other end consumed so many bytes.
    pub(super) fn give(&self, bytes: u32) {
        let mut credit = self.credit.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        // Never more than a whole window: a peer that gives too much cannot make us buffer for it.
        *credit = credit.map(|credit| credit.saturating_add(bytes).min(WINDOW_BYTES));
        self.changed.notify_all();
    }

    /// The channel is over: whoever waits stops waiting.
    pub(super) fn close(&self) {
        *self.credit.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_there_is_waits_for_more_and_ends_when_closed() {
        let window = Window::new();
        assert_eq!(window.take(WINDOW_BYTES + 5), WINDOW_BYTES);
        std::thread::scope(|scope| {
            let taker = scope.spawn(|| (window.take(100), window.take(100)));
            window.give(7);
            // The second take waits until the window is closed.
            while window.credit.lock().unwrap().is_some_and(|credit| credit > 0) {}
            window.close();
            assert_eq!(taker.join().unwrap(), (7, 0));
        });
    }
}
