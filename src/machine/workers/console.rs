//! The VM's console on this process's standard input and output.
//!
//! With a terminal, input goes to the guest key by key; `Ctrl-A x` stops the VM, `Ctrl-A Ctrl-A` sends a `Ctrl-A`.
//! The terminal's settings are put back when the [`TerminalGuard`] goes, whatever the reason.

use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use nix::poll::PollFlags;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use super::stop::StopFlag;
use super::{Credits, Event, Inbox};
use crate::base::limits::CONSOLE_OUTPUT_BYTES_MAX;
use crate::devices::Input;

const ESCAPE: u8 = 0x01;

/// Puts the terminal back when dropped.
#[derive(Debug)]
pub struct TerminalGuard(Option<Termios>);

impl TerminalGuard {
    /// Switches standard input to raw mode if it is a terminal.
    ///
    /// # Errors
    /// When the terminal refuses.
    pub fn raw() -> std::io::Result<Self> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Ok(Self(None));
        }
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&stdin, SetArg::TCSADRAIN, &raw)?;
        Ok(Self(Some(before)))
    }
}

impl Drop for TerminalGuard {
    fn drop(&mut self) {
        if let Some(before) = &self.0
            && let Err(error) = tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, before)
        {
            tracing::warn!(%error, "the terminal could not be put back; `reset` does it");
        }
    }
}

/// What the keys typed so far amount to.
#[derive(Debug, Default)]
struct EscapeState {
    after_escape: bool,
}

impl EscapeState {
    /// Splits typed bytes into what the guest gets and whether the operator asked to stop.
    fn feed(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut for_guest = Vec::with_capacity(typed.len());
        for &byte in typed {
            match (self.after_escape, byte) {
                (false, ESCAPE) => self.after_escape = true,
                (true, b'x') => return (for_guest, true),
                (_, other) => {
                    self.after_escape = false;
                    for_guest.push(other);
                }
            }
        }
        (for_guest, false)
    }
}

#[derive(Debug, Default)]
struct OutputQueue {
    bytes: Vec<u8>,
    dropped: u64,
    closed: bool,
}

impl OutputQueue {
    /// Takes bytes of the guest, or drops and counts them if there is no room for all.
    fn push(&mut self, bytes: &[u8]) {
        if self.bytes.len() + bytes.len() > CONSOLE_OUTPUT_BYTES_MAX {
            self.dropped += bytes.len() as u64;
        } else {
            self.bytes.extend_from_slice(bytes);
        }
    }
}

/// The console's output, from any thread.
#[derive(Debug, Clone)]
pub struct Shower(Arc<(Mutex<OutputQueue>, Condvar)>);

impl Shower {
    /// Shows bytes that the guest wrote.
    pub fn show(&self, bytes: &[u8]) {
        let mut output = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if output.closed {
            return;
        }
        output.push(bytes);
        drop(output);
        self.0.1.notify_one();
    }
}

/// A running console.
#[derive(Debug)]
pub struct Console {
    shower: Shower,
    input_credits: Credits,
    stop: StopFlag,
    threads: Vec<JoinHandle<()>>,
}

impl Console {
    /// Starts the console: output goes to `sink` (nowhere if `None`), standard input to `inbox` if `with_input`, at first
    /// as many bytes as the guest's port has room for.
    ///
    /// # Errors
    /// When the host refuses a thread or a descriptor.
    pub fn start(
        inbox: &Inbox,
        sink: Option<Box<dyn Write + Send>>,
        with_input: bool,
        room: usize,
    ) -> std::io::Result<Self> {
        let output = Arc::<(Mutex<OutputQueue>, Condvar)>::default();
        let stop = StopFlag::new()?;
        let input_credits = Credits::new(room);
        let mut threads = Vec::new();
        if let Some(sink) = sink {
            let output = Arc::clone(&output);
            let writer = std::thread::Builder::new().name("console-out".into());
            threads.push(writer.spawn(move || write_out(&output, sink))?);
        } else {
            output.0.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        }
        if with_input {
            let (stop, credits, inbox) = (stop.clone(), input_credits.clone(), inbox.clone());
            let reader = std::thread::Builder::new().name("console-in".into());
            threads.push(reader.spawn(move || read_in(&stop, &credits, &inbox))?);
        }
        Ok(Self {
            shower: Shower(output),
            input_credits,
            stop,
            threads,
        })
    }

    /// Shows bytes that the guest wrote.
    pub fn show(&self, bytes: &[u8]) {
        self.shower.show(bytes);
    }

    /// The same, for another thread.
    #[must_use]
    pub fn shower(&self) -> Shower {
        self.shower.clone()
    }

    /// The guest's serial port has taken `count` typed bytes.
    pub fn input_taken(&self, count: usize) {
        self.input_credits.give_back(count);
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let (output, wakeup) = &*self.shower.0;
        output.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        wakeup.notify_all();
        self.input_credits.close();
        self.stop.raise();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a console worker died");
            }
        }
    }
}

fn write_out((lock, wakeup): &(Mutex<OutputQueue>, Condvar), mut sink: impl Write) {
    loop {
        let mut output = lock.lock().unwrap_or_else(PoisonError::into_inner);
        while output.bytes.is_empty() && !output.closed {
            output = wakeup.wait(output).unwrap_or_else(PoisonError::into_inner);
        }
        let bytes = std::mem::take(&mut output.bytes);
        let dropped = std::mem::take(&mut output.dropped);
        drop(output);
        if bytes.is_empty() {
            return;
        }
        // A closed terminal must not stop the VM; its output has nowhere to go then.
        let _ = sink.write_all(&bytes).and_then(|()| sink.flush());
        if dropped > 0 {
            tracing::warn!(
                bytes = dropped,
                "console output was dropped because the terminal did not keep up"
            );
        }
    }
}

fn read_in(stop: &StopFlag, credits: &Credits, inbox: &Inbox) {
    let stdin = std::io::stdin();
    let is_terminal = stdin.is_terminal();
    let mut escape = EscapeState::default();
    let mut buffer = [0; 256];
    loop {
        let allowed = credits.take(buffer.len());
        if allowed == 0 || !stop.wait_for(stdin.as_fd(), PollFlags::POLLIN) {
            return;
        }
        let Ok(length @ 1..) = nix::unistd::read(stdin.as_fd(), &mut buffer[..allowed]) else {
            return;
        };
        let typed = &buffer[..length];
        let (for_guest, stop_wanted) = if is_terminal {
            escape.feed(typed)
        } else {
            (typed.to_vec(), false)
        };
        credits.give_back(allowed - for_guest.len());
        if !for_guest.is_empty() {
            inbox.post([Event::Device(Input::Console(for_guest))]);
        }
        if stop_wanted {
            inbox.post([Event::Stop]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ctrl_a_x_stops_and_everything_else_reaches_the_guest() {
        let mut escape = EscapeState::default();
        assert_eq!(escape.feed(b"ls\r"), (b"ls\r".to_vec(), false));
        assert_eq!(escape.feed(&[ESCAPE]), (vec![], false));
        assert_eq!(
            escape.feed(&[ESCAPE, b'x']),
            (vec![ESCAPE, b'x'], false),
            "Ctrl-A Ctrl-A is a Ctrl-A"
        );
        assert_eq!(escape.feed(&[b'a', ESCAPE, b'x', b'b']), (vec![b'a'], true));
    }

    #[test]
    fn output_that_nobody_reads_is_bounded_and_what_is_dropped_is_counted() {
        let mut queue = OutputQueue::default();
        let line = [b'x'; 1000];
        let lines = CONSOLE_OUTPUT_BYTES_MAX / line.len();
        for _ in 0..lines + 3 {
            queue.push(&line);
        }
        assert_eq!(queue.bytes.len(), lines * line.len());
        assert_eq!(queue.dropped, 3 * 1000);
        queue.push(b"short");
        assert!(queue.bytes.ends_with(b"short"), "what fits is taken");
        assert!(queue.bytes.len() <= CONSOLE_OUTPUT_BYTES_MAX);
    }
}
