//! What the switch, the tiebreaker's record and the disks say, whatever the sites say themselves.

use super::product::kill_all;
use super::site::Site;
use super::{STATE, Sites};
use crate::host::Host;
use crate::judge::frames::sightings;
use crate::judge::live::{Judgement, Winner, judge};
use crate::judge::made::Made;
use crate::judge::replicas;
use crate::scenario::stage::GUEST_MAC;
use crate::scenario::store;
use crate::switch::capture;
use crate::switch::control::Command;
use crate::tiebreaker::town::{self, Town};
use antipode_certs::Role;
use antipode_tiebreaker::client::Client;
use antipode_tiebreaker::{Flush, Generation, HistoryEntry, Operation, Record, Request, RequestId, State};
use anyhow::{Context, Result, anyhow, bail};
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::sync::{MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, UNIX_EPOCH};
use tokio::runtime::{Builder, Runtime};

/// How long a tiebreaker that works may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often replicas are compared while both are in use, and what lies between: what a guest writes by itself comes to rest.
const COMPARISONS: u32 = 8;
const COMPARE_AGAIN: Duration = Duration::from_secs(2);

/// The operation after which the other site of the pairing is the live one.
const TURNS_ROUND: &str = "swap";

/// Operations after which the site that asked for them is the live one.
const LIVE_AFTER: &[&str] = &["register", "claim", "pair", "cancel_pair", "cold_start"];

/// Who asks the tiebreaker.
pub(super) struct Witness {
    client: Client,
    runtime: Runtime,
}

impl Witness {
    pub(super) fn new(town: &Town) -> Result<Self> {
        Ok(Self {
            client: town.client("operator/lab")?,
            runtime: Builder::new_current_thread().enable_all().build()?,
        })
    }
}

/// Frames that are being captured where the sites meet the clients.
pub(crate) struct Capture {
    file: PathBuf,
    /// Who was granted to be live until that was last noted.
    noted: Vec<Site>,
    /// Who was live then.
    before: Standing,
}

/// Who was live at some moment, and in which generation, by the tiebreaker's record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing(Option<(Site, Generation)>);

impl Sites<'_> {
    /// Captures from now on what the sites send to clients.
    pub(crate) fn start_capture(&self, name: &str) -> Result<Capture> {
        let file = self.run.path().join(format!("{name}.pcapng"));
        let ports = Site::ALL.map(|site| site.lan_port().to_owned());
        self.cluster.switch.client()?.send(&Command::CaptureStart {
            file: file.clone(),
            ports: Some(ports.into()),
        })?;
        let before = self.standing()?;
        Ok(Capture {
            file,
            noted: Vec::new(),
            before,
        })
    }

    /// Who is live now.
    pub(crate) fn standing(&self) -> Result<Standing> {
        Ok(Standing(self.record()?.as_ref().and_then(standing_of)))
    }

    /// Notes who was granted to be live since that was last noted: a record's history tells of its last few moves alone.
    pub(crate) fn note_granted(&self, capture: &mut Capture) -> Result<()> {
        let record = self.known_record()?;
        capture.noted.extend(granted(&record, capture.before.0));
        capture.noted.dedup();
        capture.before = Standing(standing_of(&record));
        Ok(())
    }

    /// The sites that were granted to be live, in order, from the one that was so `before` on.
    pub(crate) fn granted_since(&self, before: Standing) -> Result<Vec<Site>> {
        Ok(granted(&self.known_record()?, before.0))
    }

    /// Ends the capture and judges it by what the tiebreaker has granted meanwhile, from the site that was live at its
    /// start on, and by what the site that was granted last has made: `follows_throughout` if it has done so from before
    /// the capture began. The judgement, and who was granted to be live.
    pub(crate) fn judge(
        &self,
        mut capture: Capture,
        follows_throughout: bool,
    ) -> Result<(Judgement, Vec<Site>)> {
        self.stop_capture()?;
        let input = BufReader::new(File::open(&capture.file)?);
        let seen = sightings(&capture::read(input)?, GUEST_MAC);
        self.note_granted(&mut capture)?;
        let granted = capture.noted;
        let ports: Vec<&str> = granted.iter().map(|site| site.lan_port()).collect();
        let winner = *granted.last().context("nobody was granted to be live")?;
        let winner = Winner {
            made: self.made(winner)?,
            follows_throughout,
        };
        Ok((judge(&seen, &ports, winner), granted))
    }

    /// What the VM's guest has made at `site`.
    fn made(&self, site: Site) -> Result<Made> {
        let file = format!("{STATE}/vms/{}/frames", self.vm);
        let host = self.host(site)?;
        // There is none before the first is full.
        let old = host.get(&format!("{file}.old")).ok();
        let last = host.get(&file)?;
        Made::read(old.as_deref(), &last).with_context(|| format!("{site}: {file}"))
    }

    /// Ends a capture that nobody will judge.
    pub(crate) fn stop_capture(&self) -> Result<()> {
        self.cluster.switch.client()?.send(&Command::CaptureStop)?;
        Ok(())
    }

    /// The site that the tiebreaker's record names as the live one.
    pub(crate) fn live_site(&self) -> Result<Site> {
        let live = self.record()?.and_then(|record| live_site(&record.state));
        live.with_context(|| format!("by the tiebreaker's record, no site may be live with {}", self.vm))
    }

    /// Whether the tiebreaker's record says that the VM is in lockstep.
    pub(crate) fn is_paired(&self) -> Result<bool> {
        Ok(matches!(self.known_record()?.state, State::Paired { .. }))
    }

    /// When the guest's flushes are complete, from the next pairing on.
    pub(crate) fn flush_rule(&self) -> Result<Flush> {
        Ok(self.known_record()?.settings.flush)
    }

    /// Sets that, as an operator does.
    pub(crate) fn set_flush_rule(&self, flush: Flush) -> Result<()> {
        let record = self.known_record()?;
        let request = Request {
            id: RequestId(u64::try_from(UNIX_EPOCH.elapsed()?.as_micros())?),
            expected: record.generation,
            operation: Operation::Configure {
                preferred: record.settings.preferred,
                flush,
            },
            at_unix_seconds: 0,
        };
        let mut witness = self.witness();
        let Witness { client, runtime } = &mut *witness;
        let answer = runtime.block_on(client.change(&self.vm.parse()?, &request, PATIENCE))?;
        answer
            .verdict
            .map_err(|refusal| anyhow!("the rule for flushes cannot be set: {refusal}"))
    }

    /// The generation of the tiebreaker's record.
    pub(crate) fn generation(&self) -> Result<u64> {
        Ok(self.known_record()?.generation.0)
    }

    /// The tiebreaker's node that leads.
    pub(crate) fn tiebreaker_leader(&self) -> Result<usize> {
        let mut witness = self.witness();
        let Witness { client, runtime } = &mut *witness;
        runtime.block_on(town::leader(client, PATIENCE))
    }

    /// The VM's record, which there must be.
    fn known_record(&self) -> Result<Record> {
        let record = self.record()?;
        record.with_context(|| format!("the tiebreaker has no record of {}", self.vm))
    }

    /// The VM's record, if there is one.
    fn record(&self) -> Result<Option<Record>> {
        let mut witness = self.witness();
        let Witness { client, runtime } = &mut *witness;
        Ok(runtime.block_on(client.show(&self.vm.parse()?, PATIENCE))?)
    }

    fn witness(&self) -> MutexGuard<'_, Witness> {
        self.witness.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a site has the VM's definition.
    pub(super) fn definition_at(&self) -> String {
        format!("{STATE}/vms/{}/vm.toml", self.vm)
    }

    /// Where a site's replica lies.
    fn replica_of(&self, site: Site) -> Result<String> {
        let folder = format!("{STATE}/vms/{}", self.vm);
        let definition = self.host(site)?.get(&self.definition_at())?;
        replica_path(&String::from_utf8_lossy(&definition), &folder)
            .with_context(|| format!("{site}: the VM's definition names no disk"))
    }

    /// Changes a byte of a site's replica behind the product's back, far from what the guest writes to.
    pub(crate) fn change_byte(&self, site: Site) -> Result<()> {
        let replica = self.replica_of(site)?;
        let script = format!(
            "at=$(($(stat -c %s {replica}) - 5000)); printf '\\245' | dd of={replica} bs=1 seek=$at conv=notrunc"
        );
        self.host(site)?.shell(&script)?;
        Ok(())
    }

    /// Waits until both sites' replicas hold the same, as their hosts read them while both use them. What a guest writes that nobody
    /// asks for anything is little, and soon at both.
    pub(crate) fn wait_equal_replicas(&self) -> Result<()> {
        let mut found = Default::default();
        for _ in 0..COMPARISONS {
            found = self.on_both(|site, host| replica_sum(host, &self.replica_of(site)?))?;
            if found[0] == found[1] {
                return Ok(());
            }
            thread::sleep(COMPARE_AGAIN);
        }
        bail!("nobody writes, and the replicas differ: {found:?}")
    }

    /// Leaves in which the two sites' replicas differ. Everything of the product is killed for it, and the disks are
    /// unmounted: what lies on them then is what was flushed or would be found after a crash.
    pub(crate) fn differing_leaves(&mut self) -> Result<u64> {
        let mut copies = Vec::new();
        for site in Site::ALL {
            let replica = self.replica_of(site)?;
            let script = format!(
                "{}; until umount {}; do usleep 100000; done",
                kill_all("antipode "),
                store::DIRECTORY
            );
            self.host(site)?.shell(&script)?;
            self.settle_disk(site)?;
            let copy = self.run.path().join(format!("replica-{site}"));
            let in_store = replica.strip_prefix(store::DIRECTORY).unwrap_or(&replica);
            store::extract(&self.store(site), in_store, &copy)?;
            copies.push(copy);
        }
        Ok(replicas::differing(&copies[0], &copies[1])?)
    }
}

/// Where a site's replica lies, by the definition in the VM's `folder`: where it came with the VM, or where the product
/// has made it.
fn replica_path(definition: &str, folder: &str) -> Option<String> {
    let (_, section) = definition.split_once("[disk]")?;
    let line = section.lines().find_map(|line| line.strip_prefix("path = "))?;
    let path = line.trim_matches(['"', '\'']);
    Some(if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("{folder}/{path}")
    })
}

fn live_site(state: &State) -> Option<Site> {
    match state {
        State::Paired { primary: site, .. } | State::Solo { site, .. } => Site::named(site.as_str()),
        State::Parked { .. } | State::Retired => None,
    }
}

fn standing_of(record: &Record) -> Option<(Site, Generation)> {
    Some((live_site(&record.state)?, record.generation))
}

/// Who was live `before`, and the sites that the record's history has made live since, in order, each once in a row.
fn granted(record: &Record, before: Option<(Site, Generation)>) -> Vec<Site> {
    let since = before.map_or(Generation::NONE, |(_, generation)| generation);
    let live = |entry: &HistoryEntry| {
        if entry.by.role != Role::Site || entry.generation <= since {
            return None;
        }
        let by = Site::named(entry.by.name.as_str())?;
        match entry.operation {
            TURNS_ROUND => Some(by.other()),
            operation => LIVE_AFTER.contains(&operation).then_some(by),
        }
    };
    let mut sites: Vec<Site> = before.map(|(site, _)| site).into_iter().collect();
    sites.extend(record.history.iter().filter_map(live));
    sites.dedup();
    sites
}

/// A sum of all that a replica holds.
fn replica_sum(host: &Host, replica: &str) -> Result<String> {
    let said = host.shell(&format!("md5sum {replica}"))?;
    let sum = said.split_whitespace().next();
    Ok(sum
        .with_context(|| format!("md5sum of {replica} says {said:?}"))?
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use antipode_certs::Identity;
    use antipode_tiebreaker::Boot;

    fn record(changes: &[(&str, &'static str)]) -> Record {
        let site = || "site-a".parse().unwrap();
        let history = changes
            .iter()
            .zip(1..)
            .map(|((by, operation), generation)| HistoryEntry {
                generation: Generation(generation),
                by: Identity::from_uri(&format!("antipode://{by}")).unwrap(),
                operation,
                site: None,
                reason: None,
                at_unix_seconds: 0,
            });
        Record {
            incarnation: antipode_tiebreaker::Incarnation(1),
            generation: Generation(changes.len() as u64),
            state: State::Solo {
                site: site(),
                boot: Some(Boot(1)),
            },
            settings: antipode_tiebreaker::Settings {
                preferred: None,
                flush: Flush::Site,
            },
            history: history.collect(),
            remembered: Vec::new(),
        }
    }

    #[test]
    fn who_may_have_been_live_is_read_from_the_history() {
        let record = record(&[
            ("site/site-a", "register"),
            ("site/site-a", "pair"),
            ("operator/lab", "configure"),
            ("site/site-b", "claim"),
            ("site/site-b", "pair"),
            ("site/site-a", "claim"),
        ]);
        assert_eq!(granted(&record, None), [Site::A, Site::B, Site::A]);
        let late = Some((Site::B, Generation(5)));
        assert_eq!(granted(&record, late), [Site::B, Site::A]);
        let over = Some((Site::A, Generation(6)));
        assert_eq!(granted(&record, over), [Site::A], "what was before is no grant");
    }

    #[test]
    fn a_swap_makes_the_other_site_live() {
        let record = record(&[
            ("site/site-a", "register"),
            ("site/site-a", "pair"),
            ("site/site-a", "swap"),
            ("site/site-b", "swap"),
        ]);
        assert_eq!(granted(&record, None), [Site::A, Site::B, Site::A]);
    }

    #[test]
    fn a_replica_is_where_the_definition_says() {
        let path = |text: &str| replica_path(text, "/state/vms/redis");
        let own = "[kernel]\npath = \"kernel\"\n\n[disk]\npath = \"disk.img\"\n";
        assert_eq!(path(own).unwrap(), "/state/vms/redis/disk.img");
        assert_eq!(
            path("[disk]\npath = \"/srv/vm/disk.img\"\n").unwrap(),
            "/srv/vm/disk.img"
        );
        assert_eq!(path("[kernel]\npath = \"kernel\"\n"), None);
    }

    #[test]
    fn every_operation_that_makes_a_site_live_is_known_by_its_name() {
        for name in LIVE_AFTER.iter().chain([&TURNS_ROUND]) {
            assert!(Operation::NAMES.contains(name), "{name}");
        }
    }
}
