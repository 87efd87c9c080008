//! The board on the terminal, kept up to date while the demo goes on.
//!
//! On a terminal the board is drawn again every half second below what was said; elsewhere it is written every few
//! seconds, so that a log stays readable. Each site is asked by a thread of its own: one that is frozen holds up nobody.

use super::super::sites::{Site, Sites, VmStatus, Watcher};
use super::board::{Board, SiteSeen};
use crate::agent::client::Agent;
use crate::agent::message::Run;
use anyhow::Result;
use std::io::{self, IsTerminal, Write};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Between two questions to a site.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Between two drawings on a terminal.
const DRAW_EVERY: Duration = Duration::from_millis(500);

/// Between two boards in a log.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// The view. Dropping it ends the drawing.
pub(super) struct View {
    shared: Arc<Shared>,
}

struct Shared {
    begun: Instant,
    is_terminal: bool,
    /// Characters that fit in a line.
    columns: usize,
    ended: AtomicBool,
    screen: Mutex<Screen>,
}

struct Screen {
    board: Board,
    /// Lines of the board that stand on the terminal now.
    drawn: usize,
    /// What a board showed before the first VM is there says nothing.
    is_shown: bool,
}

impl View {
    pub(super) fn new(rtt: Duration) -> Self {
        let is_terminal = io::stdout().is_terminal();
        let shared = Arc::new(Shared {
            begun: Instant::now(),
            is_terminal,
            columns: if is_terminal { columns() } else { usize::MAX },
            ended: AtomicBool::new(false),
            screen: Mutex::new(Screen {
                board: Board::new(rtt),
                drawn: 0,
                is_shown: false,
            }),
        });
        let drawer = Arc::clone(&shared);
        thread::spawn(move || drawer.keep_drawing());
        Self { shared }
    }

    /// Says what happens now.
    pub(super) fn say(&self, text: &str) {
        let mut screen = self.shared.screen();
        screen.erase();
        println!("[{:6.1} s] {text}", self.shared.begun.elapsed().as_secs_f32());
        text.clone_into(&mut screen.board.now);
        if self.shared.is_terminal {
            self.shared.draw(&mut screen);
        }
    }

    /// Follows what a site says from now on, until it loses its power.
    pub(super) fn follow(&self, sites: &Sites<'_>, site: Site) -> Result<()> {
        let agent = sites.host(site)?.agent().clone();
        let command = sites.status_command();
        let shared = Arc::clone(&self.shared);
        thread::spawn(move || shared.keep_asking(site, &agent, &command));
        self.shared.screen().is_shown = true;
        Ok(())
    }

    /// Shows how the client fares while `done` is not.
    pub(super) fn wait<T>(
        &self,
        watcher: &Watcher,
        mut done: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        loop {
            self.shared.screen().board.client = Some(watcher.progress());
            if let Some(found) = done()? {
                return Ok(found);
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// A site's host has lost its power.
    pub(super) fn no_power(&self, site: Site) {
        self.shared.screen().board.see(site, SiteSeen::NoPower);
    }

    /// Takes the board away; what is printed next stands below what was said.
    pub(super) fn end(self) {
        self.shared.screen().erase();
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
    }
}

impl Shared {
    fn screen(&self) -> MutexGuard<'_, Screen> {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    fn keep_drawing(&self) {
        let every = if self.is_terminal { DRAW_EVERY } else { LOG_EVERY };
        loop {
            thread::sleep(every);
            let mut screen = self.screen();
            if self.is_over() {
                return;
            }
            screen.erase();
            self.draw(&mut screen);
        }
    }

    fn draw(&self, screen: &mut Screen) {
        if !screen.is_shown || self.is_over() {
            return;
        }
        let lines = screen.board.lines(self.begun.elapsed());
        for line in &lines {
            // A line that wraps would be two, and the next drawing begin too low.
            println!("{}", line.chars().take(self.columns).collect::<String>());
        }
        screen.drawn = if self.is_terminal { lines.len() } else { 0 };
        // A terminal that is gone is no reason to stop.
        let _ = io::stdout().flush();
    }

    fn keep_asking(&self, site: Site, agent: &Agent, command: &[String]) {
        while !self.is_over() {
            let run = Run {
                argv: command.to_vec(),
                ..Run::default()
            };
            let Ok(output) = agent.run(run) else {
                return;
            };
            let seen = match serde_json::from_str::<VmStatus>(&output.text()) {
                Ok(status) => SiteSeen::Status(Box::new(status)),
                Err(_) => SiteSeen::Nothing,
            };
            self.screen().board.see(site, seen);
            thread::sleep(ASK_EVERY);
        }
    }
}

/// Characters that fit in a line of the terminal: `stty` says so, where it can.
fn columns() -> usize {
    let mut command = Command::new("stty");
    let said = command.arg("size").stdin(Stdio::inherit()).output();
    let text = said.map_or(String::new(), |output| {
        String::from_utf8_lossy(&output.stdout).into_owned()
    });
    let columns = text.split_whitespace().nth(1).and_then(|word| word.parse().ok());
    columns.filter(|columns| *columns > 0).unwrap_or(80)
}

impl Screen {
    /// Takes the board off the terminal.
    fn erase(&mut self) {
        if self.drawn > 0 {
            // Up so many lines, and everything below away.
            print!("\x1b[{}A\x1b[J", self.drawn);
            self.drawn = 0;
        }
    }
}
