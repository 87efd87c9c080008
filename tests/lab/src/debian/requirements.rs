//! What this host must have installed for the lab, and the one place where the lab installs anything.

use std::path::Path;
use std::process::Command;

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
    // What `bench disk` compares with.
    Requirement {
        package: "b3sum",
        witnesses: &["/usr/bin/b3sum"],
    },
    Requirement {
        package: "rsync",
        witnesses: &["/usr/bin/rsync"],
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
    let lists = super::apt::lists_fingerprint().map(drop);
    let work = plan(&missing, lists, nix::unistd::geteuid().is_root())?;
    if work.update_lists {
        update_lists()?;
    }
    if work.install {
        eprintln!("lab: installing Debian packages: {}", missing.join(" "));
        let mut command = Command::new("apt-get");
        command
            .args(["-qq", "--yes", "--no-install-recommends", "install"])
            .args(&missing);
        run(command.env("DEBIAN_FRONTEND", "noninteractive"), "apt")?;
    }
    Ok(())
}

/// Updates the package lists if this user may: for a download that failed because the archive has moved on.
/// Returns whether it did.
///
/// # Errors
///
/// [`Error::Tool`] if the lists cannot be fetched.
pub fn refresh_lists() -> Result<bool> {
    let may = nix::unistd::geteuid().is_root();
    if may {
        update_lists()?;
    }
    Ok(may)
}

fn update_lists() -> Result<()> {
    eprintln!("lab: updating Debian's package lists");
    run(Command::new("apt-get").args(["-qq", "update"]), "apt").map(drop)
}

/// What [`ensure`] will do.
#[derive(Debug, PartialEq, Eq)]
struct Work {
    update_lists: bool,
    install: bool,
}

fn plan(missing: &[&str], lists: Result<()>, is_root: bool) -> Result<Work> {
    let install = !missing.is_empty();
    if is_root {
        return Ok(Work {
            update_lists: install || lists.is_err(),
            install,
        });
    }
    if install {
        return Err(Error::Requirements {
            names: missing.join(" "),
        });
    }
    lists.map(|()| Work {
        update_lists: false,
        install: false,
    })
}

fn is_present(requirement: &Requirement) -> bool {
    requirement.witnesses.iter().any(|path| Path::new(path).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_lists() -> Result<()> {
        Err(Error::NoPackageLists {
            directory: "/lists".into(),
        })
    }

    #[test]
    fn root_installs_and_others_are_told_the_command() {
        let nothing = Work {
            update_lists: false,
            install: false,
        };
        assert_eq!(plan(&[], Ok(()), true).expect("complete"), nothing);
        assert_eq!(plan(&[], Ok(()), false).expect("complete"), nothing);
        let update = Work {
            update_lists: true,
            install: false,
        };
        assert_eq!(plan(&[], no_lists(), true).expect("root"), update);
        let both = Work {
            update_lists: true,
            install: true,
        };
        assert_eq!(plan(&["gcc"], Ok(()), true).expect("root"), both);
        let error = plan(&["gcc", "e2fsprogs"], no_lists(), false)
            .expect_err("not root")
            .to_string();
        assert!(
            error.ends_with("apt-get update && apt-get install --yes gcc e2fsprogs"),
            "{error}"
        );
        assert!(
            plan(&[], no_lists(), false)
                .expect_err("not root")
                .to_string()
                .contains("apt-get update")
        );
    }
}
