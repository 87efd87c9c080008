//! A real host: some ten seconds, and on a machine that has never built it a download and a minute of compiling.
//! `cargo test -p antipode-lab -- --ignored host`.

use super::super::spec::{Disk, DiskMode};
use super::*;

const DISK_BYTES: u64 = 16 << 20;

fn boot(materials: &Materials, run: &RunDirectory, disk: &Path) -> Host {
    let mut spec = HostSpec::new("tested");
    spec.disks = vec![Disk {
        path: disk.to_owned(),
        mode: DiskMode::ReadWrite,
    }];
    Host::boot(materials, &spec, run).unwrap()
}

#[test]
#[ignore = "boots two emulated hosts"]
fn a_host_lives_freezes_and_loses_its_power_but_not_its_disk() {
    let materials = Materials::without_antipode().unwrap();
    let run = RunDirectory::create(&materials.lab_directory, "test").unwrap();
    let disk = run.path().join("disk");
    File::create(&disk).unwrap().set_len(DISK_BYTES).unwrap();
    let host = boot(&materials, &run, &disk);
    assert_eq!(
        host.shell("nproc; test -c /dev/kvm; test -c /dev/net/tun; hostname")
            .unwrap(),
        "2\ntested"
    );
    assert!(
        host.shell("echo broken >&2; false")
            .unwrap_err()
            .to_string()
            .contains("broken")
    );

    host.put_bytes(b"kept", "/root/a/file", 0o600).unwrap();
    assert_eq!(host.get("/root/a/file").unwrap(), b"kept");

    let before = host.cpu_seconds().unwrap();
    host.freeze().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(
        host.cpu_seconds().unwrap() - before < 0.2,
        "a frozen host computes"
    );
    host.thaw().unwrap();
    assert!(host.run(&["true"]).unwrap().status.success());

    let system = "mke2fs -F /dev/vda >/dev/null 2>&1; mount /dev/vda /mnt; mkdir -p /mnt/bin; \
        cp /bin/busybox /mnt/bin; umount /mnt; sync";
    host.shell(system).unwrap();
    let mut channel = host.spawn(&["sleep", "1000"]).unwrap();
    host.power_cut();
    assert!(matches!(channel.next(), Err(crate::agent::client::Error::Gone)));

    let host = boot(&materials, &run, &disk);
    assert_eq!(
        host.shell("lab-chroot /dev/vda /bin/busybox ls -d /proc/self")
            .unwrap(),
        "/proc/self"
    );
    drop(host);
    run.finish();
}
