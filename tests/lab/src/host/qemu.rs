//! QEMU's command line for a host. Pure.

use super::spec::{Disk, DiskMode, HostSpec, OUTSIDE_ADDRESS, OUTSIDE_NETWORK};
use crate::agent::PORT_NAME;
use std::ffi::OsString;
use std::path::Path;

/// The emulator.
pub const PROGRAM: &str = "qemu-system-x86_64";

/// Parameters of every host's kernel. The host is not under test: mitigations and self-tests would only slow its
/// emulation, and a panic must end the process (`panic=-1` reboots at once, `-no-reboot` turns that into an end).
///
/// `maxcpus=1` boots on one processor and init brings the others up at the end: the kernel patches its code some
/// thousand times while it boots and loads KVM, and with two processors each patch interrupts the other, which
/// doubles the boot under emulation. `tsc=reliable` takes QEMU's word for the clock, which all its processors share, as
/// the rate that it is told (`clock`); otherwise Linux falls back to a timer chip whose every reading leaves the emulated code.
pub const KERNEL_PARAMETERS: &str = "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off nokaslr \
    cryptomgr.notests apparmor=0 audit=0 random.trust_cpu=on 8250.nr_uarts=1 maxcpus=1 tsc=reliable";

/// Files of one host.
#[derive(Debug, Clone, Copy)]
pub struct Paths<'a> {
    /// The kernel.
    pub kernel: &'a Path,
    /// Its system.
    pub initramfs: &'a Path,
    /// Where its console is written.
    pub console: &'a Path,
    /// Where the lab waits for its agent.
    pub agent: &'a Path,
    /// Where QEMU takes commands of its own (QMP).
    pub monitor: &'a Path,
}

/// The arguments for a host whose time-stamp counter has that rate.
#[must_use]
pub fn arguments(spec: &HostSpec, paths: &Paths<'_>, tsc_khz: u64) -> Vec<OsString> {
    let mut list = Arguments(Vec::new());
    for flag in ["-nodefaults", "-no-user-config", "-no-reboot"] {
        list.flag(flag);
    }
    list.pair("-display", "none");
    list.pair("-name", &spec.name);
    list.pair("-machine", "q35,vmport=off,hpet=on");
    list.pair("-accel", "tcg,thread=multi");
    // Without five-level paging: a page walk of a guest's guest costs the product of both depths, and emulation walks
    // the tables anew after each entry into a guest and each exit.
    list.pair("-cpu", "max,+svm,+npt,-la57");
    list.pair("-smp", &spec.cpus.to_string());
    list.pair("-m", &format!("{}M", spec.memory_mib));
    list.path("-kernel", "", paths.kernel, "");
    list.path("-initrd", "", paths.initramfs, "");
    list.pair(
        "-append",
        &format!(
            "{KERNEL_PARAMETERS} tsc_early_khz={tsc_khz} {}",
            spec.kernel_parameters.join(" ")
        ),
    );
    list.path("-chardev", "file,id=console,path=", paths.console, "");
    list.pair("-serial", "chardev:console");
    list.path("-qmp", "unix:", paths.monitor, ",server=on,wait=off");
    list.path("-chardev", "socket,id=agent,path=", paths.agent, "");
    list.pair("-device", "virtio-serial-pci");
    list.pair(
        "-device",
        &format!("virtserialport,chardev=agent,name={PORT_NAME}"),
    );
    for (index, disk) in spec.disks.iter().enumerate() {
        list.disk(index, disk);
    }
    for (index, nic) in spec.nics.iter().enumerate() {
        let start = format!("stream,id=net{index},server=off,addr.type=unix,addr.path=");
        list.path("-netdev", &start, &nic.socket, "");
        let [a, b, c, d, e, f] = nic.mac;
        let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
        // No option ROM: nothing boots from the network, and loading it costs a tenth of a second.
        list.pair(
            "-device",
            &format!("virtio-net-pci,netdev=net{index},mac={mac},romfile="),
        );
    }
    if spec.outside {
        list.pair(
            "-netdev",
            &format!("user,id=outside,ipv6=off,net={OUTSIDE_NETWORK},host={OUTSIDE_ADDRESS}"),
        );
        list.pair("-device", "virtio-net-pci,netdev=outside,romfile=");
    }
    list.0
}

struct Arguments(Vec<OsString>);

impl Arguments {
    fn flag(&mut self, flag: &str) {
        self.0.push(flag.into());
    }

    fn pair(&mut self, name: &str, value: &str) {
        self.0.extend([name.into(), value.into()]);
    }

    /// A value with a path in it. In QEMU's option lists a comma in a path is doubled.
    fn path(&mut self, name: &str, before: &str, path: &Path, after: &str) {
        let text = path.to_string_lossy();
        let text = if before.is_empty() {
            text.into_owned()
        } else {
            text.replace(',', ",,")
        };
        self.pair(name, &format!("{before}{text}{after}"));
    }

    fn disk(&mut self, index: usize, disk: &Disk) {
        let source = match disk.mode {
            DiskMode::ReadWrite => "file=",
            DiskMode::Snapshot => "snapshot=on,file=",
            DiskMode::ReadOnly => "read-only=on,file=",
            DiskMode::Served => "file.driver=nbd,file.server.type=unix,file.server.path=",
        };
        // The named throttle-free defaults keep guest flushes honest: writeback with flushes passed on.
        let start = format!("if=none,id=disk{index},format=raw,cache=writeback,{source}");
        self.path("-drive", &start, &disk.path, "");
        self.pair("-device", &format!("virtio-blk-pci,drive=disk{index}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Nic;

    #[test]
    fn cards_disks_and_odd_paths_are_told_to_qemu() {
        let mut spec = HostSpec::new("site-a");
        let mac = [2, 0, 0, 0, 0, 0x1f];
        spec.nics = vec![Nic {
            socket: "/run/a,b".into(),
            mac,
            address: None,
        }];
        let disk = |path: &str, mode| Disk {
            path: path.into(),
            mode,
        };
        spec.disks = vec![disk("/d", DiskMode::Snapshot), disk("/s,d", DiskMode::Served)];
        spec.outside = true;
        let path = Path::new("/x");
        let paths = Paths {
            kernel: path,
            initramfs: path,
            console: path,
            agent: path,
            monitor: path,
        };
        let arguments = arguments(&spec, &paths, 2_600_000);
        let text: Vec<_> = arguments
            .iter()
            .map(|argument| argument.to_string_lossy())
            .collect();
        let text = text.join(" ");
        assert!(text.contains("addr.path=/run/a,,b"), "{text}");
        assert!(text.contains("mac=02:00:00:00:00:1f"), "{text}");
        assert!(text.contains("snapshot=on,file=/d"), "{text}");
        assert!(
            text.contains("file.driver=nbd,file.server.type=unix,file.server.path=/s,,d"),
            "{text}"
        );
        assert!(
            text.contains("host=10.7.0.2 -device virtio-net-pci,netdev=outside"),
            "{text}"
        );
    }
}
