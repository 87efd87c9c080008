//! What this host must have installed for the lab, and the one place where the lab installs anything.

use std::path::Path;
use std::process::{Command, Stdio};

use super::tool::run;
use super::{Error, Result};

/// A package of this host and the file that shows it is there.
struct Requirement {
    package: &'static str,
    /// Looked for instead of asking dpkg, so that a program installed another way counts too.
    witnesses: &'static [&'static str],
}

/// Everything the lab runs, by the package that holds it.
const REQUIREMENTS: &[Requirement] = &[
    Requirement {
        package: "qemu-system-x86",
        witnesses: &["/usr/bin/qemu-system-x86_64"],
    },
    Requirement {
        package: "e2fsprogs",
        witnesses: &["/usr/sbin/mke2fs", "/sbin/mke2fs"],
    },
    Requirement {
        package: "dpkg",
        witnesses: &["/usr/bin/dpkg-deb"],
    },
    // The C parts of some crates (zstd, liblzma) are compiled from source, also for the static binary.
    Requirement {
        package: "gcc",
        witnesses: &["/usr/bin/gcc", "/usr/local/bin/gcc"],
    },
    Requirement {
        package: "libc6-dev",
        witnesses: &["/usr/lib/x86_64-linux-gnu/libc.a"],
    },
];

/// Makes sure that the host has what the lab runs and has package lists: as root, installs what is missing and says so
/// on standard error; otherwise fails with the one command that does.
///
/// # Errors
///
/// [`Error::Requirements`] names the command, [`Error::NoPackageLists`] the other one.
pub fn ensure() -> Result<()> {
    let missing: Vec<&str> = REQUIREMENTS
        .iter()
        .filter(|one| !is_present(one))
        .map(|one| one.package)
        .collect();
    let lists = super::apt::lists_fingerprint();
    if missing.is_empty() && lists.is_ok() {
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() {
        return match lists {
            Err(error) if missing.is_empty() => Err(error),
            _ => Err(Error::Requirements {
                names: missing.join(" "),
            }),
        };
    }
    eprintln!("lab: updating Debian's package lists");
    run(Command::new("apt-get").args(["-qq", "update"]), "apt")?;
    if !missing.is_empty() {
        eprintln!("lab: installing Debian packages: {}", missing.join(" "));
        let mut command = Command::new("apt-get");
        command
            .args(["-qq", "--yes", "--no-install-recommends", "install"])
            .args(&missing);
        run(
            command
                .env("DEBIAN_FRONTEND", "noninteractive")
                .stdout(Stdio::null()),
            "apt",
        )?;
    }
    Ok(())
}

fn is_present(requirement: &Requirement) -> bool {
    requirement.witnesses.iter().any(|path| Path::new(path).exists())
}
