//! Static binaries for the hosts, built from this workspace.
//!
//! They have a target directory of their own (`target/lab/static`): the flag that makes them static would otherwise
//! invalidate the ordinary build each time, and the other way round.

use super::error::{Error, Result};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds a binary of a package of this workspace and returns where it is. Says on standard error what it does.
pub(super) fn static_binary(lab_directory: &Path, package: &str, binary: &str) -> Result<PathBuf> {
    let target_directory = lab_directory.join("static");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let started = Instant::now();
    eprintln!("lab: building {binary} (static, release; minutes the first time, then seconds)");
    let status = Command::new(&cargo)
        .args([
            "build",
            "--quiet",
            "--release",
            "--target",
            TARGET,
            "--package",
            package,
            "--bin",
            binary,
        ])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
        .env("CARGO_TARGET_DIR", &target_directory)
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        // Debug information would double the size of every host's system; symbol names stay for backtraces.
        .env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .map_err(|source| Error::Start {
            program: cargo.to_string_lossy().into_owned(),
            source,
        })?;
    if !status.success() {
        return Err(Error::Build {
            what: binary.to_owned(),
            status,
        });
    }
    let seconds = started.elapsed().as_secs_f32();
    if seconds > 2.0 {
        eprintln!("lab: {binary} is built ({seconds:.0} s)");
    }
    Ok(target_directory.join(TARGET).join("release").join(binary))
}
