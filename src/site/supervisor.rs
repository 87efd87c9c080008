//! The supervisor of a site: it starts VM processes and finds those again that run (P10). It holds no VM itself, so that
//! it can end, fail and begin anew while they go on.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use antipode_certs::tls::LiveCredentials;
use antipode_certs::{Identity, PeerRule, Role, WallClock};
use antipode_disk_sync::protocol::Link;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::config::SiteConfig;
use super::guest::happening::Request;
use super::guest::refusals::{Fault, Refusals};
use super::peer::{self, Prepare, Prepared, Question, Unready};
use super::store::VmFolder;
use super::{control, definition};
use crate::base::callers::take_calls;
use crate::base::clock::wall_clock_unix_seconds;
use crate::base::limits::SITE_MESSAGE_BYTES_MAX;
use crate::machine::probe::HostKind;

/// Calls of the other site that are served at a time, or have not yet proven whose they are; further ones are closed.
const CALLS_MAX: usize = 16;
/// How long a VM's process may take until it can be asked.
const READY_PATIENCE: Duration = Duration::from_secs(20);

/// What the supervisor is asked for at its control socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum SiteRequest {
    /// Take a VM into the site's state.
    Create {
        /// Its name.
        name: String,
        /// The file that describes it.
        vm: PathBuf,
    },
    /// Start a VM's process, and in it the VM.
    Start {
        /// Its name.
        name: String,
    },
    /// Name the VMs.
    List,
}

/// A site's supervisor.
#[derive(Debug)]
pub struct Supervisor {
    config: SiteConfig,
    config_path: PathBuf,
    credentials: Arc<LiveCredentials>,
    refusals: Mutex<Refusals>,
}

impl Supervisor {
    /// Of the site that the file at `path` describes.
    ///
    /// # Errors
    /// In words, what is in the way.
    pub fn new(config: SiteConfig, path: &Path, clock: Arc<dyn WallClock>) -> Result<Self, String> {
        let rule = PeerRule::AnyOf(Role::ALL.to_vec());
        let credentials = LiveCredentials::open(config.credentials.clone(), &rule, clock);
        std::fs::create_dir_all(&config.state)
            .map_err(|error| format!("{}: {error}", config.state.display()))?;
        Ok(Self {
            credentials: credentials.map_err(|error| error.to_string())?,
            config_path: std::fs::canonicalize(path).map_err(|error| error.to_string())?,
            config,
            refusals: Mutex::default(),
        })
    }

    /// Serves for as long as the process lives. `ready` is called when it can be asked.
    ///
    /// # Errors
    /// In words, what is in the way.
    pub fn serve(self, ready: impl FnOnce()) -> Result<(), String> {
        let listen = self.config.listen;
        let peers = TcpListener::bind(listen).map_err(|error| format!("listening on {listen}: {error}"))?;
        let socket =
            control::listen(&self.config.state.join("control.sock")).map_err(|error| error.to_string())?;
        ready();
        let supervisor = Arc::new(self);
        let for_peers = Arc::clone(&supervisor);
        let serving = std::thread::Builder::new().name("peers".into()).spawn(move || {
            take_calls(&peers, CALLS_MAX, move |stream, from| {
                if let Err(fault) = for_peers.serve_peer(stream) {
                    tracing::warn!(%from, "a call of another site: {}", fault.why);
                    for_peers.refused(&fault);
                }
            })
        });
        serving.map_err(|error| error.to_string())?;
        for stream in socket.incoming() {
            let stream = stream.map_err(|error| error.to_string())?;
            let supervisor = Arc::clone(&supervisor);
            let answering = std::thread::Builder::new().spawn(move || {
                if let Err(error) = supervisor.answer(&stream) {
                    tracing::debug!(%error, "a question on the control socket");
                }
            });
            answering.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn answer(&self, stream: &UnixStream) -> std::io::Result<()> {
        let mut line = String::new();
        BufReader::new(stream.take(SITE_MESSAGE_BYTES_MAX as u64)).read_line(&mut line)?;
        let answer = match serde_json::from_str(&line) {
            Ok(request) => self
                .done(&request)
                .unwrap_or_else(|why| json!({ "ok": false, "error": why })),
            Err(error) => json!({ "ok": false, "error": error.to_string() }),
        };
        let mut stream = stream;
        writeln!(stream, "{answer}")
    }

    fn done(&self, request: &SiteRequest) -> Result<Value, String> {
        match request {
            SiteRequest::Create { name, vm } => {
                let folder = VmFolder::of(&self.config.state, name);
                if folder.definition().exists() {
                    return Err(format!("there is a VM {name} already"));
                }
                definition::adopt(&folder, vm)?;
                Ok(json!({ "ok": true }))
            }
            SiteRequest::Start { name } => {
                let folder = VmFolder::of(&self.config.state, name);
                if !folder.definition().exists() {
                    return Err(format!(
                        "there is no VM {name} here; `antipode vm create` makes it known"
                    ));
                }
                self.ensure_process(name, None)
                    .map_err(|unready| unready.to_string())?;
                control::ask(&folder.control(), &Request::Start).map_err(|error| error.to_string())
            }
            SiteRequest::List => {
                let names = VmFolder::all(&self.config.state).map_err(|error| error.to_string())?;
                let vms: Vec<Value> = names.iter().map(|name| self.shown(name)).collect();
                Ok(json!({ "ok": true, "vms": vms, "refused": self.refusals().shown() }))
            }
        }
    }

    fn shown(&self, name: &str) -> Value {
        let folder = VmFolder::of(&self.config.state, name);
        control::ask(&folder.control(), &Request::Status)
            .unwrap_or_else(|_| json!({ "vm": name, "role": "stopped", "green": false }))
    }

    /// Starts the VM's process if none runs, and waits until it can be asked.
    fn ensure_process(&self, name: &str, join: Option<&Prepare>) -> Result<Value, Unready> {
        let folder = VmFolder::of(&self.config.state, name);
        if let Ok(status) = control::ask(&folder.control(), &Request::Status) {
            let is_over = matches!(status["role"].as_str(), Some("stale" | "stopped" | "idle"));
            match (is_over, join) {
                (true, _) => end(&folder).map_err(Unready::Failed)?,
                (false, None) => {}
                (false, Some(join)) => {
                    return Err(Unready::Busy {
                        vm: join.vm.clone(),
                        role: status["role"].as_str().unwrap_or("busy").to_owned(),
                    });
                }
            }
        }
        if control::ask(&folder.control(), &Request::Ports).is_err() {
            self.spawn(name, join).map_err(Unready::Failed)?;
        }
        control::until(READY_PATIENCE, || {
            control::ask(&folder.control(), &Request::Ports).ok()
        })
        .ok_or_else(|| {
            Unready::Failed(format!(
                "the VM's process does not answer; see {}",
                folder.file("log").display()
            ))
        })
    }

    fn spawn(&self, name: &str, join: Option<&Prepare>) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("the VM's process cannot be started: {error}");
        let folder = VmFolder::of(&self.config.state, name);
        folder.make().map_err(failed)?;
        let open = |name: &str| -> std::io::Result<File> {
            OpenOptions::new()
                .append(true)
                .create(true)
                .open(folder.file(name))
        };
        let program = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(program);
        command
            .args(["site", "vm", "--name", name, "--log", "info", "--config"])
            .arg(&self.config_path)
            .stdin(Stdio::null())
            .stdout(open("console").map_err(failed)?)
            .stderr(open("log").map_err(failed)?)
            // A signal to the supervisor's group is none to its VMs.
            .process_group(0);
        if let Some(join) = join {
            command
                .arg("--join")
                .arg(serde_json::to_string(join).map_err(|error| error.to_string())?);
        }
        let mut child = command.spawn().map_err(failed)?;
        let name = name.to_owned();
        let waiting = std::thread::Builder::new().spawn(move || match child.wait() {
            Ok(status) => tracing::info!(vm = name, %status, "a VM's process has ended"),
            Err(error) => tracing::warn!(vm = name, %error, "a VM's process is lost"),
        });
        waiting.map(drop).map_err(failed)
    }

    fn serve_peer(&self, stream: TcpStream) -> Result<(), Fault> {
        let rule = PeerRule::Exactly(Identity {
            role: Role::Site,
            name: self.config.peer.clone(),
        });
        let link = Link::accept(stream, &self.credentials, rule).map_err(|error| Fault::from(&error))?;
        let (mut reader, mut writer) = link.into_streams();
        let question: Question = peer::take(&mut reader).map_err(Fault::failed)?;
        let answer = self.prepare(&question);
        if let Err(unready) = &answer {
            self.refused(&Fault {
                refusal: unready.name(),
                why: format!("VM {}: {unready}", question.prepare.vm),
            });
        }
        peer::put(&mut writer, &answer).map_err(Fault::failed)
    }

    fn refused(&self, fault: &Fault) {
        self.refusals().note(wall_clock_unix_seconds(), fault);
    }

    fn refusals(&self) -> MutexGuard<'_, Refusals> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn prepare(&self, question: &Question) -> Result<Prepared, Unready> {
        let Question { prepare, host } = question;
        let here = HostKind::of_this_host().map_err(|error| Unready::Failed(error.to_string()))?;
        let differences = here.differences(host, &self.config.allowed_differences);
        if !differences.is_empty() {
            return Err(Unready::HostsDiffer(differences));
        }
        let ports = self.ensure_process(prepare.vm.as_str(), Some(prepare))?;
        serde_json::from_value(ports).map_err(|error| Unready::Failed(error.to_string()))
    }
}

/// Ends a process that only shows what became of its VM.
fn end(folder: &VmFolder) -> Result<(), String> {
    let is_gone = || {
        control::ask(&folder.control(), &Request::End)
            .is_err()
            .then_some(())
    };
    control::until(READY_PATIENCE, is_gone).ok_or_else(|| "the VM's old process does not end".to_owned())
}
