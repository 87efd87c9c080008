//! What is played, in this order: each case begins with what the one before has left.

use super::ends::{Ends, LEAF, SOURCE, SOURCE_ADDRESS, Started, TARGET, exit_code};
use crate::agent::message::ExitStatus;
use crate::debian::run_tool;
use crate::mirror::primary::Outcome;
use crate::scenario::report::seconds;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// What a quick run leaves out.
pub(super) const LONG_CASES: [&str; 2] = ["killed", "power_cut"];

/// Moments, after a sync begins, at which one of its ends is killed.
const KILLED_AFTER_MS: [u64; 4] = [150, 700, 1500, 2500];

/// An end hears of the other one's death from its host's kernel; a busy machine may take this.
const LEARNT_WITHIN: Duration = Duration::from_secs(20);

/// A sync over this line begins to write within a second or two; a busy machine may take this.
const SYNCING_TIMEOUT: Duration = Duration::from_secs(60);

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Each case, and the seconds it took.
    pub(super) cases: BTreeMap<String, f64>,
    /// Moments at which something was killed, cut off or lost its power.
    pub(super) crash_points: u64,
    /// Leaves that differed where they should not, false alarms and differences that were not found.
    pub(super) mismatches: u64,
    /// Sessions that went on where another one was interrupted.
    pub(super) resumed: u64,
    /// Bytes on the line by what must travel: compressed data, and 12 bytes for 64 KiB of image.
    pub(super) wire_ratio: f64,
    /// Bytes that the session after a cut line did not send again.
    pub(super) bytes_not_sent_again: u64,
    /// What came of the disks under a writer.
    pub(super) online: Value,
}

/// Plays every case, or all but the long ones.
pub(super) fn play(ends: &mut Ends<'_>, tally: &mut Tally, is_quick: bool) -> Result<()> {
    type Case = (&'static str, fn(&mut Ends<'_>, &mut Tally) -> Result<()>);
    let cases: [Case; 8] = [
        ("digest", digest),
        ("first_sync", first_sync),
        ("partial", partial),
        ("survivor_crashed", survivor_crashed),
        ("line_cut", line_cut),
        ("killed", killed),
        ("power_cut", power_cut),
        ("busy", busy),
    ];
    let is_played = |(name, _): &Case| !(is_quick && LONG_CASES.contains(name));
    for (name, case) in cases.into_iter().filter(is_played) {
        let begun = Instant::now();
        case(ends, tally).with_context(|| format!("case {name}"))?;
        let took = seconds(begun.elapsed());
        eprintln!("lab: {name}: {took} s");
        tally.cases.insert(name.to_owned(), took);
    }
    ensure!(tally.mismatches == 0, "{} mismatches", tally.mismatches);
    Ok(())
}

/// The digest of a host's disk is what `b3sum` makes of the same bytes here.
fn digest(ends: &mut Ends<'_>, _: &mut Tally) -> Result<()> {
    ends.antipode(
        SOURCE,
        "disk create /dev/vdb --vm web --metadata /srv/disk/a.replica",
    )?;
    ends.antipode(
        TARGET,
        "disk create /dev/vdb --vm web --metadata /srv/disk/b.replica --empty",
    )?;
    let said = ends.antipode(SOURCE, "disk digest /dev/vdb")?;
    let path = ends.disk(SOURCE, "vdb")?;
    let theirs = run_tool(Command::new("b3sum").arg("--no-names").arg(path), "b3sum")?;
    let theirs = String::from_utf8_lossy(&theirs).trim().to_owned();
    ensure!(said["blake3"] == theirs.as_str(), "b3sum says {theirs}: {said}");
    far_looks(ends, &said)
}

/// What the far host's disk is, and where it differs, is told over the line; and a device that is mounted is nobody's.
fn far_looks(ends: &Ends<'_>, ours: &Value) -> Result<()> {
    let serve = "antipode disk serve /dev/vdb --listen 0.0.0.0:7420 --once --cert /etc/site.pem --json";
    let served = || -> Result<Started> {
        let mut service = ends.start(SOURCE, serve)?;
        service.wait_for("listening")?;
        Ok(service)
    };
    let service = served()?;
    let far = format!("disk digest tls://{SOURCE_ADDRESS} --cert /etc/site.pem");
    let told = ends.antipode(TARGET, &far)?;
    ensure!(
        told["blake3"] == ours["blake3"] && told["content"] == ours["content"],
        "{told} from afar, and {ours}"
    );
    service.wait_end()?;
    let service = served()?;
    let line = format!("disk diff /dev/vdb tls://{SOURCE_ADDRESS} --cert /etc/site.pem");
    let found = ends.antipode_ends(TARGET, &line, exit_code("disks-differ")?)?;
    service.wait_end()?;
    let expected = ends.differing("vdb")? * LEAF;
    ensure!(
        number(&found, "differing_bytes") == expected,
        "{expected} bytes differ: {found}"
    );
    ends.antipode_ends(
        SOURCE,
        "disk create /dev/vda --vm web --metadata /srv/disk/mounted.replica",
        exit_code("disk-locked")?,
    )?;
    Ok(())
}

/// Waits for both ends of a session that must end well, checks the disks, and answers with what the source said.
fn finished(ends: &Ends<'_>, (source, target): (Started, Started), tally: &mut Tally) -> Result<Value> {
    let (code, said) = source.end()?;
    ensure!(code == 0, "the source ended with {code}: {said}");
    let (code, theirs) = target.end()?;
    ensure!(code == 0, "the target ended with {code}: {theirs}");
    ensure!(
        said["root"] == theirs["root"],
        "they end with two roots: {said}, {theirs}"
    );
    ensure!(ends.state()? == "clean", "the target is not clean after a sync");
    tally.mismatches += ends.differing("vdb")?;
    Ok(said)
}

fn number(said: &Value, name: &str) -> u64 {
    said[name].as_u64().unwrap_or_default()
}

fn first_sync(ends: &mut Ends<'_>, tally: &mut Tally) -> Result<()> {
    ensure!(
        ends.differing("vdb")? > 0,
        "they are equal before anything was done"
    );
    let said = finished(ends, ends.start_sync()?, tally)?;
    ensure!(said["outcome"] == "full" && said["leaves_sent"] != 0, "{said}");
    let wire = number(&said, "bytes_sent") + number(&said, "bytes_received");
    let leaves = number(&said, "bytes_compared") / LEAF;
    let must = number(&said, "data_bytes_packed") + 12 * leaves;
    #[expect(clippy::cast_precision_loss, reason = "megabytes")]
    let ratio = wire as f64 / must as f64;
    ensure!(ratio <= 1.05, "{wire} bytes on the line for {must}: {said}");
    ensure!(
        number(&said, "data_bytes_packed") < number(&said, "data_bytes") * 9 / 10,
        "words did not compress: {said}"
    );
    tally.wire_ratio = ratio;
    let again = finished(ends, ends.start_sync()?, tally)?;
    ensure!(again["outcome"] == "nothing", "{again}");
    Ok(())
}

/// The source was left alone and written to: only that is compared.
fn partial(ends: &mut Ends<'_>, tally: &mut Tally) -> Result<()> {
    alone(ends, "--leaves 40 --first 100 --seed 2")?;
    let said = finished(ends, ends.start_sync()?, tally)?;
    ensure!(
        said["outcome"] == "partial" && said["leaves_sent"] == 40,
        "{said}"
    );
    ensure!(
        number(&said, "bytes_compared") <= 4 << 20,
        "more than what is marked was compared: {said}"
    );
    Ok(())
}

fn alone(ends: &Ends<'_>, arguments: &str) -> Result<()> {
    ends.mirror(SOURCE, &format!("alone /dev/vdb /srv/disk/a.replica {arguments}"))?;
    Ok(())
}

/// The source was alone and its user was killed: whole extents are unsure, and no more.
fn survivor_crashed(ends: &mut Ends<'_>, tally: &mut Tally) -> Result<()> {
    alone(ends, "--leaves 10 --first 200 --seed 3 --crash")?;
    tally.crash_points += 1;
    let said = finished(ends, ends.start_sync()?, tally)?;
    ensure!(
        said["outcome"] == "partial" && said["leaves_sent"] == 10,
        "{said}"
    );
    ensure!(
        number(&said, "bytes_compared") <= 8 << 20,
        "more than the log was compared: {said}"
    );
    Ok(())
}

/// Makes many leaves differ: all of the disk, zeros included.
fn much(ends: &Ends<'_>, seed: u64) -> Result<()> {
    alone(ends, &format!("--leaves 100000 --seed {seed}"))
}

/// After an interruption the target is its old self, or says that it is being synced; nothing else.
fn interrupted(ends: &Ends<'_>, old: &[u8], tally: &mut Tally) -> Result<()> {
    tally.crash_points += 1;
    let (state, now) = (ends.state()?, fs::read(ends.disk(TARGET, "vdb")?)?);
    match state.as_str() {
        "syncing" => {}
        "clean" if now == old || ends.differing("vdb")? == 0 => {}
        other => {
            eprintln!("lab: the target says {other}, and is neither old nor new");
            tally.mismatches += 1;
        }
    }
    Ok(())
}

/// Waits until the target has begun to be overwritten.
fn wait_for_syncing(ends: &Ends<'_>) -> Result<()> {
    let begun = Instant::now();
    while ends.state()? != "syncing" {
        ensure!(
            begun.elapsed() < SYNCING_TIMEOUT,
            "the target never said that it is being synced"
        );
    }
    Ok(())
}

fn line_cut(ends: &mut Ends<'_>, tally: &mut Tally) -> Result<()> {
    much(ends, 4)?;
    let old = fs::read(ends.disk(TARGET, "vdb")?)?;
    let (source, target) = ends.start_sync()?;
    // Far enough for data to have arrived.
    wait_for_syncing(ends)?;
    thread::sleep(Duration::from_millis(800));
    ends.cut(true)?;
    let (code, said) = source.end()?;
    ensure!(
        code == exit_code("sync-interrupted")?,
        "over a dead line: {code}: {said}"
    );
    let (code, said) = target.end()?;
    ensure!(
        code == exit_code("sync-interrupted")?,
        "over a dead line: {code}: {said}"
    );
    interrupted(ends, &old, tally)?;
    ensure!(ends.state()? == "syncing", "it had not begun");
    ends.cut(false)?;
    let differing = ends.differing("vdb")?;
    let said = finished(ends, ends.start_sync()?, tally)?;
    ensure!(said["relation"] == "resuming", "{said}");
    ensure!(
        number(&said, "leaves_sent") <= differing,
        "what had arrived was sent again: {said}"
    );
    let leaves = old.len() as u64 / LEAF;
    tally.bytes_not_sent_again = leaves.saturating_sub(number(&said, "leaves_sent")) * LEAF;
    ensure!(
        tally.bytes_not_sent_again > 0,
        "everything was sent again: {said}"
    );
    tally.resumed += 1;
    Ok(())
}

/// Either end is killed, at one moment after the other; what is left is taken up by the next.
fn killed(ends: &mut Ends<'_>, tally: &mut Tally) -> Result<()> {
    for (kills_target, seed) in [(true, 5), (false, 6)] {
        much(ends, seed)?;
        let old = fs::read(ends.disk(TARGET, "vdb")?)?;
        for after in KILLED_AFTER_MS {
            let before = fs::read(ends.disk(TARGET, "vdb")?)?;
            let (source, target) = ends.start_sync()?;
            thread::sleep(Duration::from_millis(after));
            let (victim, mut other) = if kills_target {
                (target, source)
            } else {
                (source, target)
            };
            victim.kill()?;
            match other.end_within(LEARNT_WITHIN)? {
                // It may have ended well a moment before.
                Some(ExitStatus::Code(code)) => {
                    ensure!(
                        code == 0 || code == exit_code("sync-interrupted")?,
                        "the other end: {code}"
                    );
                }
                Some(ExitStatus::Signal(signal)) => bail!("the other end was killed by signal {signal}"),
                None => {
                    // The source was killed before it had connected: the target waits for one.
                    other.kill()?;
                    let now = fs::read(ends.disk(TARGET, "vdb")?)?;
                    ensure!(
                        !kills_target && now == before,
                        "an end did not learn that the other one died"
                    );
                }
            }
            interrupted(ends, &old, tally)?;
        }
        finished(ends, ends.start_sync()?, tally)?;
        tally.resumed += 1;
    }
    Ok(())
}

/// A host loses its power, and with it what its kernel had not flushed.
fn power_cut(ends: &mut Ends<'_>, tally: &mut Tally) -> Result<()> {
    for (victim, seed) in [(TARGET, 7), (SOURCE, 8)] {
        much(ends, seed)?;
        let old = fs::read(ends.disk(TARGET, "vdb")?)?;
        let both = ends.start_sync()?;
        wait_for_syncing(ends)?;
        thread::sleep(Duration::from_millis(500));
        ends.power_cycle(victim)?;
        // The other end hears nothing more. It is not waited for: its own time limit was shown above.
        let (source, target) = both;
        let other = if victim == TARGET { source } else { target };
        other.kill()?;
        interrupted(ends, &old, tally)?;
        finished(ends, ends.start_sync()?, tally)?;
        tally.resumed += 1;
    }
    Ok(())
}

/// Cloned, compared and mended while a guest writes on.
fn busy(ends: &mut Ends<'_>, tally: &mut Tally) -> Result<()> {
    ends.antipode(
        SOURCE,
        "disk create /dev/vdc --vm busy --metadata /srv/disk/c.replica",
    )?;
    ends.antipode(
        TARGET,
        "disk create /dev/vdc --vm busy --metadata /srv/disk/c.replica --empty",
    )?;
    let mut backup = ends.start(
        TARGET,
        "antipode-lab-mirror backup /dev/vdc /srv/disk/c.replica 7421",
    )?;
    backup.wait_for("listening")?;
    let said = ends.mirror(SOURCE, "primary /dev/vdc /srv/disk/c.replica 10.8.0.12:7421")?;
    let outcome: Outcome = serde_json::from_value(said.clone())?;
    tally.mismatches += outcome.false_alarms + (3 - outcome.found) + (3 - outcome.repaired);
    ensure!(
        outcome.stun_bytes <= outcome.stun_bytes_max,
        "more was sent while the guest stood still than fits the stun: {outcome:?}"
    );
    ensure!(
        outcome.writes_while_comparing > 0 && outcome.overtaken > 0,
        "the disk was hardly busy: {outcome:?}"
    );
    ensure!(
        outcome.again >= outcome.overtaken,
        "an old leaf was used over a newer write: {outcome:?}"
    );
    backup.wait_end()?;
    tally.mismatches += ends.differing("vdc")?;
    let state = ends.antipode(TARGET, "disk info /dev/vdc --metadata /srv/disk/c.replica")?;
    ensure!(state["state"] == "clean", "{state}");
    tally.online = said;
    Ok(())
}
