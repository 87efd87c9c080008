//! Static binaries for the hosts, built from this workspace.
//!
//! They have a target directory of their own (`target/lab/static`): the flag that makes them static would otherwise
//! invalidate the ordinary build each time, and the other way round.

use super::error::{Error, Result};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// How a program is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Profile {
    /// As users run it.
    Release,
    /// With debug assertions, and hardly optimised.
    Debug,
}

impl Profile {
    /// Cargo's name of it, and of its folder.
    const fn name(self) -> (&'static str, &'static str) {
        match self {
            Self::Release => ("release", "release"),
            Self::Debug => ("dev", "debug"),
        }
    }
}

/// Builds a binary of a package of this workspace and returns where it is. Says on standard error what it does.
pub(super) fn static_binary(
    lab_directory: &Path,
    package: &str,
    binary: &str,
    profile: Profile,
) -> Result<PathBuf> {
    let what = ["build", "--package", package, "--bin", binary];
    cargo(lab_directory, binary, &what, profile)?;
    Ok(target_directory(lab_directory)
        .join(TARGET)
        .join(profile.name().1)
        .join(binary))
}

/// Builds `test`, a file of tests of the package `antipode`, as a program and returns where it is.
pub(super) fn static_test(lab_directory: &Path, test: &str) -> Result<PathBuf> {
    let what = ["test", "--no-run", "--package", "antipode", "--test", test];
    let messages = cargo(
        lab_directory,
        test,
        &[&what[..], &["--message-format", "json"]].concat(),
        Profile::Release,
    )?;
    let executable = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_it = message["target"]["name"] == test && message["target"]["kind"][0] == "test";
        is_it.then(|| message["executable"].as_str().map(PathBuf::from))?
    };
    messages.lines().find_map(executable).ok_or_else(|| Error::Start {
        program: test.to_owned(),
        source: std::io::Error::other("cargo does not say where it has put it"),
    })
}

fn target_directory(lab_directory: &Path) -> PathBuf {
    lab_directory.join("static")
}

/// Runs cargo for a static build of `name`, and returns what it prints.
fn cargo(lab_directory: &Path, name: &str, what: &[&str], profile: Profile) -> Result<String> {
    let (profile, _) = profile.name();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let started = Instant::now();
    eprintln!("lab: building {name} (static, {profile}; minutes the first time, then seconds)");
    let output = Command::new(&cargo)
        .args(what)
        .args(["--quiet", "--profile", profile, "--target", TARGET])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
        .env("CARGO_TARGET_DIR", target_directory(lab_directory))
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        // Debug information would double the size of every host's system; symbol names stay for backtraces.
        .env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo")
        .env("CARGO_PROFILE_DEV_STRIP", "debuginfo")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|source| Error::Start {
            program: cargo.to_string_lossy().into_owned(),
            source,
        })?;
    if !output.status.success() {
        return Err(Error::Build {
            what: name.to_owned(),
            status: output.status,
        });
    }
    let seconds = started.elapsed().as_secs_f32();
    if seconds > 2.0 {
        eprintln!("lab: {name} is built ({seconds:.0} s)");
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
