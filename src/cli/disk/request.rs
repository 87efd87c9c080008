//! What was typed after `antipode disk`, resolved: sizes, names and places parsed.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use antipode_certs::{Identity, Paths as CertificatePaths, PeerRule, Role as CertificateRole, TRUST_FILE};
use antipode_disk_sync::decision::Consent;
use antipode_disk_sync::disk::Paths;
use antipode_disk_sync::protocol::{DigestRequest, Role};
use antipode_disk_sync::replica::VmId;

use super::args::{DiskCommand, Ends, Proof};
use crate::cli::exit_code::ExitCode;
use crate::cli::failure::{Failure, Problem};

const REMOTE_PREFIX: &str = "tls://";

/// A request whose words are known to be good.
#[derive(Debug)]
pub(in crate::cli) enum Request {
    Create {
        paths: Paths,
        vm: VmId,
        size: Option<u64>,
        is_empty: bool,
    },
    Info(Paths),
    Digest {
        place: Place<Paths>,
        request: DigestRequest,
    },
    Diff(Diff),
    Sync(Sync),
    Serve {
        paths: Paths,
        role: Option<Role>,
        listen: String,
        once: bool,
        bytes_per_second: Option<u64>,
        proof: Proven,
    },
}

/// Where an image is.
#[derive(Debug)]
pub(in crate::cli) enum Place<T> {
    Here(T),
    There(Far),
}

/// Where `disk serve` runs, and who we are.
#[derive(Debug)]
pub(in crate::cli) struct Far {
    pub(super) address: String,
    pub(super) proof: Proven,
}

impl fmt::Display for Far {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{REMOTE_PREFIX}{}", self.address)
    }
}

/// Two images to compare.
#[derive(Debug)]
pub(in crate::cli) struct Diff {
    pub(super) ours: PathBuf,
    pub(super) other: Place<PathBuf>,
    /// Whether the one of this host was named second.
    pub(super) is_swapped: bool,
}

/// Two ends, and what to do with them.
#[derive(Debug)]
pub(in crate::cli) struct Sync {
    pub(super) ends: Where,
    pub(super) consent: Consent,
    pub(super) bytes_per_second: Option<u64>,
    pub(super) dry_run: bool,
    /// Whether to judge rather than to tell.
    pub(super) is_verify: bool,
}

/// Where the two ends are.
#[derive(Debug)]
pub(in crate::cli) enum Where {
    Here { source: Paths, target: Paths },
    There { ours: Paths, role: Role, other: Far },
}

/// Who we are, and who may be at the other end.
#[derive(Debug)]
pub(in crate::cli) struct Proven {
    pub(super) paths: CertificatePaths,
    pub(super) rule: PeerRule,
}

/// Resolves `command`.
pub(in crate::cli) fn resolve(command: DiskCommand) -> Result<Request, Failure> {
    Ok(match command {
        DiskCommand::Create {
            image,
            vm,
            size,
            empty,
            metadata,
        } => Request::Create {
            paths: Paths::new(image, metadata),
            vm: vm.parse().map_err(|error| wrong(&error, "--vm"))?,
            size: size.map(|size| parse_bytes(&size, "--size")).transpose()?,
            is_empty: empty,
        },
        DiskCommand::Info { image, metadata } => Request::Info(Paths::new(image, metadata)),
        DiskCommand::Digest {
            image,
            content,
            full,
            metadata,
            proof,
        } => Request::Digest {
            place: match remote(&image) {
                None => Place::Here(Paths::new(image.into(), metadata)),
                Some(address) => Place::There(there(address, metadata.as_ref(), proof)?),
            },
            request: DigestRequest {
                content_only: content,
                everything: full,
            },
        },
        DiskCommand::Diff { one, other, proof } => Request::Diff(difference(one, other, proof)?),
        DiskCommand::Sync {
            ends,
            limit,
            dry_run,
            full,
            discard_target,
        } => Request::Sync(Sync {
            ends: place(ends)?,
            consent: Consent {
                discard: discard_target,
                compare_all: full,
            },
            bytes_per_second: rate(limit)?,
            dry_run,
            is_verify: false,
        }),
        DiskCommand::Verify { ends, limit } => Request::Sync(verification(ends, limit)?),
        DiskCommand::Serve {
            image,
            role,
            listen,
            once,
            limit,
            metadata,
            proof,
        } => Request::Serve {
            paths: Paths::new(image, metadata),
            role: role.map(|role| match role.as_str() {
                "source" => Role::Source,
                _ => Role::Target,
            }),
            listen,
            once,
            bytes_per_second: rate(limit)?,
            proof: prove(proof, &[CertificateRole::Site, CertificateRole::Operator])?,
        },
    })
}

/// A comparison is a dry run that believes no marks and may pass over what the target alone holds.
fn verification(ends: Ends, limit: Option<String>) -> Result<Sync, Failure> {
    Ok(Sync {
        ends: place(ends)?,
        consent: Consent {
            discard: true,
            compare_all: true,
        },
        bytes_per_second: rate(limit)?,
        dry_run: true,
        is_verify: true,
    })
}

/// The address behind a place that is on another host.
fn remote(place: &str) -> Option<String> {
    place.strip_prefix(REMOTE_PREFIX).map(str::to_owned)
}

/// An image at `address`. Its metadata is named where it is served.
fn there(address: String, metadata: Option<&PathBuf>, proof: Proof) -> Result<Far, Failure> {
    if let Some(metadata) = metadata {
        let what = format!("the metadata of an image at {address} cannot be named here");
        let problem = Problem::new(what, "give --metadata to `disk serve` there");
        return Err(Failure::new(
            ExitCode::Usage,
            problem.at(metadata.display().to_string()),
        ));
    }
    Ok(Far {
        address,
        proof: prove(proof, &[CertificateRole::Site])?,
    })
}

fn difference(one: String, other: String, proof: Proof) -> Result<Diff, Failure> {
    let far = |address| there(address, None, proof).map(Place::There);
    let (ours, other, is_swapped) = match (remote(&one), remote(&other)) {
        (None, None) => (one, Place::Here(other.into()), false),
        (None, Some(address)) => (one, far(address)?, false),
        (Some(address), None) => (other, far(address)?, true),
        (Some(_), Some(_)) => return Err(both_are_far()),
    };
    Ok(Diff {
        ours: ours.into(),
        other,
        is_swapped,
    })
}

fn both_are_far() -> Failure {
    let problem = Problem::new(
        "both ends are on other hosts",
        "run the command on one of them, with its own image as that end",
    );
    Failure::new(ExitCode::Usage, problem)
}

fn place(ends: Ends) -> Result<Where, Failure> {
    let here = |place: String, metadata| Paths::new(PathBuf::from(place), metadata);
    let (ours, role, address, metadata) = match (remote(&ends.source), remote(&ends.target)) {
        (None, None) => {
            if is_one_file(&ends.source, &ends.target) {
                let problem = Problem::new("both ends are one image", "name two replicas");
                return Err(Failure::new(ExitCode::Usage, problem.at(ends.target)));
            }
            return Ok(Where::Here {
                source: here(ends.source, ends.source_metadata),
                target: here(ends.target, ends.target_metadata),
            });
        }
        (None, Some(address)) => {
            let ours = here(ends.source, ends.source_metadata);
            (ours, Role::Source, address, ends.target_metadata)
        }
        (Some(address), None) => {
            let ours = here(ends.target, ends.target_metadata);
            (ours, Role::Target, address, ends.source_metadata)
        }
        (Some(_), Some(_)) => return Err(both_are_far()),
    };
    let other = there(address, metadata.as_ref(), ends.proof)?;
    Ok(Where::There { ours, role, other })
}

/// Whether both lead to one file that is there.
fn is_one_file(one: &str, other: &str) -> bool {
    let file = |path: &str| fs::metadata(path).map(|found| (found.dev(), found.ino()));
    matches!((file(one), file(other)), (Ok(one), Ok(other)) if one == other)
}

fn prove(proof: Proof, admitted: &[CertificateRole]) -> Result<Proven, Failure> {
    let Some(credentials) = proof.cert else {
        let problem = Problem::new(
            "no certificate is given, and replicas go to and from another host between proven ends only",
            "give --cert; `antipode certs issue` makes one",
        );
        return Err(Failure::new(ExitCode::Usage, problem.at("--cert")));
    };
    let rule = match proof.peer {
        None => PeerRule::AnyOf(admitted.to_vec()),
        Some(name) => PeerRule::Exactly(Identity {
            role: CertificateRole::Site,
            name: name.parse().map_err(|error| wrong(&error, "--peer"))?,
        }),
    };
    Ok(Proven {
        paths: CertificatePaths {
            trust: proof.ca.unwrap_or_else(|| credentials.with_file_name(TRUST_FILE)),
            credentials,
        },
        rule,
    })
}

fn wrong(error: &dyn std::error::Error, place: &str) -> Failure {
    let problem = Problem::new(error.to_string(), "give one that is").at(place);
    Failure::new(ExitCode::Usage, problem)
}

fn rate(limit: Option<String>) -> Result<Option<u64>, Failure> {
    let rate = limit.map(|limit| parse_bytes(&limit, "--limit")).transpose()?;
    match rate {
        Some(0) => Err(no_bytes("0", "--limit")),
        rate => Ok(rate),
    }
}

/// Bytes as people write them: a whole number, and K, M, G or T for powers of 1024.
fn parse_bytes(text: &str, place: &str) -> Result<u64, Failure> {
    let number = text.trim_end_matches("iB").trim_end_matches('B');
    let (digits, shift) = match number.chars().last() {
        Some('k' | 'K') => (&number[..number.len() - 1], 10),
        Some('m' | 'M') => (&number[..number.len() - 1], 20),
        Some('g' | 'G') => (&number[..number.len() - 1], 30),
        Some('t' | 'T') => (&number[..number.len() - 1], 40),
        _ => (number, 0),
    };
    let count = digits.parse::<u64>().ok();
    count
        .and_then(|count| count.checked_mul(1 << shift))
        .ok_or_else(|| no_bytes(text, place))
}

fn no_bytes(text: &str, place: &str) -> Failure {
    let problem = Problem::new(
        format!("{text:?} is no number of bytes"),
        "give a whole number above zero, with K, M, G or T after it for powers of 1024",
    );
    Failure::new(ExitCode::Usage, problem.at(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_as_people_write_them() {
        let parsed = |text| parse_bytes(text, "--size").ok();
        assert_eq!(
            ["512", "1K", "3m", "20G", "20GiB", "2TB", "1k"].map(parsed),
            [512, 1 << 10, 3 << 20, 20 << 30, 20 << 30, 2 << 40, 1 << 10].map(Some)
        );
        assert_eq!(["", "G", "-1", "1.5G", "99999999T", "x"].map(parsed), [None; 6]);
        assert!(rate(Some("0".into())).is_err());
    }

    #[test]
    fn a_verification_has_a_limit_too() {
        let ends = Ends {
            source: "a".into(),
            target: "b".into(),
            source_metadata: None,
            target_metadata: None,
            proof: Proof {
                cert: None,
                ca: None,
                peer: None,
            },
        };
        let limit = Some("12M".into());
        let Ok(Request::Sync(asked)) = resolve(DiskCommand::Verify { ends, limit }) else {
            panic!("it is refused");
        };
        assert_eq!((asked.bytes_per_second, asked.is_verify), (Some(12 << 20), true));
    }
}
