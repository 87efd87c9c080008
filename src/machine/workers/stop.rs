//! Ends a worker that waits for a descriptor.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// A flag that a waiting worker sees at once. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct StopFlag(Arc<EventFd>);

impl StopFlag {
    pub(super) fn new() -> std::io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self(Arc::new(EventFd::from_value_and_flags(0, flags)?)))
    }

    pub(super) fn raise(&self) {
        // It can only fail when the counter is full, that is, when the flag is up already.
        let _ = self.0.write(1);
    }

    /// Waits until `fd` is ready for `events`. False when the flag went up or the descriptor is dead.
    pub(super) fn wait_for(&self, fd: BorrowedFd<'_>, events: PollFlags) -> bool {
        loop {
            let mut fds = [
                PollFd::new(fd, events),
                PollFd::new(self.0.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => {}
                Err(_) => return false,
                Ok(_) if fds[1].any().unwrap_or(true) => return false,
                Ok(_) => return fds[0].revents().is_some_and(|ready| ready.intersects(events)),
            }
        }
    }
}
