//! A client that keeps account of a guest ([`crate::load::watch`]), followed while it runs.

use crate::agent::client::{Channel, Event, Input};
use crate::agent::message::Stream;
use crate::host::Host;
use crate::image::Service;
use crate::load::watch::{Line, Progress, Report};
use crate::scenario::clients::PROGRAM;
use crate::scenario::stage::GUEST_ADDRESS;
use anyhow::{Context, Result, bail, ensure};
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// From one write to the next, if the service is that quick.
const WRITE_EVERY: Duration = Duration::from_millis(20);

/// For writes to be acknowledged: in lockstep on emulated hosts one may take most of a second.
pub(crate) const WRITES_TIMEOUT: Duration = Duration::from_secs(90);

/// From the end of the writing to the report: everything is read back.
const REPORT_PATIENCE: Duration = Duration::from_secs(150);

/// How often it is asked whether a wait is vain.
const ASKED_EVERY: Duration = Duration::from_secs(1);

/// A watch under way. Dropping it ends it without a report.
pub(crate) struct Watcher {
    input: Input,
    followed: Arc<Followed>,
}

#[derive(Default)]
struct Followed {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    is_ready: bool,
    progress: Progress,
    report: Option<Report>,
    complaint: String,
    ended: bool,
}

impl Watcher {
    /// Starts on `client`; `run` tells this watch's numbers from others'. Everything it says goes to a file in `logs`.
    pub(crate) fn start(client: &Host, service: Service, run: &str, logs: &Path) -> Result<Self> {
        let argv = [
            PROGRAM,
            "watch",
            service.name(),
            GUEST_ADDRESS,
            "--run",
            run,
            "--every",
            &WRITE_EVERY.as_millis().to_string(),
        ];
        let channel = client.spawn(&argv)?;
        let log = std::fs::File::create(logs.join(format!("client-{run}.log")))?;
        let input = channel.input();
        let followed = Arc::new(Followed::default());
        let follower = Arc::clone(&followed);
        thread::spawn(move || follower.follow(channel, log));
        Ok(Self { input, followed })
    }

    /// Waits until the service is reached and the first write is on its way.
    pub(crate) fn wait_ready(&self, patience: Duration) -> Result<()> {
        self.wait(patience, "the client does not reach the service", |state| {
            state.is_ready
        })
    }

    /// Waits for `more` acknowledgements beyond those there are.
    pub(crate) fn wait_acked(&self, more: u64) -> Result<()> {
        let wanted = self.progress().acked + more;
        let what = format!("fewer than {wanted} writes are acknowledged");
        self.wait(WRITES_TIMEOUT, &what, |state| state.progress.acked >= wanted)
    }

    /// The same, unless `is_vain` says meanwhile why there will be none: that.
    pub(crate) fn wait_acked_unless<T>(
        &self,
        more: u64,
        is_vain: impl Fn() -> Option<T>,
    ) -> Result<Option<T>> {
        let wanted = self.progress().acked + more;
        let what = format!("fewer than {wanted} writes are acknowledged");
        let begun = Instant::now();
        loop {
            let is_acked = |state: &State| state.progress.acked >= wanted;
            if self.wait(ASKED_EVERY, &what, is_acked).is_ok() {
                return Ok(None);
            }
            if let Some(why) = is_vain() {
                return Ok(Some(why));
            }
            if self.followed.lock().ended || begun.elapsed() > WRITES_TIMEOUT {
                self.wait(Duration::ZERO, &what, is_acked)
                    .with_context(|| format!("after {} s", begun.elapsed().as_secs()))?;
            }
        }
    }

    /// How it was going a second ago.
    pub(crate) fn progress(&self) -> Progress {
        self.followed.lock().progress
    }

    /// Ends the writing, and waits for what came of it.
    pub(crate) fn finish(self) -> Result<Report> {
        // If the program has ended by itself, the wait says so.
        let _ = self.input.end();
        self.wait(REPORT_PATIENCE, "the client does not report", |state| {
            state.report.is_some()
        })?;
        match self.followed.lock().report.clone() {
            Some(report) => Ok(report),
            None => bail!("the client's report is gone"),
        }
    }

    /// The same, of a client to which nothing that is promised was broken; anything else is an error.
    pub(crate) fn finish_unharmed(self) -> Result<Report> {
        let report = self.finish()?;
        let violations = report.violations();
        ensure!(violations.is_empty(), "{}", violations.join("; "));
        Ok(report)
    }

    fn wait(&self, patience: Duration, what: &str, done: impl Fn(&State) -> bool) -> Result<()> {
        let state = self
            .followed
            .changed
            .wait_timeout_while(self.followed.lock(), patience, |state| {
                !done(state) && !state.ended
            })
            .unwrap_or_else(PoisonError::into_inner)
            .0;
        if done(&state) {
            return Ok(());
        }
        let complaint = state.complaint.trim();
        if state.ended {
            bail!("{what}: it has ended: {complaint}");
        }
        bail!("{what} within {} s; it said: {complaint}", patience.as_secs())
    }
}

impl Followed {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(&self, mut channel: Channel, mut log: impl Write) {
        let mut said = Vec::new();
        loop {
            let event = channel.next();
            let mut state = self.lock();
            match event {
                Ok(Event::Data(stream, bytes)) => {
                    // The log is for people; what decides is in memory.
                    let _ = log.write_all(&bytes);
                    if stream == Stream::Error {
                        state.complaint.push_str(&String::from_utf8_lossy(&bytes));
                    } else {
                        said.extend(bytes);
                    }
                }
                Ok(Event::Exit(_)) => state.ended = true,
                Err(error) => {
                    state.complaint = error.to_string();
                    state.ended = true;
                }
            }
            while let Some(end) = said.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = said.drain(..=end).collect();
                state.take(&line);
            }
            let is_over = state.ended;
            drop(state);
            self.changed.notify_all();
            if is_over {
                return;
            }
        }
    }
}

impl State {
    fn take(&mut self, line: &[u8]) {
        match serde_json::from_slice(line) {
            Ok(Line::Ready) => self.is_ready = true,
            Ok(Line::Progress(progress)) => self.progress = progress,
            Ok(Line::Report(report)) => self.report = Some(report),
            Err(_) => self.complaint.push_str(&String::from_utf8_lossy(line)),
        }
    }
}
