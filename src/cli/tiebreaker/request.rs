//! What was typed after `antipode tiebreaker`, resolved: files read, names and numbers parsed.

use std::path::PathBuf;

use antipode_certs::{IdentityError, Name};
use antipode_tiebreaker::service::ServiceSettings;
use antipode_tiebreaker::{Flush, Generation, Operation, Reason};

use super::args::{ConfigFile, Target, TiebreakerCommand, VmCommand};
use super::config::Config;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::{Failure, Problem};

/// A request whose words are known to be good.
#[derive(Debug)]
pub(in crate::cli) enum Request {
    Init(ServiceSettings),
    Run(ServiceSettings),
    Rejoin(ServiceSettings),
    Restore(ServiceSettings, PathBuf),
    Status(Config),
    List(Config),
    Show(Config, Name),
    Backup(Config, PathBuf),
    Change(Config, Change),
}

/// An operator's change.
#[derive(Debug)]
pub(in crate::cli) struct Change {
    pub(super) vm: Name,
    pub(super) generation: Generation,
    pub(super) operation: Operation,
}

/// Resolves `command`.
pub(in crate::cli) fn resolve(command: TiebreakerCommand) -> Result<Request, Failure> {
    Ok(match command {
        TiebreakerCommand::Init(file) => Request::Init(node(&file)?),
        TiebreakerCommand::Run(file) => Request::Run(node(&file)?),
        TiebreakerCommand::Rejoin(file) => Request::Rejoin(node(&file)?),
        TiebreakerCommand::Restore { file, config, .. } => Request::Restore(node(&config)?, file),
        TiebreakerCommand::Status(file) => Request::Status(cluster(&file)?),
        TiebreakerCommand::Vm(VmCommand::List(file)) => Request::List(cluster(&file)?),
        TiebreakerCommand::Vm(VmCommand::Show { vm, file }) => {
            let vm = name(&vm, "VM")?;
            Request::Show(cluster(&file)?, vm)
        }
        TiebreakerCommand::Backup { file, config } => Request::Backup(cluster(&config)?, file),
        TiebreakerCommand::Force { target, site, reason } => {
            let force = Operation::Force {
                site: name(&site, "--site")?,
                reason: why(&reason)?,
            };
            change(&target, force)?
        }
        TiebreakerCommand::Vm(VmCommand::Configure {
            target,
            preferred,
            flush,
        }) => {
            let configure = Operation::Configure {
                preferred: preferred.map(|site| name(&site, "--preferred")).transpose()?,
                flush: how(&flush)?,
            };
            change(&target, configure)?
        }
        TiebreakerCommand::Vm(VmCommand::Retire { target, reason }) => {
            let retire = Operation::Retire {
                reason: why(&reason)?,
            };
            change(&target, retire)?
        }
    })
}

fn cluster(file: &ConfigFile) -> Result<Config, Failure> {
    Ok(Config::load(&file.config)?)
}

fn node(file: &ConfigFile) -> Result<ServiceSettings, Failure> {
    cluster(file)?.service().ok_or_else(|| {
        let problem = Problem::new(
            "the file describes a cluster, but no node of it that is here",
            "add a section [here] with name, listen and data",
        );
        Failure::new(ExitCode::Config, problem.at(file.config.display().to_string()))
    })
}

fn change(target: &Target, operation: Operation) -> Result<Request, Failure> {
    let change = Change {
        vm: name(&target.vm, "VM")?,
        generation: Generation(target.generation),
        operation,
    };
    Ok(Request::Change(cluster(&target.file)?, change))
}

fn name(word: &str, place: &str) -> Result<Name, Failure> {
    word.parse()
        .map_err(|error: IdentityError| wrong(error.to_string(), "give one that is", place))
}

fn why(text: &str) -> Result<Reason, Failure> {
    Reason::new(text).map_err(|error| wrong(error.to_string(), "say it in one line", "--reason"))
}

fn how(word: &str) -> Result<Flush, Failure> {
    match word {
        "site" => Ok(Flush::Site),
        "both" => Ok(Flush::Both),
        other => Err(wrong(
            format!("{other:?} is no way to flush"),
            "give site or both",
            "--flush",
        )),
    }
}

fn wrong(what: String, mend: &str, place: &str) -> Failure {
    Failure::new(ExitCode::Usage, Problem::new(what, mend).at(place))
}
