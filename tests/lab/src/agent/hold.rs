//! `antipode-lab-agent hold THREAD`: one thread of a process stands still, and the others go on, until this ends.
//!
//! No signal does that: `SIGSTOP` stops a process whole. A tracer can interrupt a single thread, and a thread whose
//! tracer has ended goes on.

use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use std::io::{self, Read, Write};

/// What is said when the thread stands.
pub const HELD: &str = "held";

/// Holds `thread` until `until` ends, and says so on `out`.
///
/// # Errors
/// A thread that is not there, or whose process is traced already.
pub fn hold(thread: i32, mut until: impl Read, mut out: impl Write) -> io::Result<()> {
    let thread = Pid::from_raw(thread);
    ptrace::seize(thread, Options::empty())?;
    ptrace::interrupt(thread)?;
    waitpid(thread, Some(WaitPidFlag::__WALL))?;
    writeln!(out, "{HELD}")?;
    out.flush()?;
    io::copy(&mut until, &mut io::sink())?;
    Ok(ptrace::detach(thread, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_thread_stands_until_it_is_let_go() {
        let mut child = Command::new("sleep")
            .arg("100")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let state = |id: u32| {
            let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
            stat.rsplit_once(')').unwrap().1.trim().chars().next().unwrap()
        };
        let (id, mut said) = (child.id(), Vec::new());
        let mut held = Watch {
            id,
            state,
            seen: None,
        };
        let outcome = hold(i32::try_from(id).unwrap(), &mut held, &mut said);
        let after = state(id);
        child.kill().unwrap();
        child.wait().unwrap();
        match outcome {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                return eprintln!("skipped: this machine allows nobody to trace");
            }
            Err(error) => panic!("{error}"),
        }
        assert_eq!(String::from_utf8(said).unwrap().trim(), HELD);
        assert_eq!(held.seen, Some('t'), "it stood for its tracer");
        assert_ne!(after, 't');
    }

    /// An input without a byte that looks at the process when it is read.
    struct Watch<F> {
        id: u32,
        state: F,
        seen: Option<char>,
    }

    impl<F: Fn(u32) -> char> Read for Watch<F> {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            self.seen = Some((self.state)(self.id));
            Ok(0)
        }
    }
}
