//! Signals of a command that runs in the foreground: a VM or a daemon.

use nix::sys::signal::{SigSet, Signal};

use super::failure::Failure;
use super::run::host_failure;
use crate::devices::Input;
use crate::machine::workers::{Event, Inbox};

/// SIGTERM, SIGINT and SIGHUP, blocked in the calling thread and those it starts later.
#[derive(Debug)]
pub(super) struct Signals(SigSet);

impl Signals {
    /// Blocks them. Call it before any thread starts, so that only the one that waits for them gets them.
    pub(super) fn block() -> Result<Self, Failure> {
        let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]
            .into_iter()
            .collect();
        signals
            .thread_block()
            .map_err(|errno| host_failure("blocking signals", errno.into()))?;
        Ok(Self(signals))
    }

    /// Calls `then` when the first signal comes.
    pub(super) fn once(self, then: impl FnOnce() + Send + 'static) {
        let wait = move || {
            if self.0.wait().is_ok() {
                then();
            }
        };
        if let Err(error) = std::thread::Builder::new().name("signals".into()).spawn(wait) {
            tracing::error!(%error, "no thread for signals: only SIGKILL will end this process from outside");
        }
    }

    /// The first signal presses the guest's power button, the next one stops the VM.
    pub(super) fn serve(self, inbox: Inbox) {
        let serve = move || {
            let mut was_asked = false;
            while self.0.wait().is_ok() {
                if was_asked {
                    inbox.post([Event::Stop]);
                    return;
                }
                tracing::warn!("pressed the guest's power button; a second signal stops the VM at once");
                inbox.post([Event::Device(Input::PowerButton)]);
                was_asked = true;
            }
        };
        if let Err(error) = std::thread::Builder::new().name("signals".into()).spawn(serve) {
            tracing::error!(%error, "no thread for signals: only SIGKILL will stop this VM from outside");
        }
    }
}
