//! `antipode vm`: what an operator does with a VM of this site (P7, O3).

mod show;
mod switchover;
mod verify;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::exit_code::ExitCode;
use super::failure::{Failure, Problem, written};
use super::site::refused;
use crate::site::config::SiteConfig;
use crate::site::control;
use crate::site::guest::happening::Request;
use crate::site::store::VmFolder;
use crate::site::supervisor::SiteRequest;

/// How long a start may take.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// Which VM of which site.
#[derive(Debug, Args)]
pub(super) struct Which {
    /// The VM's name.
    name: String,
    /// The site's configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// What was typed after `antipode vm`.
#[derive(Debug, Subcommand)]
pub(super) enum VmCommand {
    /// Make a VM known to this site: kernel and initrd are copied, its disk becomes a replica where it is none.
    Create {
        #[command(flatten)]
        which: Which,
        /// The VM's configuration file, as for `antipode run`.
        #[arg(long, value_name = "FILE")]
        vm: PathBuf,
    },
    /// Start a VM here, if the tiebreaker grants it.
    Start(Which),
    /// Protect a running VM by a copy at the other site; shows how far it is until it is protected.
    Protect {
        #[command(flatten)]
        which: Which,
        /// What the other site's replica alone holds is lost: both have gone on alone, by an operator's force.
        #[arg(long)]
        discard: bool,
    },
    /// Protect a VM by another site than before: by the one that the configuration of the running `antipode site run`
    /// names as its peer. It may be empty.
    Replace(Which),
    /// End a VM's protection; it runs on here.
    Unprotect(Which),
    /// Let the other site go on in this one's place, or this one in the other's: every connection goes on.
    ///
    /// Ctrl-C, or `--cancel`, gives it up until the tiebreaker has been asked; the VM then goes on where it was.
    Switchover {
        #[command(flatten)]
        which: Which,
        /// Give up the switchover that is under way.
        #[arg(long)]
        cancel: bool,
    },
    /// Compare the two sites' disks while the VM runs, and mend what differs at the backup's; shows how far it is.
    ///
    /// Ctrl-C, or `--cancel`, gives it up.
    Verify {
        #[command(flatten)]
        which: Which,
        /// Give up the comparison that is under way.
        #[arg(long)]
        cancel: bool,
    },
    /// Stop a VM in order, at both sites.
    Stop(Which),
    /// Show how a VM is: its role here, the other site, lag, and what to do where it is not well.
    Status(Which),
    /// Show the VMs of this site.
    List {
        /// The site's configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

/// Carries out `command`.
pub(super) fn vm(command: &VmCommand, json: bool, output: &mut dyn Write) -> Result<ExitCode, Failure> {
    match command {
        VmCommand::Create { which, vm } => {
            let site = SiteConfig::load(&which.config)?;
            let vm = std::fs::canonicalize(vm).unwrap_or_else(|_| vm.clone());
            let name = which.name.clone();
            done(ask_site(&site, &SiteRequest::Create { name, vm })?, json, output)
        }
        VmCommand::Start(which) => {
            let site = SiteConfig::load(&which.config)?;
            let name = which.name.clone();
            granted(&ask_site(&site, &SiteRequest::Start { name })?)?;
            let status = wait(
                &site,
                which,
                START_PATIENCE,
                |role| role != "idle" && role != "starting",
                |_| {},
            )?;
            show::status(&status, json, output)?;
            if matches!(status["role"].as_str(), Some("stale" | "stopped")) {
                return Err(refused(format!("the VM is not started: {}", reason(&status))));
            }
            Ok(ExitCode::Done)
        }
        VmCommand::Protect { which, discard } => {
            let site = SiteConfig::load(&which.config)?;
            let discard = *discard;
            granted(&ask_vm(&site, which, &Request::Protect { discard })?)?;
            protected(&site, which, json, output)
        }
        VmCommand::Replace(which) => {
            let site = SiteConfig::load(&which.config)?;
            let name = which.name.clone();
            granted(&ask_site(&site, &SiteRequest::Replace { name })?)?;
            protected(&site, which, json, output)
        }
        VmCommand::Unprotect(which) => {
            let site = SiteConfig::load(&which.config)?;
            done(ask_vm(&site, which, &Request::Unprotect)?, json, output)
        }
        VmCommand::Switchover { which, cancel } => switchover::switch_over(which, *cancel, json, output),
        VmCommand::Verify { which, cancel } => verify::verify(which, *cancel, json, output),
        VmCommand::Stop(which) => {
            let site = SiteConfig::load(&which.config)?;
            done(ask_vm(&site, which, &Request::Stop)?, json, output)
        }
        VmCommand::Status(which) => {
            let site = SiteConfig::load(&which.config)?;
            show::status(&ask_vm(&site, which, &Request::Status)?, json, output)
        }
        VmCommand::List { config } => {
            let site = SiteConfig::load(config)?;
            show::list(&ask_site(&site, &SiteRequest::List)?, json, output)
        }
    }
}

/// Shows how far the protection is that has been asked for, until it stands or came to nothing.
fn protected(
    site: &SiteConfig,
    which: &Which,
    json: bool,
    output: &mut dyn Write,
) -> Result<ExitCode, Failure> {
    let bar = show::Progress::new(json);
    let is_over = |role: &str| matches!(role, "primary" | "unprotected" | "solo" | "stale" | "stopped");
    let status = wait(site, which, Duration::MAX, is_over, |status| bar.show(status))?;
    drop(bar);
    show::status(&status, json, output)?;
    if status["role"] == "primary" {
        return Ok(ExitCode::Done);
    }
    Err(refused(format!("the VM is not protected: {}", reason(&status))))
}

/// Why a VM is as it is.
fn reason(status: &Value) -> &str {
    status["because"].as_str().unwrap_or("the VM's log says why")
}

fn ask_site(site: &SiteConfig, request: &SiteRequest) -> Result<Value, Failure> {
    let socket = site.state.join("control.sock");
    control::ask(&socket, request).map_err(|error| {
        let what = format!("the site's supervisor does not answer: {error}");
        let problem =
            Problem::new(what, "start it with `antipode site run`").at(socket.display().to_string());
        Failure::new(ExitCode::SiteRefused, problem)
    })
}

fn ask_vm(site: &SiteConfig, which: &Which, request: &Request) -> Result<Value, Failure> {
    let socket = VmFolder::of(&site.state, &which.name).control();
    control::ask(&socket, request).map_err(|error| no_process(&socket, &which.name, &error))
}

fn no_process(socket: &Path, name: &str, error: &std::io::Error) -> Failure {
    let what = format!("VM {name} has no process here: {error}");
    let problem = Problem::new(
        what,
        "start it with `antipode vm start`; `antipode vm list` shows what is there",
    );
    Failure::new(ExitCode::SiteRefused, problem.at(socket.display().to_string()))
}

/// Looks at the VM until its role is one that `is_over` names.
fn wait(
    site: &SiteConfig,
    which: &Which,
    patience: Duration,
    is_over: impl Fn(&str) -> bool,
    mut watch: impl FnMut(&Value),
) -> Result<Value, Failure> {
    let found = control::until(patience, || match ask_vm(site, which, &Request::Status) {
        Ok(status) => {
            watch(&status);
            let is_over = is_over(status["role"].as_str().unwrap_or_default());
            is_over.then_some(Ok(status))
        }
        Err(failure) => Some(Err(failure)),
    });
    found.unwrap_or_else(|| Err(refused(format!("VM {} is not there yet", which.name))))
}

fn granted(answer: &Value) -> Result<(), Failure> {
    if answer["ok"] == true {
        return Ok(());
    }
    Err(refused(
        answer["error"].as_str().unwrap_or("it was not done").to_owned(),
    ))
}

fn done(answer: Value, json: bool, output: &mut dyn Write) -> Result<ExitCode, Failure> {
    granted(&answer)?;
    if json {
        written(writeln!(output, "{answer}"))?;
    }
    Ok(ExitCode::Done)
}
