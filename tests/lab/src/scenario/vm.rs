//! A guest under `antipode run`: its configuration, its console, its end.
//!
//! A thread follows the process for as long as it runs, so that a guest that nobody listens to is not held up, and
//! everything it says is in `<name>.log` of the run's directory.

use super::stage::{GUEST_ADDRESS, GUEST_MAC, TAP};
use super::store;
use super::{Error, Result, RunSummary, Setup};
use crate::agent::client::{Channel, Event, Input};
use crate::agent::message::{ExitStatus, Stream};
use crate::host::Host;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How much is shown with an error.
const TAIL_BYTES: usize = 3_000;

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

/// What `vm.toml` says. [`VmSettings::new`] gives the guest of a setup with its disk and its network.
#[derive(Debug, Clone)]
pub struct VmSettings {
    /// Also names the files of this VM on the site, and its log here.
    pub name: String,
    /// Guest memory.
    pub memory_mib: u64,
    /// Debian's kernel, a path where antipode runs, as all of these.
    pub kernel: String,
    /// The initramfs.
    pub initrd: String,
    /// The operator's part of the command line.
    pub cmdline: String,
    /// The guest's disk.
    pub disk: Option<String>,
    /// The TAP interface of the guest's card.
    pub tap: Option<String>,
    /// The card's address on the wire.
    pub mac: [u8; 6],
    /// Keys typed ([`Vm::type_text`]) reach the guest.
    pub interactive: bool,
    /// Outputs of a protected VM leave when its copy has made them too.
    pub verifies_output: bool,
    /// How its copy is kept the same, if that is said.
    pub kept: Option<Kept>,
}

impl VmSettings {
    /// The guest of `setup`, called `guest`.
    #[must_use]
    pub fn new(setup: &Setup) -> Self {
        let address = format!("{GUEST_ADDRESS}/24");
        let in_store = |name: &str| format!("{}/{name}", store::DIRECTORY);
        Self {
            name: "guest".to_owned(),
            memory_mib: setup.service().memory_bytes() >> 20,
            kernel: in_store(store::KERNEL),
            initrd: in_store(store::INITRD),
            cmdline: format!("quiet {}", setup.image.command_line(Some(&address), None)),
            disk: Some(in_store(store::DISK)),
            tap: Some(TAP.to_owned()),
            mac: GUEST_MAC,
            interactive: setup.service().port().is_none(),
            verifies_output: false,
            kept: None,
        }
    }

    /// The file's text. Paths and words of the lab hold nothing that TOML would read otherwise.
    #[must_use]
    pub fn toml(&self) -> String {
        let Self {
            name,
            memory_mib,
            kernel,
            initrd,
            cmdline,
            ..
        } = self;
        let output = if self.verifies_output {
            "output = \"verified\"\n"
        } else {
            ""
        };
        let kept = self
            .kept
            .map(|kept| format!("mode = \"{}\"\n", kept.name()))
            .unwrap_or_default();
        let mut text = format!(
            "name = \"{name}\"\nmemory_mib = {memory_mib}\n{output}{kept}\n[kernel]\npath = \"{kernel}\"\ninitrd = \"{initrd}\"\n\
             cmdline = \"{cmdline}\"\n"
        );
        if let Some(disk) = &self.disk {
            text.push_str(&format!("\n[disk]\npath = \"{disk}\"\n"));
        }
        if let Some(tap) = &self.tap {
            let [a, b, c, d, e, f] = self.mac;
            let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
            text.push_str(&format!("\n[network]\ntap = \"{tap}\"\nmac = \"{mac}\"\n"));
        }
        let mode = if self.interactive {
            "interactive"
        } else {
            "output-only"
        };
        text.push_str(&format!("\n[console]\nmode = \"{mode}\"\n"));
        text
    }
}

/// How the copy of a protected VM is kept the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kept {
    /// As what each costs says.
    Auto,
    /// It executes what the log tells.
    Replay,
    /// It becomes, now and then, what the other one is.
    Checkpoint,
}

impl Kept {
    /// As the definition and the status name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Replay => "replay",
            Self::Checkpoint => "checkpoint",
        }
    }
}

/// What is done with a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// It lives.
    Run,
    /// It lives, and KVM logs the pages that it writes, as for a recording.
    RunLoggingPages,
    /// It lives, and its execution is logged.
    Record {
        /// The log, a path where antipode runs.
        log: String,
        /// The folder for RAM and registers at the end.
        dump: Option<String>,
    },
    /// A logged execution is repeated.
    Replay {
        /// The log.
        log: String,
        /// The folder for RAM and registers at the end.
        dump: Option<String>,
        /// Seed of the noise.
        noise: Option<u64>,
        /// Exits that are gone through by single steps, as `FROM..TO`.
        step: Option<String>,
    },
}

impl Task {
    fn argv(&self, config: &str) -> Vec<String> {
        let words = match self {
            Self::Run => vec!["run"],
            Self::RunLoggingPages => vec!["run", "--log-written-pages"],
            Self::Record { log, .. } => vec!["record", "--output", log],
            Self::Replay { log, .. } => vec!["replay", log],
        };
        let (dump, noise, step) = match self {
            Self::Run | Self::RunLoggingPages => (None, None, None),
            Self::Record { dump, .. } => (dump.as_ref(), None, None),
            Self::Replay {
                dump, noise, step, ..
            } => (dump.as_ref(), *noise, step.as_ref()),
        };
        let noise = noise.map(|seed| seed.to_string());
        let option = |name, value: Option<&String>| value.map(|value| [name, value.clone()]);
        let options = [
            option("--dump".to_owned(), dump),
            option("--noise".to_owned(), noise.as_ref()),
            option("--step".to_owned(), step),
        ];
        let mut argv = vec!["antipode".to_owned()];
        argv.extend(words.into_iter().map(ToOwned::to_owned));
        argv.extend(options.into_iter().flatten().flatten());
        argv.extend(["--json", "--config", config].map(ToOwned::to_owned));
        argv
    }
}

/// A VM that was started. Dropping it kills it.
pub struct Vm {
    name: String,
    input: Input,
    followed: Arc<Followed>,
    started: Instant,
    /// Up to here the console has been waited for.
    seen_bytes: usize,
}

/// How a VM ended.
#[derive(Debug, Clone)]
pub struct VmEnd {
    /// The VM's name.
    pub name: String,
    /// Of the process `antipode`.
    pub status: ExitStatus,
    /// Its last line; absent if it was killed or refused to start.
    pub summary: Option<RunSummary>,
    /// The console, the summary included.
    pub console: String,
    /// What antipode said besides.
    pub messages: String,
}

impl VmEnd {
    /// The summary, which must say the same as the exit code.
    ///
    /// # Errors
    /// [`Error::Vm`] if there is none or it says something else.
    pub fn checked_summary(&self) -> Result<RunSummary> {
        match &self.summary {
            Some(summary) if self.status == ExitStatus::Code(summary.exit_code.into()) => Ok(summary.clone()),
            other => Err(Error::Vm {
                vm: self.name.clone(),
                what: format!(
                    "antipode ended with {}, and its summary is {other:?}",
                    self.status
                ),
                tail: tail(self.console.as_bytes(), self.messages.as_bytes()),
            }),
        }
    }
}

#[derive(Default)]
struct Followed {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    console: Vec<u8>,
    messages: Vec<u8>,
    ended: Option<std::result::Result<ExitStatus, String>>,
}

impl Vm {
    /// Writes the configuration and starts `task` with it; its log goes to `logs`.
    pub(super) fn start(host: &Host, settings: &VmSettings, task: &Task, logs: &Path) -> Result<Self> {
        let config = format!("{}/{}.toml", store::DIRECTORY, settings.name);
        host.put_bytes(settings.toml().as_bytes(), &config, 0o644)?;
        let log = logs.join(format!("{}.log", settings.name));
        let log = File::create(&log).map_err(Error::file("create", &log))?;
        let started = Instant::now();
        let argv = task.argv(&config);
        let channel = host.spawn(&argv.iter().map(String::as_str).collect::<Vec<_>>())?;
        let input = channel.input();
        let followed = Arc::new(Followed::default());
        let follower = Arc::clone(&followed);
        thread::spawn(move || follower.follow(channel, log));
        Ok(Self {
            name: settings.name.clone(),
            input,
            followed,
            started,
            seen_bytes: 0,
        })
    }

    /// Waits until the console says `text`, and returns how long after the start that was. What came before it is
    /// not searched again.
    ///
    /// # Errors
    /// [`Error::Vm`] if it ends or is silent until `timeout`.
    pub fn wait_for(&mut self, text: &str, timeout: Duration) -> Result<Duration> {
        let start = self.seen_bytes;
        let found = |state: &State| find(&state.console[start..], text.as_bytes());
        let state = self
            .followed
            .wait(timeout, |state| found(state).is_some() || state.ended.is_some());
        if let Some(end) = found(&state) {
            self.seen_bytes += end;
            return Ok(self.started.elapsed());
        }
        let happened = match &state.ended {
            None => format!("nothing of it within {} s", timeout.as_secs()),
            Some(Ok(status)) => format!("antipode ended with {status} before it"),
            Some(Err(error)) => error.clone(),
        };
        Err(self.error(format!("expected `{text}` on the console: {happened}"), &state))
    }

    /// Waits until antipode itself says `text`, on standard error.
    ///
    /// # Errors
    /// As [`Vm::wait_for`].
    pub fn wait_for_message(&self, text: &str, timeout: Duration) -> Result<()> {
        let found = |state: &State| find(&state.messages, text.as_bytes()).is_some();
        let state = self
            .followed
            .wait(timeout, |state| found(state) || state.ended.is_some());
        if found(&state) {
            return Ok(());
        }
        Err(self.error(format!("expected `{text}` among antipode's messages"), &state))
    }

    /// Types on the guest's console.
    ///
    /// # Errors
    /// If the host is gone.
    pub fn type_text(&self, text: &str) -> Result<()> {
        let typed = self.input.send(text.as_bytes());
        typed.map_err(|error| self.error(format!("typing: {error}"), &self.followed.lock()))
    }

    /// Presses the guest's power button, by `SIGTERM` to antipode; pressed again, it stops the VM at once.
    ///
    /// # Errors
    /// If the host is gone.
    pub fn press_power_button(&self) -> Result<()> {
        let sent = self.input.signal(SIGTERM);
        sent.map_err(|error| self.error(format!("SIGTERM: {error}"), &self.followed.lock()))
    }

    /// Waits for the end of the process.
    ///
    /// # Errors
    /// [`Error::Vm`] if it still runs after `timeout`, or the host is gone.
    pub fn wait_end(self, timeout: Duration) -> Result<VmEnd> {
        let state = self.followed.wait(timeout, |state| state.ended.is_some());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match &state.ended {
            Some(Ok(status)) => {
                let console = text(&state.console);
                Ok(VmEnd {
                    name: self.name.clone(),
                    status: *status,
                    summary: RunSummary::find(&console),
                    console,
                    messages: text(&state.messages),
                })
            }
            Some(Err(error)) => Err(self.error(error.clone(), &state)),
            None => Err(self.error(format!("it did not end within {} s", timeout.as_secs()), &state)),
        }
    }

    fn error(&self, what: String, state: &State) -> Error {
        Error::Vm {
            vm: self.name.clone(),
            what,
            tail: tail(&state.console, &state.messages),
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if self.followed.lock().ended.is_none() {
            // Fails only if the host is gone, and the VM with it.
            let _ = self.input.signal(SIGKILL);
        }
    }
}

impl Followed {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(
        &self,
        timeout: Duration,
        mut done: impl FnMut(&State) -> bool,
    ) -> std::sync::MutexGuard<'_, State> {
        self.changed
            .wait_timeout_while(self.lock(), timeout, |state| !done(state))
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }

    fn follow(&self, mut channel: Channel, mut log: File) {
        loop {
            let event = channel.next();
            let mut state = self.lock();
            match event {
                Ok(Event::Data(stream, bytes)) => {
                    // The log is for people; what decides is in memory.
                    let _ = log.write_all(&bytes);
                    match stream {
                        Stream::Error => state.messages.extend(bytes),
                        _ => state.console.extend(bytes),
                    }
                }
                Ok(Event::Exit(status)) => state.ended = Some(Ok(status)),
                Err(error) => state.ended = Some(Err(error.to_string())),
            }
            let is_over = state.ended.is_some();
            drop(state);
            self.changed.notify_all();
            if is_over {
                return;
            }
        }
    }
}

/// The end of the console and of antipode's messages, which are few.
fn tail(console: &[u8], messages: &[u8]) -> String {
    let start = console.len().saturating_sub(TAIL_BYTES);
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    text(&console[start..]) + &text(messages)
}

/// The end of the first occurrence.
fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let start = haystack
        .windows(needle.len().max(1))
        .position(|window| window == needle)?;
    Some(start + needle.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_once_and_its_end_is_told() {
        assert_eq!(find(b"xx ready\n", b"ready"), Some(8));
        assert_eq!(find(b"read", b"ready"), None);
        assert_eq!(find(b"", b"ready"), None);
    }

    #[test]
    fn only_what_is_asked_for_is_in_the_file() {
        let mut settings = VmSettings {
            name: "guest".to_owned(),
            memory_mib: 256,
            kernel: "/k".to_owned(),
            initrd: "/i".to_owned(),
            cmdline: "quiet".to_owned(),
            disk: None,
            tap: None,
            mac: GUEST_MAC,
            interactive: false,
            verifies_output: false,
            kept: None,
        };
        let text = settings.toml();
        assert!(!text.contains("[disk]") && !text.contains("[network]"), "{text}");
        assert!(text.contains("mode = \"output-only\""), "{text}");
        assert!(!text.contains("output = "), "{text}");
        settings.verifies_output = true;
        assert!(settings.toml().contains("\noutput = \"verified\"\n\n[kernel]"));
        settings.kept = Some(Kept::Checkpoint);
        assert!(
            settings
                .toml()
                .contains("\"verified\"\nmode = \"checkpoint\"\n\n[kernel]")
        );
        settings.disk = Some("/d".to_owned());
        settings.tap = Some("tap0".to_owned());
        let text = settings.toml();
        assert!(text.contains("path = \"/d\""), "{text}");
        assert!(text.contains("mac = \"02:a0:00:00:09:32\""), "{text}");
    }
}
