//! A host's system: one cpio archive, made anew for each host (a copy of some 20 MB).

use super::error::{Error, Result};
use super::materials::Materials;
use super::spec::{HostSpec, OUTSIDE_OWN};
use crate::archive::cpio::Archive;
use crate::debian::modules::load_order;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

/// Devices and networking that every host has.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_console",
    "virtio_blk",
    "virtio_net",
    "af_packet",
    "tun",
    "bridge",
];

/// What `/dev/kvm` needs. `irqbypass`, `ccp` and others follow from their dependencies.
const KVM_MODULES: &[&str] = &["kvm", "kvm_amd"];

/// Loaded on demand by the caller: `insmod /lib/modules/<name>.ko`.
const MODULES_AT_HAND: &[&str] = &["veth", "sch_netem", "squashfs", "loop", "overlay"];

/// Writes the archive for `spec`.
///
/// # Errors
/// A module the kernel does not have, or [`Error::File`].
pub fn write(materials: &Materials, spec: &HostSpec, to: &Path) -> Result<()> {
    let mut archive = Archive::new();
    archive.directory("dev");
    archive.insert(
        "dev/console",
        crate::archive::cpio::Entry::CharacterDevice {
            mode: 0o600,
            major: 5,
            minor: 1,
        },
    );
    archive.host_file("bin/busybox", 0o755, &materials.busybox);
    archive.symlink("bin/sh", "busybox");
    archive.file("init", 0o755, include_str!("init.sh"));
    archive.file("bin/lab-bridge", 0o755, include_str!("lab-bridge.sh"));
    archive.file("bin/lab-chroot", 0o755, include_str!("lab-chroot.sh"));
    archive.host_file("bin/antipode-lab-agent", 0o755, &materials.agent);
    if let Some(antipode) = &materials.antipode {
        archive.host_file("usr/local/bin/antipode", 0o755, antipode);
    }
    archive.file("etc/hostname", 0o644, format!("{}\n", spec.name));
    archive.file("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\n");
    archive.file("etc/group", 0o644, "root:x:0:\n");
    archive.file("etc/lab/network", 0o644, network_script(spec));
    add_modules(&mut archive, materials, spec)?;
    for file in &spec.files {
        archive.host_file(file.path.trim_start_matches('/'), file.mode, &file.source);
    }
    let file = File::create(to).map_err(Error::file("create", to))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    archive
        .write(&mut out)
        .and_then(|()| out.flush())
        .map_err(Error::file("write", to))
}

fn add_modules(archive: &mut Archive, materials: &Materials, spec: &HostSpec) -> Result<()> {
    let wanted = |names: &[&str]| load_order(&materials.kernel, names);
    let mut always: Vec<&str> = MODULES.to_vec();
    always.extend(spec.modules.iter().map(String::as_str));
    let always = wanted(&always)?;
    let mut kvm = if spec.kvm {
        wanted(KVM_MODULES)?
    } else {
        Vec::new()
    };
    kvm.retain(|path| !always.contains(path));
    for path in always.iter().chain(&kvm).chain(&wanted(MODULES_AT_HAND)?) {
        archive.host_file(&format!("lib/modules/{}", file_name(path)), 0o644, path);
    }
    archive.file("etc/lab/modules", 0o644, list(&always));
    archive.file("etc/lab/modules.kvm", 0o644, list(&kvm));
    Ok(())
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| file_name(path) + "\n").collect()
}

fn network_script(spec: &HostSpec) -> String {
    let mut script = String::new();
    for (index, nic) in spec.nics.iter().enumerate() {
        if let Some(address) = &nic.address {
            // Writing to a String does not fail.
            let _ = writeln!(script, "ip addr add {address} dev eth{index}");
        }
        let _ = writeln!(script, "ip link set eth{index} up");
    }
    if spec.outside {
        let index = spec.nics.len();
        let _ = writeln!(
            script,
            "ip addr add {OUTSIDE_OWN} dev eth{index}\nip link set eth{index} up"
        );
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Nic;

    #[test]
    fn every_card_comes_up_and_those_with_an_address_get_it() {
        let nic = |address: Option<&str>| Nic {
            socket: "/s".into(),
            mac: [2, 0, 0, 0, 0, 1],
            address: address.map(str::to_owned),
        };
        let mut spec = HostSpec::new("a");
        spec.nics = vec![nic(Some("10.9.0.1/24")), nic(None)];
        let expected = "ip addr add 10.9.0.1/24 dev eth0\nip link set eth0 up\nip link set eth1 up\n";
        assert_eq!(network_script(&spec), expected);
        spec.outside = true;
        let outside = "ip addr add 10.7.0.15/24 dev eth2\nip link set eth2 up\n";
        assert_eq!(network_script(&spec), format!("{expected}{outside}"));
    }
}
