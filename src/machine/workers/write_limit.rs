//! Slows a guest's disk writes, so that whoever copies the disk gets ahead of them (D3).

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How many bytes may be written in a second.
#[derive(Debug, Default)]
pub(super) struct WriteLimit {
    bytes_per_second: Mutex<Option<u64>>,
    changed: Condvar,
    /// Held by whoever waits: the limit is of all workers together.
    turn: Mutex<()>,
}

impl WriteLimit {
    /// From now on; none lets all go.
    pub(super) fn set(&self, bytes_per_second: Option<u64>) {
        *self
            .bytes_per_second
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = bytes_per_second;
        self.changed.notify_all();
    }

    /// Waits as long as `byte_count` bytes take at the limit, or until that changes.
    pub(super) fn wait(&self, byte_count: usize) {
        let limit = || {
            self.bytes_per_second
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        if limit().is_none() {
            return;
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = limit();
        if let Some(rate) = *limit {
            let nanoseconds = byte_count as u128 * 1_000_000_000 / u128::from(rate.max(1));
            let span = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
            // Woken early it writes a little more than its share.
            drop(self.changed.wait_timeout(limit, span));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn who_waits_goes_on_when_the_limit_falls() {
        let limit = Arc::new(WriteLimit::default());
        limit.wait(usize::MAX);
        limit.set(Some(1));
        let waiting = Arc::clone(&limit);
        // Without the end of the limit it would wait for years.
        let writer = std::thread::spawn(move || waiting.wait(usize::MAX));
        while !writer.is_finished() {
            limit.set(None);
            std::thread::yield_now();
        }
        writer.join().unwrap();
    }
}
