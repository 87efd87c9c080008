//! The initramfs: files of packages, kernel modules, busybox's names, and the few files of our own.
//!
//! Debian's directories `/bin`, `/sbin`, `/lib` and `/lib64` are symbolic links into `/usr`, and so they are here;
//! packages that still ship files under the old names are followed into `/usr`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use super::{Error, Result, Service};
use crate::archive::cpio::Archive;
use crate::archive::cpio::Entry;
use crate::debian::{self, Cache, Kernel, Package, modules, run_tool};

/// Modules a guest may need; what they need follows, and what is built in is skipped. ext4 asks for its checksum by a
/// name of the kernel's crypto interface, so that module is named here.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio_rng",
    "crc32c_generic",
    "ext4",
    "button",
    "evdev",
];

/// Paths that no program of an image reads: documentation, translations, what only installation or another init uses,
/// and converters between character sets (every program here runs in the C locale).
const TRIMMED: &[&str] = &[
    "etc/apparmor.d/",
    "etc/init.d/",
    "etc/logrotate.d/",
    "usr/lib/systemd/",
    "usr/lib/x86_64-linux-gnu/gconv/",
    "usr/share/bash-completion/",
    "usr/share/bug/",
    "usr/share/common-licenses/",
    "usr/share/doc/",
    "usr/share/doc-base/",
    "usr/share/info/",
    "usr/share/lintian/",
    "usr/share/locale/",
    "usr/share/man/",
    "usr/share/postgresql/15/man/",
    "usr/share/zoneinfo/posix/",
    "usr/share/zoneinfo/right/",
    // The just-in-time compiler of PostgreSQL: useless without LLVM, which is left out.
    "usr/lib/postgresql/15/lib/bitcode/",
    "usr/lib/postgresql/15/lib/llvmjit",
];

/// Directories that Debian has merged into `/usr`.
const MERGED: &[&str] = &["bin", "sbin", "lib", "lib64"];

/// Directories that are mount points or must exist.
const DIRECTORIES: &[&str] = &[
    "data", "dev", "etc", "proc", "root", "run", "sys", "usr/bin", "usr/sbin", "var/log",
];

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
                      postgres:x:101:101:PostgreSQL:/data:/bin/sh\n\
                      redis:x:102:102:Redis:/data:/bin/sh\n\
                      nobody:x:65534:65534:nobody:/nonexistent:/bin/sh\n";
const GROUP: &str = "root:x:0:\ntty:x:5:\npostgres:x:101:\nredis:x:102:\nnogroup:x:65534:\n";

/// For one `mount -a`: each further process costs an emulated guest tens of milliseconds.
const FSTAB: &str = "sysfs /sys sysfs defaults 0 0\n\
                     devpts /dev/pts devpts gid=5,mode=620 0 0\n\
                     tmpfs /dev/shm tmpfs mode=1777 0 0\n\
                     tmpfs /run tmpfs mode=755 0 0\n\
                     tmpfs /tmp tmpfs mode=1777 0 0\n";

/// Puts an image's initramfs together.
pub(super) fn assemble(
    cache: &Cache,
    service: Service,
    packages: &[Package],
    kernel: &Kernel,
) -> Result<Archive> {
    let mut archive = Archive::new();
    for directory in DIRECTORIES {
        archive.directory(directory);
    }
    for name in MERGED {
        archive.symlink(name, &format!("usr/{name}"));
        archive.directory(&format!("usr/{name}"));
    }
    archive.insert("tmp", Entry::Directory { mode: 0o1777 });
    archive.insert(
        "dev/console",
        Entry::CharacterDevice {
            mode: 0o600,
            major: 5,
            minor: 1,
        },
    );
    for package in packages {
        add_tree(&mut archive, package, &cache.tree(package)?, "")?;
    }
    add_applets(&mut archive)?;
    add_modules(&mut archive, kernel)?;
    add_own_files(&mut archive, service);
    Ok(archive)
}

/// Adds what lies under `directory` of a package's tree.
fn add_tree(archive: &mut Archive, package: &Package, tree: &Path, directory: &str) -> Result<()> {
    let path = tree.join(directory);
    for entry in std::fs::read_dir(&path).map_err(debian::Error::file("list", &path))? {
        let entry = entry.map_err(debian::Error::file("list", &path))?;
        let name = format!("{directory}{}", entry.file_name().to_string_lossy());
        let metadata = entry
            .metadata()
            .map_err(debian::Error::file("examine", entry.path()))?;
        let target = merged(&name);
        let is_directory = metadata.is_dir();
        let compared = if is_directory {
            format!("{target}/")
        } else {
            target.clone()
        };
        if TRIMMED.iter().any(|prefix| compared.starts_with(prefix)) {
            continue;
        }
        let mode = metadata.permissions().mode() & 0o7777;
        if is_directory {
            if archive.get(&target).is_none() {
                archive.insert(&target, Entry::Directory { mode });
            }
            add_tree(archive, package, tree, &format!("{name}/"))?;
        } else if metadata.is_symlink() {
            let link = std::fs::read_link(entry.path()).map_err(debian::Error::file("read", entry.path()))?;
            archive.symlink(&target, &link.to_string_lossy());
        } else if metadata.is_file() {
            archive.host_file(&target, mode, entry.path());
        } else {
            return Err(Error::UnknownFile {
                package: package.name.clone(),
                path: name,
            });
        }
    }
    Ok(())
}

/// Where a package's path lies once `/bin` and its like are links.
fn merged(path: &str) -> String {
    let first = path.split('/').next().unwrap_or_default();
    if MERGED.contains(&first) {
        format!("usr/{path}")
    } else {
        path.to_owned()
    }
}

/// Gives busybox the names of its programs, except where a package brings the program itself.
fn add_applets(archive: &mut Archive) -> Result<()> {
    let Some(Entry::HostFile { source, .. }) = archive.get("usr/bin/busybox") else {
        return Err(debian::Error::Malformed {
            source_name: "busybox-static".to_owned(),
            detail: "the package holds no busybox".to_owned(),
        }
        .into());
    };
    // The program itself knows its names: it runs on the host, being static and for the same processor.
    let list = run_tool(Command::new(source).arg("--list"), "busybox-static")?;
    for name in String::from_utf8_lossy(&list).lines() {
        let taken = ["usr/bin", "usr/sbin"]
            .iter()
            .any(|place| archive.get(&format!("{place}/{name}")).is_some());
        if !taken {
            archive.symlink(&format!("usr/bin/{name}"), "busybox");
        }
    }
    Ok(())
}

fn add_modules(archive: &mut Archive, kernel: &Kernel) -> Result<()> {
    let mut list = String::new();
    for source in modules::load_order(kernel, MODULES)? {
        let name = source
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let path = format!("usr/lib/modules/{}/{name}", kernel.release);
        list.push_str(&format!("/{path}\n"));
        archive.host_file(&path, 0o644, source);
    }
    archive.file("etc/antipode/modules", 0o644, list);
    Ok(())
}

fn add_own_files(archive: &mut Archive, service: Service) {
    archive.file("init", 0o755, include_str!("init/init.sh"));
    archive.file(
        "etc/acpi/PWRF/00000080",
        0o755,
        include_str!("init/power-button.sh"),
    );
    archive.file("etc/antipode/service", 0o644, service.script());
    for (name, contents) in service.files() {
        archive.file(&format!("etc/antipode/{name}"), 0o644, *contents);
    }
    archive.file("etc/passwd", 0o644, PASSWD);
    archive.file("etc/group", 0o644, GROUP);
    archive.file("etc/fstab", 0o644, FSTAB);
    archive.file("etc/hosts", 0o644, "127.0.0.1 localhost\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_directories_lead_into_usr() {
        assert_eq!(
            merged("lib/x86_64-linux-gnu/libc.so.6"),
            "usr/lib/x86_64-linux-gnu/libc.so.6"
        );
        assert_eq!(merged("lib64"), "usr/lib64");
        assert_eq!(merged("library/a"), "library/a");
        assert_eq!(merged("usr/bin/perl"), "usr/bin/perl");
    }
}
