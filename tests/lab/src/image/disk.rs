//! The data disk: an empty ext4 file system in a sparse raw file, the same bytes each time.
//!
//! `mke2fs` takes identity and time from chance and the clock unless told otherwise, and defaults from a file of the
//! host. All four are given here. The inode tables and the journal are initialised at once, so that no kernel thread
//! writes them later in the guest.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use super::{Result, copy_sparse};
use crate::debian::{self, run_tool};

const MKE2FS: &str = "/usr/sbin/mke2fs";
const PACKAGE: &str = "e2fsprogs";
/// Of the file system and as hash seed of its directories.
const IDENTITY: &str = "a17190de-0000-4000-8000-000000000001";
/// 2023-06-10, the day of Debian 12.
const TIME_SECONDS: &str = "1686355200";

const FEATURES: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,\
                        large_file,huge_file,dir_nlink,extra_isize,metadata_csum";

/// Makes the template in a new file.
pub(super) fn make(path: &Path, bytes: u64) -> Result<()> {
    let scratch = path.with_extension("scratch");
    let file = File::create_new(&scratch).map_err(debian::Error::file("create", &scratch))?;
    file.set_len(bytes)
        .map_err(debian::Error::file("extend", &scratch))?;
    let extended =
        format!("hash_seed={IDENTITY},lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0,nodiscard");
    let mut command = Command::new(MKE2FS);
    command
        .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-m", "0"])
        .args(["-U", IDENTITY, "-O", FEATURES, "-E", &extended])
        .arg(&scratch)
        .env("MKE2FS_CONFIG", "/dev/null")
        .env("E2FSPROGS_FAKE_TIME", TIME_SECONDS)
        .env("SOURCE_DATE_EPOCH", TIME_SECONDS);
    run_tool(&mut command, PACKAGE)?;
    // What was initialised with zeros is allocated; a sparse copy has holes there, also for tools that do not look.
    copy_sparse(&scratch, path)?;
    std::fs::remove_file(&scratch).map_err(debian::Error::file("delete", &scratch))?;
    Ok(())
}

/// What `mke2fs` calls itself: another version may lay out another file system.
pub(super) fn mke2fs_version() -> Result<String> {
    // It prints its version on standard error and nothing else anywhere, so it is asked through a shell.
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &format!("exec {MKE2FS} -V 2>&1")]);
    let text = run_tool(&mut command, PACKAGE)?;
    Ok(String::from_utf8_lossy(&text)
        .lines()
        .next()
        .unwrap_or_default()
        .trim()
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_disks_have_the_same_bytes_and_are_sparse() {
        use std::os::unix::fs::MetadataExt as _;
        if !Path::new(MKE2FS).exists() {
            eprintln!("skipped: {MKE2FS} is not installed");
            return;
        }
        let directory = tempfile::tempdir().expect("temporary directory");
        let (first, second) = (directory.path().join("first"), directory.path().join("second"));
        make(&first, 64 << 20).expect("first");
        make(&second, 64 << 20).expect("second");
        assert!(std::fs::read(&first).expect("read") == std::fs::read(&second).expect("read"));
        let allocated = std::fs::metadata(&first).expect("metadata").blocks() * 512;
        assert!(allocated < 4 << 20, "{allocated} bytes are allocated");
    }
}
