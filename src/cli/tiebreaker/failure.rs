//! What goes wrong with a tiebreaker, as the operator is told.

use antipode_tiebreaker::client::ClientError;
use antipode_tiebreaker::limits::{SITE_SILENT_HEARTBEATS, SITE_SILENT_MS};
use antipode_tiebreaker::service::{BackupError, ServiceError, SetupError};
use antipode_tiebreaker::store::StoreError;

use crate::cli::exit_code::ExitCode;
use crate::cli::failure::{Failure, Problem};

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let code = match error {
            StoreError::Full(_) | StoreError::Io { .. } => ExitCode::HostIo,
            _ => ExitCode::DataRefused,
        };
        Self::new(code, Problem::new(error.to_string(), error.mend()))
    }
}

impl From<ServiceError> for Failure {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::Store(error) => error.into(),
            ServiceError::Credentials(error) => error.into(),
            ServiceError::Listen { address, source } => {
                let problem = Problem::new(
                    format!("the node cannot listen there: {source}"),
                    "mend the address in [here], or stop the other process that has it",
                );
                Self::new(ExitCode::ListenRefused, problem.at(address.to_string()))
            }
        }
    }
}

impl From<SetupError> for Failure {
    fn from(error: SetupError) -> Self {
        match error {
            SetupError::Store(error) => error.into(),
            SetupError::Credentials(error) => error.into(),
            SetupError::Client(error) => error.into(),
            SetupError::Backup(error) => error.into(),
            SetupError::Runs { .. } => {
                let mend = "if this node has lost its disk, or comes late, run `antipode tiebreaker rejoin`";
                Self::new(ExitCode::DataRefused, Problem::new(error.to_string(), mend))
            }
        }
    }
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        let mend = match error {
            BackupError::Newer => "use the antipode that made it",
            BackupError::Record { .. } | BackupError::TooMany(_) => "use another backup of this cluster",
            _ => "name a file that `antipode tiebreaker backup` wrote for this cluster",
        };
        Self::new(ExitCode::DataRefused, Problem::new(error.to_string(), mend))
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let silent = format!(
            "stop the VM at that site in order; if the site is dead, ask again when it has been silent for {} seconds \
             and {SITE_SILENT_HEARTBEATS} heartbeats of the tiebreaker",
            SITE_SILENT_MS / 1000
        );
        let (code, mend) = match &error {
            ClientError::Unreachable { maybe_done: true, .. } => (
                ExitCode::Unreachable,
                "the change may have been made: look with `antipode tiebreaker vm show` before asking again",
            ),
            ClientError::Unreachable { .. } => (
                ExitCode::Unreachable,
                "see that two of the three nodes run and can be reached from here",
            ),
            ClientError::Forbidden(_) => (
                ExitCode::Refused,
                "see that the configuration names the right cluster, and a certificate that may",
            ),
            ClientError::PeerReachable(_) => (ExitCode::Refused, silent.as_str()),
            ClientError::SeatTaken => (
                ExitCode::Refused,
                "stop the node if it runs anywhere; if it does not, ask again in a moment",
            ),
            ClientError::Odd(_) => (
                ExitCode::Unreachable,
                "bring all nodes and this program to one version",
            ),
            ClientError::NoSuchNode(_) => (ExitCode::Config, "name a node of the configuration"),
        };
        Self::new(code, Problem::new(error.to_string(), mend))
    }
}
