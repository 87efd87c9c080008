//! The two machines under comparison, as command lines in the host. Pure.
//!
//! QEMU is Debian's, started as a user in a hurry would start it, without what would make the comparison unequal:
//! `-machine pc -accel kvm -cpu host -smp 1`, in-kernel interrupt controllers and clock (QEMU's default and its
//! advantage), `-nodefaults`, the same kernel, initrd, command-line words and RAM; `virtio-blk-pci` with
//! `cache=writeback` (buffered, flushes passed on, as Antipode does), `virtio-net-pci` on the same TAP with
//! `vhost=off` and no option ROM, `virtio-rng-pci`, the serial port on standard output.

use super::guest;
use serde::Serialize;

/// Where the guest's files lie in a host.
pub(super) const KERNEL: &str = "/root/vmlinuz";
/// The initrd.
pub(super) const INITRD: &str = "/root/initrd";
/// The disk: in memory, so that the device is measured and not the host's emulated disk.
pub(super) const DISK: &str = "/tmp/disk";
/// The disk with QEMU on it.
pub(super) const QEMU_DISK: &str = "/dev/vda";
/// Antipode's configuration.
pub(super) const CONFIG: &str = "/root/vm.toml";
/// The TAP.
pub(super) const TAP: &str = "tap0";

const MAC: &str = "02:a0:00:00:09:0a";

/// Who runs the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Contestant {
    /// `antipode run`.
    Antipode,
    /// `qemu-system-x86_64 -accel kvm`.
    Qemu,
}

impl Contestant {
    /// The name in results.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Antipode => "antipode",
            Self::Qemu => "qemu",
        }
    }

    /// The command that becomes the machine's process.
    pub(super) fn command(self, command_line: &str) -> String {
        match self {
            Self::Antipode => format!("antipode run --json --config {CONFIG}"),
            Self::Qemu => {
                let memory = guest::MEMORY_MIB;
                format!(
                    "lab-chroot {QEMU_DISK} qemu-system-x86_64 -nodefaults -no-user-config -no-reboot -display none \
                     -machine pc -accel kvm -cpu host -smp 1 -m {memory}M -kernel {KERNEL} -initrd {INITRD} \
                     -append '{command_line}' -serial stdio \
                     -drive if=none,id=disk,format=raw,cache=writeback,file={DISK} \
                     -device virtio-blk-pci,drive=disk \
                     -netdev tap,id=net,ifname={TAP},script=no,downscript=no,vhost=off \
                     -device virtio-net-pci,netdev=net,mac={MAC},romfile= -device virtio-rng-pci"
                )
            }
        }
    }
}

/// Antipode's configuration file.
pub(super) fn antipode_config(command_line: &str) -> String {
    format!(
        "name = \"bench\"\nmemory_mib = {memory}\n\n\
         [kernel]\npath = \"{KERNEL}\"\ninitrd = \"{INITRD}\"\ncmdline = \"{command_line}\"\n\n\
         [disk]\npath = \"{DISK}\"\n\n[network]\ntap = \"{TAP}\"\nmac = \"{MAC}\"\n\n\
         [console]\nmode = \"output-only\"\n",
        memory = guest::MEMORY_MIB,
    )
}
