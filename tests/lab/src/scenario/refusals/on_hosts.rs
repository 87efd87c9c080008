//! Refusals that take a host of their own.

use super::{Refusal, Seen};
use crate::agent::message::ExitStatus;
use crate::host::Host;
use crate::image::Service;
use crate::scenario::boot::{END_TIMEOUT, READY_TIMEOUT};
use crate::scenario::report::with_run;
use crate::scenario::stage::TAP;
use crate::scenario::{Setup, Stage, StageSpec, VmSettings};
use anyhow::{Context, Result, ensure};

/// What a refused VM must leave as it was: the site's files with their lengths and last changes, but the
/// configurations that the lab writes, and the network interfaces.
const INVENTORY: &str = "stat -c '%n %s %Y' $(ls -d /srv/vm/* | grep -v toml) && ls /sys/class/net";

pub(super) fn play_all(setup: &Setup, seen: &mut Seen) -> Result<()> {
    for play in [without_kvm, beside_another_vm] {
        play(setup, seen)?;
    }
    Ok(())
}

/// A sound VM on a host that has no `/dev/kvm`.
fn without_kvm(setup: &Setup, seen: &mut Seen) -> Result<()> {
    on_site(setup, false, |stage| {
        let before = stage.site().shell(INVENTORY)?;
        expect(
            stage,
            &VmSettings::new(setup),
            Refusal {
                exit_name: "kvm-missing",
                named: "/dev/kvm",
            },
        )?;
        unchanged(stage.site(), &before)
    })
    .context("no /dev/kvm")?;
    seen.refused("kvm-missing", "kvm-missing");
    Ok(())
}

/// A VM that asks for what another one holds. The other one goes on.
fn beside_another_vm(setup: &Setup, seen: &mut Seen) -> Result<()> {
    on_site(setup, true, |stage| {
        let mut first = stage.start(&VmSettings::new(setup))?;
        first.wait_for("antipode-guest: Debian kernel", READY_TIMEOUT)?;
        let second = VmSettings {
            name: "second".to_owned(),
            ..VmSettings::new(setup)
        };
        let locked = Refusal {
            exit_name: "disk-locked",
            named: "disk.img",
        };
        expect(stage, &second, locked).context("the disk of another VM")?;
        let diskless = VmSettings { disk: None, ..second };
        let busy = Refusal {
            exit_name: "tap-refused",
            named: &format!("{TAP} is in use"),
        };
        expect(stage, &diskless, busy).context("the TAP of another VM")?;
        first.wait_for(&Service::Shell.ready_line(), READY_TIMEOUT)?;
        Ok(())
    })?;
    seen.refused("disk-of-another-vm", "disk-locked");
    seen.refused("tap-busy", "tap-refused");
    Ok(())
}

fn on_site(setup: &Setup, kvm: bool, play: impl FnOnce(&Stage) -> Result<()>) -> Result<()> {
    with_run(&setup.materials.lab_directory, "refusal", |run| {
        let spec = StageSpec {
            client: false,
            kvm,
            ..StageSpec::new(setup)
        };
        play(&Stage::open(setup, run, &spec)?)
    })
}

fn expect(stage: &Stage, settings: &VmSettings, refusal: Refusal<'_>) -> Result<()> {
    let end = stage.start(settings)?.wait_end(END_TIMEOUT)?;
    let status = match end.status {
        ExitStatus::Code(code) => Some(code),
        ExitStatus::Signal(_) => None,
    };
    refusal.check(status, &end.console)
}

fn unchanged(site: &Host, before: &str) -> Result<()> {
    let after = site.shell(INVENTORY)?;
    ensure!(
        before == after,
        "something was modified; it was:\n{before}\nand is:\n{after}"
    );
    Ok(())
}
