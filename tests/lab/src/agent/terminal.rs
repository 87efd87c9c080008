//! Pseudo-terminals inside the host.
//!
//! The controlling terminal is taken by `setsid -c` and later sizes are set by `stty`: both are in busybox and in
//! every distribution, and spare this crate the two ioctls and the `pre_exec` hook, which would need `unsafe`.

use super::message::TerminalSize;
use nix::pty::{OpenptyResult, Winsize, openpty};
use std::io;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

/// Both ends of a new terminal.
pub(super) fn open(size: TerminalSize) -> io::Result<(OwnedFd, OwnedFd)> {
    let size = Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let OpenptyResult { master, slave } = openpty(Some(&size), None)?;
    Ok((master, slave))
}

/// Makes `command` the leader of a session on the terminal whose program end is `slave`.
pub(super) fn session(argv: &[String], slave: &OwnedFd) -> io::Result<Command> {
    let mut command = Command::new("setsid");
    command.arg("-c").args(argv);
    command.stdin(Stdio::from(slave.try_clone()?));
    command.stdout(Stdio::from(slave.try_clone()?));
    command.stderr(Stdio::from(slave.try_clone()?));
    Ok(command)
}

/// Tells the terminal, and with it the programs on it, a new size.
pub(super) fn resize(slave: &OwnedFd, size: TerminalSize) -> io::Result<()> {
    let (rows, columns) = (size.rows.to_string(), size.columns.to_string());
    let mut command = Command::new("stty");
    command
        .args(["rows", rows.as_str(), "cols", columns.as_str()])
        .stdin(Stdio::from(slave.try_clone()?));
    command.status().map(drop)
}
