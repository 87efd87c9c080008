//! `antipode run` with bad input: refused before anything starts, with the documented exit code, a reason that names
//! the culprit, and nothing modified.
//!
//! Here is what is refused before the kernel is edited, so no kernel and no KVM is needed. The rest takes a real
//! kernel: `cargo lab refusals`.
#![expect(clippy::unwrap_used, reason = "a test: what fails is shown where it fails")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// A disk that is sound, so that only what a test spoils is wrong.
const DISK_BYTES: u64 = 1 << 20;

/// Every file of a VM's folder with its content.
fn inventory(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| {
            let content = fs::read(&path).unwrap();
            (path, content)
        })
        .collect()
}

/// Runs a VM whose kernel is `kernel` (none if absent) and whose file is `toml`; returns exit code, name and reasons.
fn refusal(kernel: Option<&[u8]>, toml: &str) -> (Option<i32>, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    if let Some(kernel) = kernel {
        fs::write(at("vmlinuz"), kernel).unwrap();
    }
    fs::File::create(at("disk")).unwrap().set_len(DISK_BYTES).unwrap();
    fs::write(at("vm.toml"), toml).unwrap();
    let before = inventory(folder.path());
    let output = Command::new(env!("CARGO_BIN_EXE_antipode"))
        .args(["run", "--json", "--config"])
        .arg(at("vm.toml"))
        .env_remove("ANTIPODE_LOG")
        .output()
        .unwrap();
    assert!(inventory(folder.path()) == before, "something was modified");
    // The whole of standard output is one object: no guest wrote before it.
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["ok"], false);
    assert_eq!(said["exit_code"], output.status.code().unwrap());
    let name = said["exit_name"].as_str().unwrap().to_owned();
    (output.status.code(), name, said["errors"].to_string())
}

const SOUND: &str = "name = \"a\"\nmemory_mib = 64\n[kernel]\npath = \"vmlinuz\"\n[disk]\npath = \"disk\"\n";

#[track_caller]
fn refuses_kernel(kernel: Option<&[u8]>, reason: &str) {
    let (code, name, said) = refusal(kernel, SOUND);
    assert_eq!((code, name.as_str()), (Some(11), "kernel-refused"), "{said}");
    assert!(said.contains("vmlinuz") && said.contains(reason), "{said}");
}

/// A bzImage as its boot protocol wants it (Documentation/x86/boot.rst), with `payload` for a compressed kernel.
fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 1024];
    image[0x1F1] = 1;
    image[0x1FE..0x200].copy_from_slice(&[0x55, 0xAA]);
    image[0x200..0x202].copy_from_slice(&[0xEB, 0x66]);
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x020F_u16.to_le_bytes());
    image[0x211] = 1;
    image[0x236..0x238].copy_from_slice(&1_u16.to_le_bytes());
    let length = u32::try_from(payload.len()).unwrap();
    image[0x24C..0x250].copy_from_slice(&length.to_le_bytes());
    image.extend(payload);
    image
}

#[test]
fn a_missing_or_foreign_kernel_is_refused() {
    refuses_kernel(None, "cannot read kernel");
    refuses_kernel(Some(b""), "no Linux kernel");
    refuses_kernel(
        Some(&b"#!/bin/sh\necho no kernel\n".repeat(100)),
        "no Linux kernel",
    );
}

#[test]
fn a_corrupt_kernel_is_refused() {
    let gzip = [
        &[0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 3][..],
        &[0xA5; 200],
        &[0, 0, 1, 0],
    ]
    .concat();
    let whole = bzimage(&gzip);
    refuses_kernel(Some(&whole), "payload");
    refuses_kernel(Some(&whole[..whole.len() - 100]), "cut short");
    refuses_kernel(Some(&bzimage(&[0xA5; 200])), "no compression known here");
}

#[test]
fn every_mistake_of_a_configuration_is_shown_at_its_place() {
    let wrong = SOUND
        .replace("memory_mib = 64", "memory_mib = 8")
        .replace("[disk]", "[dsk]");
    // The kernel is missing too, and nobody looks for it.
    let (code, name, said) = refusal(None, &wrong);
    assert_eq!((code, name.as_str()), (Some(10), "config"), "{said}");
    assert!(said.contains("vm.toml:2:14") && said.contains("dsk"), "{said}");
    assert!(!said.contains("vmlinuz"), "{said}");
}
