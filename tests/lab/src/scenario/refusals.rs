//! `cargo lab refusals`: bad input is refused before anything starts, with the documented exit code and a reason that
//! names the culprit, and nothing is modified.
//!
//! No host is emulated: `antipode run` is started on this machine with a real kernel and one thing wrong. Everything
//! named in the configuration lies in one directory, whose names, lengths and digests are compared before and after,
//! as are the names of this machine's network interfaces.
//!
//! The last case has nothing wrong but this machine's KVM. Where `antipode doctor` finds it fit, that case is reported
//! as skipped.

use super::exit_codes;
use super::report::{conclude, seconds, with_run};
use super::{Error, Setup, VmSettings};
use crate::debian::{KernelFlavour, hex_digest};
use crate::image::Service;
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::Instant;

/// A refusal needs no more than reading the kernel; a VM that starts instead would run until somebody ends it.
const DEADLINE_SECONDS: &str = "60";

/// Linux's limit of an interface name is 15 bytes; nobody's interface is called this.
const MISSING_TAP: &str = "no-such-tap";

/// Check that bad input is refused before anything starts, with nothing modified
#[derive(Debug, clap::Args)]
pub struct Args {
    /// One JSON object as the last line
    #[arg(long)]
    json: bool,
}

/// Plays them all and says what happened.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    let words = |found: &Value| {
        let count = found["refusals"].as_object().map_or(0, Map::len);
        format!("{count} refusals, each with its documented exit code, and nothing modified.")
    };
    conclude(args.json, play_all(), words)
}

/// One thing that is wrong.
struct Case {
    name: &'static str,
    /// The documented exit code.
    expected: &'static str,
    /// What the reason must name.
    named: &'static str,
    spoil: fn(&mut VmSettings, &Files),
}

/// The files of a VM that would start, in a directory of their own.
struct Files {
    directory: PathBuf,
    antipode: PathBuf,
    /// Before anything was run.
    before: BTreeMap<PathBuf, String>,
}

const CASES: &[Case] = &[
    Case {
        name: "kernel-missing",
        expected: "kernel-refused",
        named: "no-such-file",
        spoil: |vm, files| vm.kernel = files.path("no-such-file"),
    },
    Case {
        name: "kernel-foreign",
        expected: "kernel-refused",
        named: "foreign",
        spoil: |vm, files| vm.kernel = files.path("foreign"),
    },
    Case {
        name: "kernel-cut-short",
        expected: "kernel-refused",
        named: "cut-short",
        spoil: |vm, files| vm.kernel = files.path("cut-short"),
    },
    Case {
        name: "kernel-payload-corrupt",
        expected: "kernel-refused",
        named: "corrupt",
        spoil: |vm, files| vm.kernel = files.path("corrupt"),
    },
    Case {
        name: "initrd-missing",
        expected: "initrd-refused",
        named: "no-such-file",
        spoil: |vm, files| vm.initrd = files.path("no-such-file"),
    },
    Case {
        name: "initrd-larger-than-ram",
        expected: "initrd-refused",
        named: "memory_mib",
        spoil: |vm, files| {
            vm.memory_mib = 64;
            vm.initrd = files.path("large");
        },
    },
    Case {
        name: "cmdline-contradicts",
        expected: "config",
        named: "clocksource",
        spoil: |vm, _| vm.cmdline.push_str(" clocksource=tsc"),
    },
    Case {
        name: "memory-out-of-bounds",
        expected: "config",
        named: "memory_mib",
        spoil: |vm, _| vm.memory_mib = 8,
    },
    Case {
        name: "disk-missing",
        expected: "disk-refused",
        named: "no-such-file",
        spoil: |vm, files| vm.disk = Some(files.path("no-such-file")),
    },
    Case {
        name: "disk-is-a-directory",
        expected: "disk-refused",
        named: "directory",
        spoil: |vm, files| vm.disk = Some(files.path("directory")),
    },
    Case {
        name: "disk-empty",
        expected: "disk-refused",
        named: "empty",
        spoil: |vm, files| vm.disk = Some(files.path("empty")),
    },
    Case {
        name: "disk-ends-within-a-sector",
        expected: "disk-refused",
        named: "odd",
        spoil: |vm, files| vm.disk = Some(files.path("odd")),
    },
    Case {
        name: "disk-locked",
        expected: "disk-locked",
        named: "locked",
        spoil: |vm, files| vm.disk = Some(files.path("locked")),
    },
    Case {
        name: "tap-missing",
        expected: "tap-refused",
        named: MISSING_TAP,
        spoil: |vm, _| vm.tap = Some(MISSING_TAP.to_owned()),
    },
];

fn play_all() -> Result<Value> {
    let setup = Setup::prepare(Service::Shell, KernelFlavour::Cloud)?;
    let started = Instant::now();
    with_run(&setup.materials.lab_directory, "refusals", |run| {
        let files = Files::furnish(&setup, &run.path().join("files"))?;
        // Held until the end: a lock goes with the file that holds it.
        let locked = File::open(files.path("locked"))?;
        locked.lock()?;
        let mut names = Map::new();
        for case in CASES {
            let mut settings = files.sound(&setup);
            (case.spoil)(&mut settings, &files);
            files
                .expect(&settings, case.expected, case.named)
                .with_context(|| case.name)?;
            eprintln!("lab: {}: {}", case.name, case.expected);
            names.insert(case.name.to_owned(), case.expected.into());
        }
        let kvm = files.unfit_kvm()?;
        match &kvm {
            Some(expected) => {
                files
                    .expect(&files.sound(&setup), expected, "kvm")
                    .context("unfit KVM")?;
                eprintln!("lab: this machine's KVM: {expected}");
                names.insert("kvm-unfit".to_owned(), expected.as_str().into());
            }
            None => eprintln!("lab: kvm-unfit: skipped, this machine's KVM is fit"),
        }
        let skipped = if kvm.is_none() { vec!["kvm-unfit"] } else { vec![] };
        let took = seconds(started.elapsed());
        Ok(json!({ "ok": true, "refusals": names, "skipped": skipped, "took_s": took }))
    })
}

impl Files {
    fn furnish(setup: &Setup, directory: &Path) -> Result<Self> {
        let antipode = setup
            .materials
            .antipode
            .clone()
            .context("no antipode was built")?;
        fs::create_dir_all(directory.join("directory"))?;
        let at = |name: &str| directory.join(name);
        let image = &setup.image;
        fs::copy(&image.kernel, at("vmlinuz"))?;
        let kernel = fs::read(&image.kernel)?;
        fs::write(at("foreign"), "#!/bin/sh\necho this is no kernel\n".repeat(100))?;
        fs::write(at("cut-short"), &kernel[..kernel.len() / 2])?;
        let mut corrupt = kernel;
        let middle = corrupt.len() / 2;
        corrupt[middle..middle + 64]
            .iter_mut()
            .for_each(|byte| *byte = !*byte);
        fs::write(at("corrupt"), corrupt)?;
        for (name, length) in [
            ("initrd", 1 << 20),
            ("disk", 1 << 20),
            ("locked", 1 << 20),
            ("empty", 0),
            ("odd", (1 << 20) + 100),
            ("large", 65 << 20),
        ] {
            File::create(at(name))?.set_len(length)?;
        }
        let before = inventory(directory)?;
        Ok(Self {
            directory: directory.to_owned(),
            antipode,
            before,
        })
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).to_string_lossy().into_owned()
    }

    /// A VM with which nothing is wrong. It has no card: an unprivileged user has no TAP to offer.
    fn sound(&self, setup: &Setup) -> VmSettings {
        VmSettings {
            kernel: self.path("vmlinuz"),
            initrd: self.path("initrd"),
            disk: Some(self.path("disk")),
            tap: None,
            interactive: false,
            ..VmSettings::new(setup)
        }
    }

    /// Runs the VM and checks exit code, reason, and that nothing was modified.
    fn expect(&self, settings: &VmSettings, expected: &str, named: &str) -> Result<()> {
        // Beside the directory: it is ours to change.
        let config = self.directory.with_extension("toml");
        fs::write(&config, settings.toml()).map_err(Error::file("write", &config))?;
        let config = config.to_string_lossy();
        let output = self.antipode(&["run", "--json", "--config", &config])?;
        let said = String::from_utf8_lossy(&output.stdout);
        let number = exit_codes::number(expected).context("its exit code is not documented")?;
        ensure!(
            output.status.code() == Some(number.into()),
            "ended with {}, expected {number} ({expected}); it said: {said}",
            output.status
        );
        // One line: the guest's console would have come before it.
        let answer: Value = serde_json::from_str(&said).with_context(|| said.clone().into_owned())?;
        let reason = answer["errors"].to_string();
        ensure!(
            answer["exit_name"] == expected && reason.to_lowercase().contains(named),
            "the reason does not name {named:?}: {said}"
        );
        ensure!(
            self.before == inventory(&self.directory)?,
            "something was modified in {}",
            self.directory.display()
        );
        Ok(())
    }

    /// The exit code that this machine's KVM must lead to, if it cannot run a guest.
    fn unfit_kvm(&self) -> Result<Option<String>> {
        let output = self.antipode(&["doctor", "--json"])?;
        let answer: Value = serde_json::from_slice(&output.stdout)?;
        match answer["exit_name"].as_str() {
            Some("done") => Ok(None),
            Some(name @ ("kvm-missing" | "kvm-unusable")) => Ok(Some(name.to_owned())),
            _ => bail!("antipode doctor answered {answer}"),
        }
    }

    fn antipode(&self, arguments: &[&str]) -> Result<Output> {
        let output = Command::new("timeout")
            .args(["--signal=KILL", DEADLINE_SECONDS])
            .arg(&self.antipode)
            .args(arguments)
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .env_remove("ANTIPODE_LOG")
            .output();
        output.with_context(|| self.antipode.display().to_string())
    }
}

/// Every file with its digest, and every network interface.
fn inventory(directory: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let digest = if path.is_file() {
            hex_digest(&fs::read(&path)?)
        } else {
            String::new()
        };
        found.insert(path, digest);
    }
    for entry in fs::read_dir("/sys/class/net")? {
        found.insert(entry?.path(), String::new());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_and_a_new_file_are_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("disk");
        fs::write(&file, [0; 512]).unwrap();
        let before = inventory(directory.path()).unwrap();
        assert_eq!(before, inventory(directory.path()).unwrap());
        fs::write(&file, [1; 512]).unwrap();
        assert_ne!(before, inventory(directory.path()).unwrap());
        fs::write(&file, [0; 512]).unwrap();
        File::create(directory.path().join("new")).unwrap();
        assert_ne!(before, inventory(directory.path()).unwrap());
    }

    #[test]
    fn every_expected_code_is_documented() {
        for case in CASES {
            assert!(exit_codes::number(case.expected).is_some(), "{}", case.name);
        }
    }
}
