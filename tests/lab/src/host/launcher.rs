//! Processes that die with the lab.
//!
//! A child of the lab gets `PR_SET_PDEATHSIG`, so that nothing stays behind however the lab ends, `SIGKILL`
//! included. The kernel sends that signal when the *thread* that forked ends, not the process; all children are
//! therefore started by one thread that lives as long as the process. `setpriv` (util-linux) sets the signal: doing
//! it between fork and exec from here would need `unsafe`.

use super::error::{Error, Result};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

type Order = (Command, Sender<io::Result<Child>>);

/// A child that is killed and reaped when dropped.
#[derive(Debug)]
pub struct OwnedChild(pub Child);

impl Drop for OwnedChild {
    fn drop(&mut self) {
        // Both fail only if it has been reaped already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `program`, to be given arguments and handed to [`launch`].
#[must_use]
pub fn dying_with_us(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    // Its own group: an interrupt at the terminal goes to the lab alone, which then ends its children in order.
    command.process_group(0);
    command
}

/// Starts a command made by [`dying_with_us`].
///
/// # Errors
/// [`Error::Start`] naming the program.
pub fn launch(command: Command) -> Result<OwnedChild> {
    static LAUNCHER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    let program = command
        .get_args()
        .nth(3)
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let launcher = LAUNCHER.get_or_init(|| {
        let (orders, received) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, answer) in received {
                // The one who asked waits for the answer.
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let (answer, answered) = mpsc::channel();
    let sent = launcher
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send((command, answer));
    let spawned = sent
        .map_err(io::Error::other)
        .and_then(|()| answered.recv().map_err(io::Error::other));
    match spawned {
        Ok(Ok(child)) => Ok(OwnedChild(child)),
        Ok(Err(source)) | Err(source) => Err(Error::Start { program, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_outlives_the_thread_that_asked_for_it_and_dies_when_dropped() {
        let mut child = thread::spawn(|| {
            let mut command = dying_with_us("sleep");
            command.arg("1000");
            launch(command).unwrap()
        })
        .join()
        .unwrap();
        let pid = child.0.id();
        assert!(child.0.try_wait().unwrap().is_none());
        drop(child);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
}
