//! What was typed after `antipode certs`, resolved: names parsed, lifetimes within their limits, paths filled in.

use std::path::PathBuf;

use antipode_certs::{
    AuthorityDays, DaysError, Identity, IdentityError, LeafDays, Name, Paths, PeerRule, Role, TRUST_FILE,
};

use super::args::CertsCommand;
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::{Failure, Problem};

/// A request whose words are known to be good.
#[derive(Debug)]
pub(in crate::cli) enum Request {
    Init {
        folder: PathBuf,
        days: AuthorityDays,
    },
    Issue {
        identity: Identity,
        ca: PathBuf,
        into: Option<PathBuf>,
        days: LeafDays,
    },
    Show(Vec<PathBuf>),
    Renew {
        files: Vec<PathBuf>,
        ca: PathBuf,
        days: LeafDays,
    },
    Verify {
        paths: Paths,
        rule: PeerRule,
    },
}

/// Resolves `command`.
pub(in crate::cli) fn resolve(command: CertsCommand) -> Result<Request, Failure> {
    Ok(match command {
        CertsCommand::Init { folder, days } => Request::Init {
            folder,
            days: AuthorityDays::new(days).map_err(wrong_days)?,
        },
        CertsCommand::Issue {
            role,
            name,
            ca,
            into,
            days,
        } => Request::Issue {
            identity: Identity {
                role: role.parse().map_err(|error| wrong_word(error, "ROLE"))?,
                name: name.parse::<Name>().map_err(|error| wrong_word(error, "NAME"))?,
            },
            ca,
            into,
            days: LeafDays::new(days).map_err(wrong_days)?,
        },
        CertsCommand::Show { paths } => Request::Show(paths),
        CertsCommand::Renew { files, ca, days } => Request::Renew {
            files,
            ca,
            days: LeafDays::new(days).map_err(wrong_days)?,
        },
        CertsCommand::Verify { file, ca, role } => Request::Verify {
            paths: Paths {
                trust: ca.unwrap_or_else(|| file.with_file_name(TRUST_FILE)),
                credentials: file,
            },
            rule: PeerRule::AnyOf(match role {
                None => Role::ALL.to_vec(),
                Some(role) => vec![role.parse().map_err(|error| wrong_word(error, "--role"))?],
            }),
        },
    })
}

/// The error's text says which are, after its colon.
fn wrong_word(error: IdentityError, place: &str) -> Failure {
    let problem = Problem::new(error.to_string(), "give one that is").at(place);
    Failure::new(ExitCode::Usage, problem)
}

fn wrong_days(error: DaysError) -> Failure {
    let problem = Problem::new(error.to_string(), "give a number of days within these limits").at("--days");
    Failure::new(ExitCode::Usage, problem)
}
