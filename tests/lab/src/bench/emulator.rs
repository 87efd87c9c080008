//! QEMU for a host: Debian's package and its libraries on a disk, fetched and not installed.
//!
//! `lab-chroot DISK qemu-system-x86_64 …` runs it with the host's devices, `/tmp` and `/root`. The disk is an ext4
//! file system of what the program reads: itself, the libraries and the firmware; made once per set of packages.

use crate::debian::{self, Cache, Candidate, hex_digest, run_tool};
use std::path::{Path, PathBuf};
use std::process::Command;

const WANTED: &[&str] = &["qemu-system-x86"];

/// Directories of the packages that QEMU reads; everything else stays out.
const KEPT: &[&str] = &["bin", "lib", "lib64", "share"];

/// Parts of those that it does not read: other people's programs, pictures and descriptions.
const TRIMMED: &[&str] = &[
    "share/doc",
    "share/man",
    "share/locale",
    "share/iso-codes",
    "share/xml",
    "share/icons",
];

/// Mount points of `lab-chroot`.
const MOUNT_POINTS: &[&str] = &["proc", "sys", "dev", "tmp", "root"];

/// File-system overhead and room for rounding, beyond the files themselves.
const SPARE_BYTES: u64 = 32 << 20;

/// The disk with QEMU, found or else made.
///
/// # Errors
/// A package that cannot be had, or a disk that cannot be written.
pub(super) fn disk(cache: &Cache) -> debian::Result<PathBuf> {
    let candidates = cache.resolve(WANTED, &[])?;
    let directory = cache.root().join("emulators");
    std::fs::create_dir_all(&directory).map_err(debian::Error::file("create", &directory))?;
    let path = directory.join(format!("qemu-{}.ext4", &recipe_digest(&candidates)[..16]));
    if path.exists() {
        return Ok(path);
    }
    eprintln!(
        "lab: putting QEMU on a disk for the hosts ({} packages; once)",
        candidates.len()
    );
    let scratch = tempfile::tempdir_in(&directory).map_err(debian::Error::file("create", &directory))?;
    let (tree, fresh) = (scratch.path().join("tree"), scratch.path().join("disk"));
    for package in cache.fetch(&candidates)? {
        cache.extract(&package, &tree)?;
    }
    trim(&tree)?;
    make(&tree, &fresh)?;
    std::fs::rename(&fresh, &path).map_err(debian::Error::file("create", &path))?;
    Ok(path)
}

fn recipe_digest(candidates: &[Candidate]) -> String {
    let sums: Vec<&str> = candidates.iter().map(|one| one.sha256.as_str()).collect();
    hex_digest(format!("{}\n{}", include_str!("emulator.rs"), sums.join("\n")).as_bytes())
}

fn trim(tree: &Path) -> debian::Result<()> {
    let usr = tree.join("usr");
    for parent in [tree, &usr] {
        for entry in std::fs::read_dir(parent).map_err(debian::Error::file("list", parent))? {
            let entry = entry.map_err(debian::Error::file("list", parent))?;
            let name = entry.file_name();
            if !(KEPT.iter().any(|kept| name == *kept) || parent == tree && name == "usr") {
                remove(&entry.path())?;
            }
        }
    }
    for path in TRIMMED {
        remove(&usr.join(path))?;
    }
    for name in MOUNT_POINTS {
        let path = tree.join(name);
        std::fs::create_dir_all(&path).map_err(debian::Error::file("create", &path))?;
    }
    Ok(())
}

fn remove(path: &Path) -> debian::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(debian::Error::file("delete", path)(error))
        }
        _ => Ok(()),
    }
}

fn make(tree: &Path, disk: &Path) -> debian::Result<()> {
    let kibibytes = run_tool(Command::new("du").arg("-sk").arg(tree), "coreutils")?;
    let text = String::from_utf8_lossy(&kibibytes).into_owned();
    let first = text
        .split_whitespace()
        .next()
        .and_then(|word| word.parse::<u64>().ok());
    let used = first.ok_or_else(|| debian::Error::Malformed {
        source_name: "du".to_owned(),
        detail: format!("expected a number, found `{text}`"),
    })?;
    let file = std::fs::File::create_new(disk).map_err(debian::Error::file("create", disk))?;
    // An eighth more: inode tables grow with the size.
    let bytes = (used * 1_024 * 9 / 8 + SPARE_BYTES).next_multiple_of(1 << 20);
    file.set_len(bytes).map_err(debian::Error::file("extend", disk))?;
    let mut command = Command::new("/usr/sbin/mke2fs");
    command
        .args(["-q", "-F", "-t", "ext4", "-m", "0", "-O", "^has_journal", "-d"])
        .arg(tree)
        .arg(disk)
        .env("MKE2FS_CONFIG", "/dev/null");
    run_tool(&mut command, "e2fsprogs").map(drop)
}
