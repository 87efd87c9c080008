//! A terminal on a host: this terminal in raw mode, joined to a shell there.

use crate::agent::client::{Agent, Event, Input};
use crate::agent::message::{ExitStatus, Request, Run, TerminalSize};
use anyhow::Result;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use std::io::{Read, Write, stdin, stdout};
use std::process::{Command, Stdio};
use std::thread;

/// When the terminal does not say.
const USUAL_SIZE: TerminalSize = TerminalSize {
    rows: 24,
    columns: 80,
};

/// This terminal in raw mode; as it was when dropped.
struct Raw(Termios);

impl Raw {
    fn new() -> Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(stdin(), SetArg::TCSANOW, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(stdin(), SetArg::TCSADRAIN, &self.0);
    }
}

/// Joins this terminal to a shell on the host until the shell ends.
pub(super) fn shell(agent: &Agent) -> Result<ExitStatus> {
    // Blocked before any thread starts, so that only the one below hears of new sizes.
    let resized = SigSet::from(Signal::SIGWINCH);
    resized.thread_block()?;
    let run = Run {
        argv: vec!["sh".to_owned(), "-l".to_owned()],
        env: vec![(
            "TERM".to_owned(),
            std::env::var("TERM").unwrap_or_else(|_| "linux".to_owned()),
        )],
        directory: Some("/root".to_owned()),
        terminal: Some(size()),
    };
    let mut channel = agent.open(Request::Run(run))?;
    let raw = Raw::new()?;
    let input = channel.input();
    thread::spawn(move || feed(&input));
    let input = channel.input();
    thread::spawn(move || while resized.wait().is_ok() && input.resize(size()).is_ok() {});
    let status = loop {
        match channel.next()? {
            Event::Data(_, bytes) => stdout().write_all(&bytes).and_then(|()| stdout().flush())?,
            Event::Exit(status) => break status,
        }
    };
    drop(raw);
    Ok(status)
}

fn feed(input: &Input) {
    let mut buffer = [0; 4_096];
    while let Ok(length @ 1..) = stdin().read(&mut buffer) {
        if input.send(&buffer[..length]).is_err() {
            return;
        }
    }
    // The shell may have ended first.
    let _ = input.end();
}

/// Asks `stty`, which spares this crate an ioctl.
fn size() -> TerminalSize {
    let output = Command::new("stty")
        .arg("size")
        .stdin(Stdio::inherit())
        .stderr(Stdio::null())
        .output();
    let text = output
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(rows)), Some(Ok(columns))) if rows > 0 && columns > 0 => TerminalSize { rows, columns },
        _ => USUAL_SIZE,
    }
}
