//! A running host.

use super::clock;
use super::error::{Error, Result};
use super::initramfs;
use super::launcher::{OwnedChild, dying_with_us, launch};
use super::materials::Materials;
use super::qemu::{self, Paths};
use super::run_directory::RunDirectory;
use super::spec::HostSpec;
use crate::agent::client::{Agent, Channel, Output};
use crate::agent::message::{Request, Run};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// A host boots in some four seconds on an idle machine; on one that is building everything else it may take this.
const BOOT_TIMEOUT: Duration = Duration::from_secs(180);

/// How much of a console is shown with an error.
const TAIL_BYTES: usize = 2_000;

/// An emulated host that is up. Dropping it cuts its power.
pub struct Host {
    name: String,
    console: PathBuf,
    monitor: PathBuf,
    child: OwnedChild,
    agent: Agent,
    boot_time: Duration,
}

impl Host {
    /// Boots a host and waits until its agent greets. Its console and other files go to a directory of its name in
    /// `run`. Hosts may be booted from several threads at once.
    ///
    /// # Errors
    /// [`Error::Ended`] with QEMU's words or [`Error::Boot`] with the end of the console.
    pub fn boot(materials: &Materials, spec: &HostSpec, run: &RunDirectory) -> Result<Self> {
        let started = Instant::now();
        let directory = run.path().join(&spec.name);
        std::fs::create_dir_all(&directory).map_err(Error::file("create", &directory))?;
        let initramfs = directory.join("initramfs");
        initramfs::write(materials, spec, &initramfs)?;
        let console = directory.join("console.log");
        let (agent_socket, monitor) = (
            run.socket(&format!("{}.agent", spec.name)),
            run.socket(&format!("{}.qmp", spec.name)),
        );
        for stale in [&agent_socket, &monitor] {
            // Left by a host of this name that lost its power.
            let _ = std::fs::remove_file(stale);
        }
        let listener = UnixListener::bind(&agent_socket).map_err(Error::file("listen on", &agent_socket))?;
        let errors = directory.join("qemu.log");
        let paths = Paths {
            kernel: &materials.kernel.vmlinuz,
            initramfs: &initramfs,
            console: &console,
            agent: &agent_socket,
            monitor: &monitor,
        };
        let mut child = start(&qemu::arguments(spec, &paths, clock::tsc_khz()), &errors)?;
        let name = spec.name.clone();
        let Some(stream) = accept(&listener, &mut child)? else {
            let status = child
                .0
                .wait()
                .map_err(Error::file("wait for", Path::new(qemu::PROGRAM)))?;
            let message = std::fs::read_to_string(&errors)
                .unwrap_or_default()
                .trim()
                .to_owned();
            return Err(Error::Ended {
                host: name,
                status,
                message,
                console,
            });
        };
        let agent = Agent::connect(stream, BOOT_TIMEOUT).map_err(|source| {
            let tail = tail(&console);
            Error::Boot {
                host: name.clone(),
                console: console.clone(),
                tail,
                source,
            }
        })?;
        // The kernel has unpacked it; it would only fill the run's directory.
        let _ = std::fs::remove_file(&initramfs);
        Ok(Self {
            name,
            console,
            monitor,
            child,
            agent,
            boot_time: started.elapsed(),
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// From the call of [`Host::boot`] to the agent's greeting.
    #[must_use]
    pub fn boot_time(&self) -> Duration {
        self.boot_time
    }

    /// Its agent, for what the methods here do not cover.
    #[must_use]
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// The socket on which QEMU takes commands (QMP): throttled or failing disks, pulled cables.
    #[must_use]
    pub fn monitor(&self) -> &Path {
        &self.monitor
    }

    /// Everything on its serial console so far.
    #[must_use]
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.console).unwrap_or_default()).into_owned()
    }

    /// Runs a program to its end.
    ///
    /// # Errors
    /// If it cannot be started or the host dies; a program that ends badly is no error here.
    pub fn run(&self, argv: &[&str]) -> Result<Output> {
        let argv = argv.iter().map(ToString::to_string).collect();
        self.agent
            .run(Run {
                argv,
                ..Run::default()
            })
            .map_err(|source| self.agent_error(source))
    }

    /// Runs a shell script to its end and returns what it printed.
    ///
    /// # Errors
    /// Also if it ends badly.
    pub fn shell(&self, script: &str) -> Result<String> {
        let output = self.run(&["sh", "-c", script])?;
        if output.status.success() {
            return Ok(output.text());
        }
        Err(Error::Command {
            host: self.name.clone(),
            command: script.to_owned(),
            status: output.status,
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }

    /// Starts a program; the channel streams its output and feeds, signals or (dropped) kills it.
    ///
    /// # Errors
    /// If the host is gone. A program that cannot be started says so on the channel.
    pub fn spawn(&self, argv: &[&str]) -> Result<Channel> {
        let argv = argv.iter().map(ToString::to_string).collect();
        let request = Request::Run(Run {
            argv,
            ..Run::default()
        });
        self.agent
            .open(request)
            .map_err(|source| self.agent_error(source))
    }

    /// Copies a file of this machine into the host.
    ///
    /// # Errors
    /// If it cannot be read here or written there.
    pub fn put(&self, source: &Path, path: &str, mode: u32) -> Result<()> {
        let file = File::open(source).map_err(Error::file("read", source))?;
        self.agent
            .put(path, mode, file)
            .map_err(|source| self.agent_error(source))
    }

    /// Writes a file in the host.
    ///
    /// # Errors
    /// If it cannot be written there.
    pub fn put_bytes(&self, bytes: &[u8], path: &str, mode: u32) -> Result<()> {
        self.agent
            .put(path, mode, bytes)
            .map_err(|source| self.agent_error(source))
    }

    /// Reads a file of the host.
    ///
    /// # Errors
    /// If it cannot be read there.
    pub fn get(&self, path: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.agent
            .get(path, &mut bytes)
            .map_err(|source| self.agent_error(source))?;
        Ok(bytes)
    }

    /// Cuts the host's power: nothing in it gets to say or write anything more.
    pub fn power_cut(self) {
        drop(self.child);
    }

    /// Stops the host in its tracks, as a hypervisor's or a kernel's stall would.
    ///
    /// # Errors
    /// [`Error::Signal`].
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets a frozen host go on.
    ///
    /// # Errors
    /// [`Error::Signal`].
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Processor time of this machine that the host has used.
    ///
    /// # Errors
    /// [`Error::File`] if its process is gone.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let path = PathBuf::from(format!("/proc/{}/stat", self.child.0.id()));
        let stat = std::fs::read_to_string(&path).map_err(Error::file("read", &path))?;
        let ticks = parse_cpu_ticks(&stat)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
            .map_err(Error::file("understand", &path))?;
        let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
        let per_second = u32::try_from(per_second).unwrap_or(100);
        Ok(f64::from(ticks) / f64::from(per_second))
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.0.id()).unwrap_or_default());
        kill(pid, signal).map_err(|source| Error::Signal {
            host: self.name.clone(),
            source,
        })
    }

    fn agent_error(&self, source: crate::agent::client::Error) -> Error {
        Error::Agent {
            host: self.name.clone(),
            source,
        }
    }
}

fn start(arguments: &[std::ffi::OsString], errors: &Path) -> Result<OwnedChild> {
    let log = File::create(errors).map_err(Error::file("create", errors))?;
    let mut command = dying_with_us(qemu::PROGRAM);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    launch(command)
}

/// Waits for QEMU to connect; `None` if it ends instead.
fn accept(listener: &UnixListener, child: &mut OwnedChild) -> Result<Option<UnixStream>> {
    let socket = Path::new("the agent's socket");
    loop {
        let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut fds, PollTimeout::from(50_u8)).unwrap_or(0);
        if ready > 0 {
            return listener
                .accept()
                .map(|(stream, _)| Some(stream))
                .map_err(Error::file("accept on", socket));
        }
        if child
            .0
            .try_wait()
            .map_err(Error::file("wait for", Path::new(qemu::PROGRAM)))?
            .is_some()
        {
            return Ok(None);
        }
    }
}

fn tail(console: &Path) -> String {
    let mut bytes = Vec::new();
    // A console that cannot be read has no tail.
    let _ = File::open(console).and_then(|mut file| file.read_to_end(&mut bytes));
    let start = bytes.len().saturating_sub(TAIL_BYTES);
    String::from_utf8_lossy(&bytes[start..]).into_owned()
}

/// User and system ticks of `/proc/<pid>/stat`: fields 14 and 15, counted after the name, which may hold anything.
fn parse_cpu_ticks(stat: &str) -> Option<u32> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    user.checked_add(system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "7 (q) (x y) S 1 7 7 0 -1 4194560 10 0 0 0 250 50 0 0 20 0 1 0 100";
        assert_eq!(parse_cpu_ticks(stat), Some(300));
        assert_eq!(parse_cpu_ticks("nonsense"), None);
    }
}
