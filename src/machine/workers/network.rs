//! The threads between a TAP interface and the guest's network device.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use nix::poll::PollFlags;

use super::stop::StopFlag;
use super::{Credits, Event, Inbox, Tap};
use crate::base::limits::{FRAME_BYTES_MAX, RECEIVE_FRAMES_UNDER_WAY_MAX, TRANSMIT_BYTES_WAITING_MAX};
use crate::devices::virtio_net::Offloads;
use crate::devices::{Frame, Input};

/// Frames handed over at once.
const BATCH_FRAMES_MAX: usize = 64;

#[derive(Debug, Default)]
struct TransmitQueue {
    frames: VecDeque<Frame>,
    byte_count: usize,
    dropped: u64,
    closed: bool,
}

impl TransmitQueue {
    /// Takes a frame of the guest, or drops and counts it if there is no room.
    fn push(&mut self, frame: Frame) {
        if self.byte_count + frame.0.len() > TRANSMIT_BYTES_WAITING_MAX {
            self.dropped += 1;
            return;
        }
        self.byte_count += frame.0.len();
        self.frames.push_back(frame);
    }

    /// All frames that wait, for the TAP.
    fn take(&mut self) -> VecDeque<Frame> {
        self.byte_count = 0;
        std::mem::take(&mut self.frames)
    }
}

/// The guest's way out, from any thread.
#[derive(Debug, Clone)]
pub struct Transmitter(Arc<(Mutex<TransmitQueue>, Condvar)>);

impl Transmitter {
    /// Sends frames of the guest.
    pub fn transmit(&self, frames: impl IntoIterator<Item = Frame>) {
        let mut queue = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        for frame in frames {
            queue.push(frame);
        }
        drop(queue);
        self.0.1.notify_one();
    }
}

/// A running network: frames from the TAP go to the inbox, frames of the guest to the TAP.
#[derive(Debug)]
pub struct Network {
    transmitter: Transmitter,
    receive_credits: Credits,
    stop: StopFlag,
    tap: Arc<Tap>,
    threads: Vec<JoinHandle<()>>,
}

impl Network {
    /// Starts both threads.
    ///
    /// # Errors
    /// When the host refuses a thread or a descriptor.
    pub fn start(tap: Arc<Tap>, inbox: &Inbox) -> std::io::Result<Self> {
        let stop = StopFlag::new()?;
        let receive_credits = Credits::new(RECEIVE_FRAMES_UNDER_WAY_MAX);
        let transmit = Arc::<(Mutex<TransmitQueue>, Condvar)>::default();
        let receiver = {
            let (tap, stop, credits, inbox) = (
                Arc::clone(&tap),
                stop.clone(),
                receive_credits.clone(),
                inbox.clone(),
            );
            std::thread::Builder::new()
                .name("net-receive".into())
                .spawn(move || receive(&tap, &stop, &credits, &inbox))?
        };
        let transmitter = {
            let (tap, stop, queue) = (Arc::clone(&tap), stop.clone(), Arc::clone(&transmit));
            std::thread::Builder::new()
                .name("net-transmit".into())
                .spawn(move || send(&tap, &stop, &queue))?
        };
        Ok(Self {
            transmitter: Transmitter(transmit),
            receive_credits,
            stop,
            tap,
            threads: vec![receiver, transmitter],
        })
    }

    /// Stops both threads, and gives back what they served.
    #[must_use]
    pub fn stop(self) -> Arc<Tap> {
        Arc::clone(&self.tap)
    }

    /// Sends frames of the guest.
    pub fn transmit(&self, frames: impl IntoIterator<Item = Frame>) {
        self.transmitter.transmit(frames);
    }

    /// The same, for another thread.
    #[must_use]
    pub fn transmitter(&self) -> Transmitter {
        self.transmitter.clone()
    }

    /// Tells the TAP what the guest's driver takes unfinished.
    pub fn set_receive_offloads(&self, offloads: Offloads) {
        if let Err(error) = self.tap.set_receive_offloads(offloads) {
            tracing::warn!(%error, ?offloads, "the TAP refused offloads that it had offered");
        }
    }

    /// The guest's device has taken `count` received frames.
    pub fn frames_taken(&self, count: usize) {
        self.receive_credits.give_back(count);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let mut queue = self
            .transmitter
            .0
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        queue.closed = true;
        if queue.dropped > 0 {
            tracing::warn!(
                frames = queue.dropped,
                "frames were dropped because the TAP did not keep up"
            );
        }
        drop(queue);
        self.transmitter.0.1.notify_all();
        self.receive_credits.close();
        self.stop.raise();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a network worker died");
            }
        }
    }
}

fn receive(tap: &Tap, stop: &StopFlag, credits: &Credits, inbox: &Inbox) {
    let mut buffer = Box::new([0; FRAME_BYTES_MAX]);
    loop {
        let allowed = credits.take(BATCH_FRAMES_MAX);
        if allowed == 0 || !stop.wait_for(tap.descriptor(), PollFlags::POLLIN) {
            return;
        }
        let mut batch = Vec::new();
        while batch.len() < allowed {
            match tap.receive(&mut buffer) {
                Ok(Some(frame)) => batch.push(Event::Device(Input::Frame(frame))),
                Ok(None) => break,
                Err(error) => {
                    tracing::error!(%error, "the TAP cannot be read; the guest receives nothing more");
                    return;
                }
            }
        }
        credits.give_back(allowed - batch.len());
        if !batch.is_empty() {
            inbox.post(batch);
        }
    }
}

fn send(tap: &Tap, stop: &StopFlag, (lock, wakeup): &(Mutex<TransmitQueue>, Condvar)) {
    loop {
        let mut queue = lock.lock().unwrap_or_else(PoisonError::into_inner);
        while queue.frames.is_empty() && !queue.closed {
            queue = wakeup.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        if queue.frames.is_empty() {
            return;
        }
        let batch = queue.take();
        drop(queue);
        for frame in &batch {
            if !send_one(tap, stop, frame) {
                return;
            }
        }
    }
}

/// Sends one frame, waiting for room. False when the worker must end.
fn send_one(tap: &Tap, stop: &StopFlag, frame: &Frame) -> bool {
    loop {
        match tap.transmit(frame) {
            Ok(true) => return true,
            Ok(false) if stop.wait_for(tap.descriptor(), PollFlags::POLLOUT) => {}
            Ok(false) => return false,
            Err(error) => {
                // The guest chose the bytes, so a refused frame (bad offload header) is its own affair.
                tracing::debug!(%error, "the TAP refused a frame of the guest");
                return true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_that_the_tap_does_not_take_are_bounded_and_what_is_dropped_is_counted() {
        let mut queue = TransmitQueue::default();
        let fit = TRANSMIT_BYTES_WAITING_MAX / FRAME_BYTES_MAX;
        for _ in 0..fit + 3 {
            queue.push(Frame(vec![0; FRAME_BYTES_MAX]));
        }
        assert_eq!((queue.frames.len(), queue.dropped), (fit, 3));
        assert_eq!(queue.take().len(), fit);
        queue.push(Frame(vec![0; FRAME_BYTES_MAX]));
        assert_eq!((queue.frames.len(), queue.dropped), (1, 3), "there is room again");
    }
}
