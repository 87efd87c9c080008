//! What went wrong with a disk, and what to do about it.

use std::io;

use antipode_disk_sync::disk::DiskError;
use antipode_disk_sync::image::OpenError;
use antipode_disk_sync::protocol::{LinkError, RunError, SessionError};
use antipode_disk_sync::replica::ReplicaError;

use crate::cli::exit_code::ExitCode;
use crate::cli::failure::{Failure, Problem};

fn failure(code: ExitCode, what: impl Into<String>, mend: &str) -> Failure {
    Failure::new(code, Problem::new(what, mend))
}

/// The exit code of an image that cannot be opened, and what to do.
pub(in crate::cli) fn of_image(error: &OpenError) -> (ExitCode, &'static str) {
    match error {
        OpenError::Locked { .. } => (
            ExitCode::DiskLocked,
            "stop the VM or tool that uses it, or unmount it",
        ),
        OpenError::Refused { .. } => (ExitCode::DiskRefused, "name an image that this user may open"),
        OpenError::WrongKind { .. } => (ExitCode::DiskRefused, "name a raw image file or a block device"),
        OpenError::TooLong { .. } => (ExitCode::DiskRefused, "use a smaller disk"),
    }
}

/// The exit code of a replica that cannot be made or opened, and what to do.
pub(in crate::cli) fn of_disk(error: &DiskError) -> (ExitCode, &'static str) {
    match error {
        DiskError::Image(error) => of_image(error),
        DiskError::NoReplica(_) => (
            ExitCode::ReplicaRefused,
            "make it with `antipode disk create IMAGE --vm NAME`, with `--empty` if the image shall become a copy",
        ),
        DiskError::Exists(_) => (ExitCode::FileExists, "name another place, or move the file away"),
        DiskError::InUse(_) => (ExitCode::DiskLocked, "stop the VM or tool that uses it"),
        DiskError::Metadata {
            source: ReplicaError::Io(_),
            ..
        } => (ExitCode::HostIo, ExitCode::HostIo.remedy()),
        DiskError::Metadata { .. } => (ExitCode::ReplicaRefused, ExitCode::ReplicaRefused.remedy()),
        DiskError::NotClean { .. } => (
            ExitCode::ReplicaRefused,
            "make it equal to a clean replica with `antipode disk sync`",
        ),
        DiskError::Length { .. } => (
            ExitCode::DiskRefused,
            "restore the image's length; a disk that shall have another one is a new replica",
        ),
        DiskError::Unverified { .. } => (ExitCode::DisksDiffer, ExitCode::DisksDiffer.remedy()),
        DiskError::OtherLength { .. } => (
            ExitCode::DiskRefused,
            "make a replica of the same size, or move this one away",
        ),
        DiskError::Refused { .. } => (
            ExitCode::SyncRefused,
            "look at it with `antipode disk info`; move it away if what it holds is not wanted",
        ),
        DiskError::Sectors { .. } => (
            ExitCode::DiskRefused,
            "give a size of whole sectors, or extend the image with `truncate`",
        ),
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        let (code, mend) = of_image(&error);
        failure(code, error.to_string(), mend)
    }
}

impl From<DiskError> for Failure {
    fn from(error: DiskError) -> Self {
        let (code, mend) = of_disk(&error);
        failure(code, error.to_string(), mend)
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        let (code, mend) = match &error {
            RunError::Session(
                SessionError::Refused(_) | SessionError::Lengths { .. } | SessionError::SameRole,
            ) => (
                ExitCode::SyncRefused,
                "look at both with `antipode disk info`; `--discard-target` gives up what the target alone holds",
            ),
            RunError::Session(SessionError::Unequal) => {
                (ExitCode::DisksDiffer, ExitCode::DisksDiffer.remedy())
            }
            RunError::Session(_) | RunError::Link(_) => {
                (ExitCode::SyncInterrupted, ExitCode::SyncInterrupted.remedy())
            }
            RunError::Image { .. } | RunError::Hash(_) | RunError::Replica(_) | RunError::Host(_) => (
                ExitCode::HostIo,
                "mend what the message names: space, rights, hardware; then run the same command again",
            ),
        };
        failure(code, error.to_string(), mend)
    }
}

/// Why there is no connection to or from `address`.
pub(super) fn of_link(address: &str, error: &LinkError) -> Failure {
    let (code, mend) = match error {
        LinkError::Io(_) => (
            ExitCode::SyncInterrupted,
            "see that `antipode disk serve` runs at the other end and can be reached",
        ),
        LinkError::Tls(_) | LinkError::Nameless(_) => {
            (ExitCode::CertsRefused, ExitCode::CertsRefused.remedy())
        }
    };
    failure(code, format!("no connection with {address}: {error}"), mend)
}

/// Why nobody can be waited for at `address`.
pub(super) fn of_listening(address: &str, error: &io::Error) -> Failure {
    let code = ExitCode::ListenRefused;
    failure(
        code,
        format!("it cannot listen on {address}: {error}"),
        code.remedy(),
    )
}
