//! Refusals on this machine.
//!
//! Everything named in the configuration lies in one directory, whose names, lengths and digests are compared before
//! and after, as are the names of this machine's network interfaces.
//!
//! The last case has nothing wrong but this machine's KVM. Where `antipode doctor` finds it fit, that case is reported
//! as skipped.

use super::{Refusal, Seen};
use crate::debian::hex_digest;
use crate::scenario::report::with_run;
use crate::scenario::{Error, Setup, VmSettings};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A refusal needs no more than reading the kernel; a VM that starts instead would run until somebody ends it.
const DEADLINE_SECONDS: &str = "60";

/// Linux's limit of an interface name is 15 bytes; nobody's interface is called this.
const MISSING_TAP: &str = "no-such-tap";

/// A VM with which one thing is wrong.
struct Case {
    name: &'static str,
    refusal: Refusal<'static>,
    wrong: Wrong,
}

/// What is wrong with it. Files are named as in [`Files`].
enum Wrong {
    Kernel(&'static str),
    Initrd(&'static str),
    /// More than fits into this many MiB.
    LargeInitrd(u64),
    Disk(&'static str),
    Tap(&'static str),
    /// One more word on the command line.
    Word(&'static str),
    MemoryMib(u64),
}

impl Wrong {
    fn spoil(&self, vm: &mut VmSettings, files: &Files) {
        match *self {
            Self::Kernel(name) => vm.kernel = files.path(name),
            Self::Initrd(name) => vm.initrd = files.path(name),
            Self::LargeInitrd(memory_mib) => {
                vm.memory_mib = memory_mib;
                vm.initrd = files.path("large");
            }
            Self::Disk(name) => vm.disk = Some(files.path(name)),
            Self::Tap(name) => vm.tap = Some(name.to_owned()),
            Self::Word(word) => vm.cmdline.push_str(&format!(" {word}")),
            Self::MemoryMib(memory_mib) => vm.memory_mib = memory_mib,
        }
    }
}

const fn case(name: &'static str, wrong: Wrong, exit_name: &'static str, named: &'static str) -> Case {
    let refusal = Refusal { exit_name, named };
    Case { name, refusal, wrong }
}

use Wrong::{Disk, Initrd, Kernel, LargeInitrd, MemoryMib, Tap, Word};

// A row a line, to be read as a table.
#[rustfmt::skip]
const CASES: &[Case] = &[
    case("kernel-missing", Kernel("no-such-file"), "kernel-refused", "no-such-file"),
    case("kernel-foreign", Kernel("foreign"), "kernel-refused", "foreign"),
    case("kernel-cut-short", Kernel("cut-short"), "kernel-refused", "cut-short"),
    case("kernel-payload-corrupt", Kernel("corrupt"), "kernel-refused", "corrupt"),
    case("initrd-missing", Initrd("no-such-file"), "initrd-refused", "no-such-file"),
    case("initrd-larger-than-ram", LargeInitrd(64), "initrd-refused", "memory_mib"),
    case("cmdline-contradicts", Word("clocksource=tsc"), "config", "clocksource"),
    case("memory-out-of-bounds", MemoryMib(8), "config", "memory_mib"),
    case("disk-missing", Disk("no-such-file"), "disk-refused", "no-such-file"),
    case("disk-is-a-directory", Disk("directory"), "disk-refused", "directory"),
    case("disk-empty", Disk("empty"), "disk-refused", "empty"),
    case("disk-ends-within-a-sector", Disk("odd"), "disk-refused", "odd"),
    case("disk-locked", Disk("locked"), "disk-locked", "locked"),
    case("tap-missing", Tap(MISSING_TAP), "tap-refused", MISSING_TAP),
];

/// The files of a VM that would start, in a directory of their own.
struct Files {
    directory: PathBuf,
    antipode: PathBuf,
    /// Before anything was run.
    before: BTreeMap<PathBuf, String>,
}

pub(super) fn play_all(setup: &Setup, seen: &mut Seen) -> Result<()> {
    with_run(&setup.materials.lab_directory, "refusals", |run| {
        let files = Files::furnish(setup, &run.path().join("files"))?;
        // Held until the end: a lock goes with the file that holds it.
        let locked = File::open(files.path("locked"))?;
        locked.lock()?;
        for case in CASES {
            let mut settings = files.sound(setup);
            case.wrong.spoil(&mut settings, &files);
            files.expect(&settings, case.refusal).context(case.name)?;
            seen.refused(case.name, case.refusal.exit_name);
        }
        let Some(exit_name) = files.unfit_kvm()? else {
            seen.skipped("kvm-unfit", "this machine's KVM is fit");
            return Ok(());
        };
        let named = "kvm";
        let refusal = Refusal {
            exit_name: &exit_name,
            named,
        };
        files.expect(&files.sound(setup), refusal).context("unfit KVM")?;
        seen.refused("kvm-unfit", &exit_name);
        Ok(())
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

    /// Runs the VM and checks that it is refused, and that nothing was modified.
    fn expect(&self, settings: &VmSettings, refusal: Refusal<'_>) -> Result<()> {
        // Beside the directory: it is ours to change.
        let config = self.directory.with_extension("toml");
        fs::write(&config, settings.toml()).map_err(Error::file("write", &config))?;
        let config = config.to_string_lossy();
        let output = self.antipode(&["run", "--json", "--config", &config])?;
        refusal.check(output.status.code(), &String::from_utf8_lossy(&output.stdout))?;
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
            let exit_name = case.refusal.exit_name;
            assert!(
                crate::scenario::exit_codes::number(exit_name).is_some(),
                "{}",
                case.name
            );
        }
    }
}
