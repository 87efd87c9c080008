//! `cargo lab check-hosts`: that emulated hosts do what every scenario relies on, and how long one takes to boot.

use super::{Disk, DiskMode, Host, HostSpec, Materials, RunDirectory};
use anyhow::{Result, ensure};
use serde_json::json;
use std::fs::File;
use std::path::Path;
use std::thread;
use std::time::Duration;

const DISK_BYTES: u64 = 16 << 20;

/// How long the host is kept frozen, and how much of that it may compute.
const FREEZE: Duration = Duration::from_millis(500);
const FROZEN_CPU_SECONDS_MAX: f64 = 0.2;

/// Check that emulated hosts boot, obey, freeze, and lose their power but not their disks
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

/// Boots one host, uses it, cuts its power and boots another on the same disk.
///
/// # Errors
/// What a host did not do; its logs are then kept.
pub fn run(args: &Args) -> Result<()> {
    let materials = Materials::without_antipode()?;
    let run = RunDirectory::create(&materials.lab_directory, "check")?;
    let disk = run.path().join("disk");
    File::create(&disk)?.set_len(DISK_BYTES)?;
    let host = boot(&materials, &run, &disk)?;
    let first = host.boot_time();
    obeys(&host)?;
    freezes(&host)?;
    loses_its_power(host)?;
    let host = boot(&materials, &run, &disk)?;
    let second = host.boot_time();
    let seen = host.shell("lab-chroot /dev/vda /bin/busybox ls -d /proc/self")?;
    ensure!(
        seen == "/proc/self",
        "in the system on the disk, ls printed {seen:?}"
    );
    host.power_cut();
    run.finish();
    let boot_s = first.min(second).as_secs_f64();
    if args.json {
        println!("{}", json!({ "ok": true, "boot_s": boot_s }));
    } else {
        println!("Hosts boot (the faster of two in {boot_s:.1} s), obey, freeze and keep their disks.");
    }
    Ok(())
}

fn boot(materials: &Materials, run: &RunDirectory, disk: &Path) -> Result<Host> {
    let mut spec = HostSpec::new("checked");
    spec.disks = vec![Disk {
        path: disk.to_owned(),
        mode: DiskMode::ReadWrite,
    }];
    Ok(Host::boot(materials, &spec, run)?)
}

fn obeys(host: &Host) -> Result<()> {
    let seen = host.shell("nproc; test -c /dev/kvm; test -c /dev/net/tun; hostname")?;
    ensure!(
        seen == "1\nchecked",
        "one processor, KVM, TUN and a name were expected, not {seen:?}"
    );
    let failed = host
        .shell("echo broken >&2; false")
        .map_or_else(|error| error.to_string(), |_| String::new());
    ensure!(
        failed.contains("broken"),
        "a failing command was reported as {failed:?}"
    );
    host.put_bytes(b"kept", "/root/a/file", 0o600)?;
    ensure!(host.get("/root/a/file")? == b"kept", "a file came back changed");
    Ok(())
}

fn freezes(host: &Host) -> Result<()> {
    host.freeze()?;
    let before = host.cpu_seconds()?;
    thread::sleep(FREEZE);
    let used = host.cpu_seconds()? - before;
    host.thaw()?;
    ensure!(
        used < FROZEN_CPU_SECONDS_MAX,
        "a frozen host computed for {used} s"
    );
    ensure!(
        host.run(&["true"])?.status.success(),
        "a thawed host does not run `true`"
    );
    Ok(())
}

fn loses_its_power(host: Host) -> Result<()> {
    host.shell(
        "mke2fs -F /dev/vda > /dev/null 2>&1; mount /dev/vda /mnt; mkdir -p /mnt/bin; \
         cp /bin/busybox /mnt/bin; umount /mnt; sync",
    )?;
    let mut sleeper = host.spawn(&["sleep", "1000"])?;
    host.power_cut();
    ensure!(sleeper.next().is_err(), "a program went on without power");
    Ok(())
}
