//! A bound on what a worker may have under way towards the guest.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Debug)]
struct State {
    free: usize,
    closed: bool,
}

/// A fixed number of credits, shared by the worker that takes them and the vCPU thread that gives them back.
#[derive(Debug, Clone)]
pub struct Credits {
    state: Arc<(Mutex<State>, Condvar)>,
}

impl Credits {
    /// `total` free credits.
    #[must_use]
    pub fn new(total: usize) -> Self {
        Self {
            state: Arc::new((
                Mutex::new(State {
                    free: total,
                    closed: false,
                }),
                Condvar::new(),
            )),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a credit is free and takes up to `wanted`. Zero means closed: the worker ends.
    #[must_use]
    pub fn take(&self, wanted: usize) -> usize {
        let mut state = self.lock();
        while state.free == 0 && !state.closed {
            state = self.state.1.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return 0;
        }
        let taken = state.free.min(wanted);
        state.free -= taken;
        taken
    }

    /// Gives `count` credits back.
    pub fn give_back(&self, count: usize) {
        if count > 0 {
            self.lock().free += count;
            self.state.1.notify_one();
        }
    }

    /// Ends every wait: no credit is given out any more.
    pub fn close(&self) {
        self.lock().closed = true;
        self.state.1.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credits_run_out_come_back_and_close() {
        let credits = Credits::new(3);
        assert_eq!(credits.take(2), 2);
        assert_eq!(credits.take(2), 1);
        let waiter = {
            let credits = credits.clone();
            std::thread::spawn(move || credits.take(8))
        };
        credits.give_back(2);
        assert_eq!(waiter.join().unwrap(), 2);
        credits.close();
        assert_eq!(credits.take(1), 0);
    }
}
