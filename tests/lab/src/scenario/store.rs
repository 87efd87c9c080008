//! The site's own disk: an ext4 file system holding what an operator would have put there to run the guest.

use super::{Error, Result};
use crate::debian::run_tool;
use crate::image::Image;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the site mounts it.
pub(crate) const DIRECTORY: &str = "/srv/vm";
/// Names in it.
pub(super) const KERNEL: &str = "vmlinuz";
pub(super) const INITRD: &str = "initrd.cpio";
pub(super) const DISK: &str = "disk.img";

/// Modules of the site that mounting it takes.
pub(super) const MODULES: &[&str] = &["ext4"];

/// The script that mounts it.
pub(super) const MOUNT: &str = "mkdir -p /srv/vm && mount -t ext4 /dev/vda /srv/vm";

/// Room for the journal, metadata and configurations, beyond the files.
pub(super) const ROOM_BYTES: u64 = 128 << 20;

/// Makes the disk of a site that has everything of `image`, as a sparse file in `directory`.
pub(super) fn make(image: &Image, directory: &Path) -> Result<PathBuf> {
    let files = [
        (image.kernel.as_path(), KERNEL),
        (&image.initrd, INITRD),
        (&image.disk, DISK),
    ];
    make_of(&files, ROOM_BYTES, &directory.join("store.ext4"))
}

/// Makes a disk with `files` under their names and room for more, as a sparse file at `store`.
///
/// `mke2fs -d` fills it from a directory, so nothing is mounted here and no root is needed. That directory holds hard
/// links to the files, which only it reads; a disk's holes stay holes.
pub(super) fn make_of(files: &[(&Path, &str)], room_bytes: u64, store: &Path) -> Result<PathBuf> {
    let content = store.with_extension("content");
    std::fs::create_dir_all(&content).map_err(Error::file("create", &content))?;
    let mut bytes = room_bytes;
    for (source, name) in files {
        let target = content.join(name);
        std::fs::hard_link(source, &target).map_err(Error::file("link", &target))?;
        bytes += target.metadata().map_err(Error::file("read", &target))?.len();
    }
    let mut command = Command::new("mke2fs");
    command
        .args(["-q", "-F", "-t", "ext4", "-m", "0", "-L", "store"])
        // Nothing is left for a thread of the site's kernel to write while a guest is being measured.
        .args(["-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"])
        .arg("-d")
        .arg(&content)
        .arg(store)
        .arg(format!("{}k", bytes >> 10));
    e2fs(&mut command)?;
    std::fs::remove_dir_all(&content).map_err(Error::file("delete", &content))?;
    Ok(store.to_owned())
}

/// Copies a file out of a disk that no host has mounted, holes kept.
pub(super) fn extract(store: &Path, path: &str, to: &Path) -> Result<()> {
    let mut command = Command::new("debugfs");
    command
        .arg("-R")
        .arg(format!("dump {path} {}", to.display()))
        .arg(store);
    e2fs(&mut command)?;
    // It says in words alone that there is no such file.
    to.metadata().map(drop).map_err(Error::file("extract", to))
}

/// These tools are in a directory that an ordinary user may not have in the path.
fn e2fs(command: &mut Command) -> Result<()> {
    run_tool(command.env("PATH", path_with_sbin()), "e2fsprogs")?;
    Ok(())
}

fn path_with_sbin() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}
