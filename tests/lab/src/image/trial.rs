//! A trial boot in plain QEMU, with no host emulated around it: does the image boot, answer and stop?
//!
//! `timeout` bounds the whole trial from outside, so nothing here reads a clock.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde::Serialize;

use super::{Error, Image, Result, Service};
use crate::debian;

/// Longest trial: the slowest guest needs a fifth of it.
const DEADLINE_SECONDS: &str = "240";
/// Lines of console shown with a failure.
const CONSOLE_LINES_SHOWN: usize = 40;

/// What a trial showed.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What the service answered.
    pub answer: String,
    /// The guest's own messages.
    pub messages: Vec<String>,
}

/// Boots `image` on a copy of its disk, talks to the service from the host, presses the power button and waits for the
/// end.
///
/// # Errors
///
/// [`Error::Trial`] with the console's last lines if the guest does not follow.
pub fn run(image: &Image) -> Result<Report> {
    let scratch = tempfile::tempdir().map_err(debian::Error::file("create", std::env::temp_dir()))?;
    let disk = scratch.path().join("disk");
    image.copy_disk(&disk)?;
    let monitor = scratch.path().join("monitor");
    let port = free_port().map_err(debian::Error::file("find a free port on", "127.0.0.1"))?;
    let mut guest = Guest {
        service: image.manifest.recipe.service,
        child: start(image, &disk, &monitor, port)?,
        console: Vec::new(),
    };
    let outcome = converse(&mut guest, &monitor, port);
    // A guest that stopped is gone already; one that did not follow must not stay.
    let _ = guest.child.kill();
    let _ = guest.child.wait();
    let answer = outcome.map_err(|detail| guest.failed(detail))?;
    let own = |line: &&String| line.starts_with("antipode-guest: ");
    Ok(Report {
        answer,
        messages: guest.console.iter().filter(own).cloned().collect(),
    })
}

struct Guest {
    service: Service,
    child: Child,
    console: Vec<String>,
}

impl Guest {
    fn failed(&self, detail: String) -> Error {
        let start = self.console.len().saturating_sub(CONSOLE_LINES_SHOWN);
        Error::Trial {
            service: self.service,
            detail,
            console: self.console[start..].join("\n"),
        }
    }

    /// Has the shell ask one of Debian's programs what it is.
    fn ask_shell(&mut self, console: &mut impl BufRead) -> std::result::Result<String, String> {
        let keyboard = self.child.stdin.as_mut().ok_or("QEMU has no standard input")?;
        keyboard
            .write_all(b"echo answer-$(ls --version | grep -c '(GNU coreutils)')\n")
            .map_err(|error| format!("typing: {error}"))?;
        self.read_until(console, "answer-1")?;
        Ok("its shell runs Debian's programs".to_owned())
    }

    /// Reads the console up to a line that ends with `wanted`, or to its end.
    fn read_until(&mut self, console: &mut impl BufRead, wanted: &str) -> std::result::Result<(), String> {
        loop {
            let mut bytes = Vec::new();
            let count = console
                .read_until(b'\n', &mut bytes)
                .map_err(|error| format!("console: {error}"))?;
            if count == 0 {
                return Err(format!(
                    "the guest ended, or its {DEADLINE_SECONDS} s did, before `{wanted}`"
                ));
            }
            let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
            let found = line.ends_with(wanted);
            self.console.push(line);
            if found {
                return Ok(());
            }
        }
    }
}

fn start(image: &Image, disk: &Path, monitor: &Path, port: u16) -> Result<Child> {
    let service = image.manifest.recipe.service;
    let forward = service.port().map_or(String::new(), |inside| {
        format!(",hostfwd=tcp:127.0.0.1:{port}-10.0.2.15:{inside}")
    });
    let mut command = Command::new("timeout");
    command
        .args([
            "--signal=KILL",
            DEADLINE_SECONDS,
            "qemu-system-x86_64",
            "-nodefaults",
            "-no-reboot",
        ])
        .args([
            "-accel", "tcg", "-cpu", "max", "-display", "none", "-serial", "stdio",
        ])
        .args(["-m", &format!("{}M", service.memory_bytes() >> 20)])
        .arg("-kernel")
        .arg(&image.kernel)
        .arg("-initrd")
        .arg(&image.initrd)
        .args([
            "-append",
            &format!(
                "quiet {}",
                image.command_line(Some("10.0.2.15/24"), Some("10.0.2.2"))
            ),
        ])
        .args(["-drive", &format!("file={},format=raw,if=virtio", disk.display())])
        .args(["-nic", &format!("user,model=virtio-net-pci,restrict=on{forward}")])
        .args(["-device", "virtio-rng-pci"])
        .args([
            "-monitor",
            &format!("unix:{},server=on,wait=off", monitor.display()),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    Ok(command
        .spawn()
        .map_err(debian::Error::file("run", "timeout qemu-system-x86_64"))?)
}

/// The trial itself; an error says what was expected.
fn converse(guest: &mut Guest, monitor: &Path, port: u16) -> std::result::Result<String, String> {
    let console = guest.child.stdout.take().ok_or("QEMU has no standard output")?;
    let mut console = BufReader::new(console);
    let service = guest.service;
    guest.read_until(&mut console, &service.ready_line())?;
    let answer = match service {
        Service::Shell => guest.ask_shell(&mut console)?,
        _ => ask(service, port).map_err(|error| format!("asking on its port: {error}"))?,
    };
    // QEMU may drop a command whose connection closes at once: it stays open until the guest is down.
    let _monitor =
        press_power_button(monitor).map_err(|error| format!("pressing the power button: {error}"))?;
    guest.read_until(&mut console, "antipode-guest: poweroff")?;
    let status = guest
        .child
        .wait()
        .map_err(|error| format!("waiting for QEMU: {error}"))?;
    if status.success() {
        Ok(answer)
    } else {
        Err(format!("QEMU ended with {status}"))
    }
}

fn press_power_button(monitor: &Path) -> std::io::Result<UnixStream> {
    let mut monitor = UnixStream::connect(monitor)?;
    monitor.write_all(b"system_powerdown\n")?;
    Ok(monitor)
}

/// Writes a value and reads it back, in the service's own words.
fn ask(service: Service, port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    match service {
        Service::Redis => {
            stream.write_all(b"SET greeting antipode\r\nGET greeting\r\n")?;
            let mut reader = BufReader::new(stream);
            let lines: std::io::Result<Vec<String>> = reader.by_ref().lines().take(3).collect();
            expect(
                lines? == ["+OK", "$8", "antipode"],
                "wrote `antipode` and read it back",
            )
        }
        Service::Postgres => {
            // SSLRequest (PostgreSQL 15 manual, 55.7): length 8, code 80877103; a server without TLS answers `N`.
            stream.write_all(&[0, 0, 0, 8, 4, 210, 22, 47])?;
            let mut answer = [0];
            stream.read_exact(&mut answer)?;
            expect(
                matches!(answer[0], b'N' | b'S'),
                "it answered in PostgreSQL's protocol",
            )
        }
        Service::Compute => {
            stream.write_all(b"hello\n")?;
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line)?;
            expect(
                line.ends_with(" hello\n"),
                &format!("it answered `{}`", line.trim_end()),
            )
        }
        Service::Shell => Ok(String::new()),
    }
}

fn expect(holds: bool, what: &str) -> std::io::Result<String> {
    if holds {
        Ok(what.to_owned())
    } else {
        Err(std::io::Error::other(format!("not true: {what}")))
    }
}

/// A port that was free a moment ago.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
