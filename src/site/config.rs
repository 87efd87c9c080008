//! The configuration of a site.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use antipode_certs::{Name, Paths, TRUST_FILE};
use antipode_tiebreaker::client::Cluster;
use toml::de::{DeTable, DeValue};

use crate::base::configuration::{
    ConfigError, ConfigMistake, Mistakes, Section, Wrong, load, understand, values,
};
use crate::machine::probe::TRAITS;
use crate::protocol::limits::FAILURE_TIMEOUT_FLOOR;

/// The least and the most that the failure timeout's floor may be, in milliseconds.
const FLOOR_MS: RangeInclusive<u64> = 50..=60_000;
/// The least and the most that may be kept of a guest's frames, in MiB.
const KEEP_FRAMES_MIB: RangeInclusive<u64> = 1..=1_024;
/// The shortest and the longest time between two comparisons of a VM's disks, in hours.
const VERIFY_HOURS: RangeInclusive<u64> = 1..=8_760;
/// How seldom a copy may be led astray, in exits: it must come to be the same again in between.
const LEAD_ASTRAY_EXITS: RangeInclusive<u64> = 100..=1_000_000_000;
/// How many differences of each copy may be kept.
const KEEP_DIFFERENCES: RangeInclusive<u64> = 1..=100;
/// How long a guest that computes may be left alone, in milliseconds.
const PREEMPT_AFTER_MS: RangeInclusive<u64> = 1..=1_000;
/// Nodes of a tiebreaker.
const NODES: usize = 3;

/// What a file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteConfig {
    /// Whom this site proves to be.
    pub credentials: Paths,
    /// Where the other site's supervisor reaches this one.
    pub listen: SocketAddr,
    /// Where VMs' definitions, control sockets and notes are.
    pub state: PathBuf,
    /// Ports of VM processes, TCP and UDP.
    pub vm_ports: RangeInclusive<u16>,
    /// The other site.
    pub peer: Name,
    /// Where its supervisor is reached, as `host:port`.
    pub peer_address: String,
    /// In what its hosts may differ from this one's, by words of [`TRAITS`].
    pub allowed_differences: Vec<String>,
    /// The tiebreaker.
    pub tiebreaker: Cluster,
    /// No silence below this is a failure.
    pub failure_timeout_floor: Duration,
    /// Whether a VM that has lost its backup is protected again by itself.
    pub protects_again: bool,
    /// How much is kept of the frames that each guest puts out, for whoever checks two sites; nothing as a rule.
    pub keep_frames_bytes: Option<u64>,
    /// In what each copy here was found to differ is kept so often, for whoever looks into it; never as a rule.
    pub keep_differences: Option<u64>,
    /// How often the disks of a protected VM are compared by themselves; never as a rule.
    pub verify_every: Option<Duration>,
    /// Each copy here is led astray once in so many exits, for whoever checks that it is repaired; never as a rule.
    pub lead_astray_every: Option<u64>,
    /// Each guest that computes is left alone for so long before it is stopped to be told of, for whoever measures what that
    /// costs; as a rule for as long as it is worth.
    pub preempt_after: Option<Duration>,
}

impl SiteConfig {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// [`ConfigError`], with every mistake.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        load(path, parse)
    }

    /// The host of the other site.
    #[must_use]
    pub fn peer_host(&self) -> &str {
        self.peer_address.rsplit_once(':').map_or("", |(host, _)| host)
    }
}

fn parse(text: &str, folder: &Path) -> Result<SiteConfig, Vec<ConfigMistake>> {
    understand(text, |document, mistakes| read(document, folder, mistakes))
}

/// `None` only if a mistake was noted.
fn read(document: &DeTable<'_>, folder: &Path, mistakes: &mut Mistakes<'_>) -> Option<SiteConfig> {
    let known = &["certificates", "site", "peer", "tiebreaker", "failure", "check"];
    let root = Section::root(document, known, mistakes);
    let path = |value: &DeValue<'_>| values::path(value, folder);
    let credentials = section(root, "certificates", &["credentials", "trust"], mistakes).map(|section| {
        let credentials = section.required("credentials", "credentials = \"site-east.pem\"", mistakes, path);
        let trust = section.optional("trust", mistakes, path);
        credentials.map(|credentials| Paths {
            trust: trust.unwrap_or_else(|| credentials.with_file_name(TRUST_FILE)),
            credentials,
        })
    });
    let here = section(root, "site", &["listen", "state", "vm_ports"], mistakes).map(|section| {
        (
            section.required("listen", "listen = \"0.0.0.0:7400\"", mistakes, values::listen),
            section.required("state", "state = \"/var/lib/antipode/site\"", mistakes, path),
            section.required("vm_ports", "vm_ports = \"7410-7499\"", mistakes, ports),
        )
    });
    let peer = section(root, "peer", &["name", "address", "allow_different"], mistakes).map(|section| {
        (
            section.required("name", "name = \"west\"", mistakes, values::name),
            section.required(
                "address",
                "address = \"west.example.org:7400\"",
                mistakes,
                values::address,
            ),
            section.optional("allow_different", mistakes, traits),
        )
    });
    let tiebreaker = section(root, "tiebreaker", &["cluster", "node"], mistakes)
        .and_then(|section| read_cluster(section, mistakes));
    let failure = root.subsection("failure", &["timeout_floor_ms", "protect_again"], mistakes);
    let floor = failure.and_then(|section| {
        section.optional("timeout_floor_ms", mistakes, |value| {
            values::number(value, &FLOOR_MS)
        })
    });
    let protects_again =
        failure.and_then(|section| section.optional("protect_again", mistakes, values::boolean));
    let checks = read_checks(root, mistakes);
    let (listen, state, vm_ports) = here?;
    let (peer, peer_address, allowed_differences) = peer?;
    Some(SiteConfig {
        credentials: credentials??,
        listen: listen?,
        state: state?,
        vm_ports: vm_ports?,
        peer: peer?,
        peer_address: peer_address?,
        allowed_differences: allowed_differences.unwrap_or_default(),
        tiebreaker: tiebreaker?,
        failure_timeout_floor: floor.map_or(FAILURE_TIMEOUT_FLOOR, Duration::from_millis),
        protects_again: protects_again.unwrap_or(true),
        keep_frames_bytes: checks.keep_frames_mib.map(|mebibytes| mebibytes << 20),
        keep_differences: checks.keep_differences,
        verify_every: checks
            .verify_every_hours
            .map(|hours| Duration::from_secs(hours * 3600)),
        lead_astray_every: checks.lead_astray_every_exits,
        preempt_after: checks.preempt_after_ms.map(Duration::from_millis),
    })
}

/// What is for whoever takes nobody's word; each of it is off unless it is there.
struct Checks {
    keep_frames_mib: Option<u64>,
    keep_differences: Option<u64>,
    verify_every_hours: Option<u64>,
    lead_astray_every_exits: Option<u64>,
    preempt_after_ms: Option<u64>,
}

fn read_checks(root: Section<'_, '_>, mistakes: &mut Mistakes<'_>) -> Checks {
    let keys = [
        "keep_frames_mib",
        "keep_differences",
        "verify_every_hours",
        "lead_astray_every_exits",
        "preempt_after_ms",
    ];
    let check = root.subsection("check", &keys, mistakes);
    let mut number = |key: &'static str, range: &RangeInclusive<u64>| {
        check.and_then(|section| section.optional(key, mistakes, |value| values::number(value, range)))
    };
    Checks {
        keep_frames_mib: number("keep_frames_mib", &KEEP_FRAMES_MIB),
        keep_differences: number("keep_differences", &KEEP_DIFFERENCES),
        verify_every_hours: number("verify_every_hours", &VERIFY_HOURS),
        lead_astray_every_exits: number("lead_astray_every_exits", &LEAD_ASTRAY_EXITS),
        preempt_after_ms: number("preempt_after_ms", &PREEMPT_AFTER_MS),
    }
}

/// A section that must be there.
fn section<'a, 'i>(
    root: Section<'a, 'i>,
    name: &'static str,
    known: &[&'static str],
    mistakes: &mut Mistakes<'_>,
) -> Option<Section<'a, 'i>> {
    let found = root.subsection(name, known, mistakes);
    if found.is_none() {
        // One that is there but is none has been noted already; one that is absent is noted here.
        root.required(
            name,
            "its lines below a line with its name in brackets",
            mistakes,
            |_| Ok(()),
        );
    }
    found
}

fn read_cluster(section: Section<'_, '_>, mistakes: &mut Mistakes<'_>) -> Option<Cluster> {
    let name = section.required("cluster", "cluster = \"prod\"", mistakes, values::name);
    let nodes = section.list("node", &["name", "address"], mistakes);
    if nodes.len() != NODES {
        let what = format!("the tiebreaker has {NODES} nodes, here are {}", nodes.len());
        let mend = format!("name {NODES}, each below a line [[tiebreaker.node]]");
        section.note(Wrong::new(what, mend), mistakes);
    }
    let nodes = nodes.into_iter().filter_map(|node| {
        let name = node.required("name", "name = \"north\"", mistakes, values::name);
        let address = node.required(
            "address",
            "address = \"north.example.org:7600\"",
            mistakes,
            values::address,
        );
        name.zip(address)
    });
    let nodes = nodes.collect();
    Some(Cluster { name: name?, nodes })
}

/// Words of [`TRAITS`], with commas between them.
fn traits(value: &DeValue<'_>) -> Result<Vec<String>, Wrong> {
    let words = values::text(value)?.split(',').map(str::trim);
    let known = |word: &str| {
        let wrong = || {
            Wrong::new(
                format!("{word:?} is nothing that hosts are compared by"),
                format!("choose of {}", TRAITS.join(", ")),
            )
        };
        TRAITS.contains(&word).then(|| word.to_owned()).ok_or_else(wrong)
    };
    words.filter(|word| !word.is_empty()).map(known).collect()
}

/// Two ports a VM at least, both ends of the range included.
fn ports(value: &DeValue<'_>) -> Result<RangeInclusive<u16>, Wrong> {
    let word = values::text(value)?;
    let range = word.split_once('-').and_then(|(first, last)| {
        let (first, last) = (
            first.trim().parse::<u16>().ok()?,
            last.trim().parse::<u16>().ok()?,
        );
        (first > 0 && first < last).then_some(first..=last)
    });
    range.ok_or_else(|| {
        Wrong::new(
            format!("{word:?} is no range of ports"),
            "write two ports for each VM, such as 7410-7499",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sample that docs/site.md shows.
    fn sample() -> &'static str {
        let page = include_str!("../../docs/site.md");
        let (_, rest) = page.split_once("```toml\n").unwrap();
        rest.split_once("```").unwrap().0
    }

    #[test]
    fn the_sample_of_the_page_is_understood() {
        let config = parse(sample(), Path::new("/etc/antipode")).unwrap();
        assert_eq!(config.tiebreaker.nodes.len(), NODES);
        assert_eq!(config.peer_host(), "west.example.org");
        assert!(config.credentials.trust.ends_with(TRUST_FILE));
        assert_eq!(config.vm_ports, 7410..=7499);
        assert_eq!(config.allowed_differences, ["microcode"]);
        assert!(config.protects_again);
        assert_eq!(
            config.keep_frames_bytes, None,
            "traffic is kept only where that is asked for"
        );
        let checked = format!(
            "{}\n[check]\nkeep_frames_mib = 64\nkeep_differences = 3\nverify_every_hours = 24\nlead_astray_every_exits = 5000\npreempt_after_ms = 4\n",
            sample()
        );
        let config = parse(&checked, Path::new("")).unwrap();
        assert_eq!(config.keep_frames_bytes, Some(64 << 20));
        assert_eq!(config.keep_differences, Some(3));
        assert_eq!(config.verify_every, Some(Duration::from_secs(86_400)));
        assert_eq!(config.lead_astray_every, Some(5000));
        assert_eq!(config.preempt_after, Some(Duration::from_millis(4)));
    }

    #[test]
    fn every_mistake_is_told_with_its_line() {
        let text = "[certificates]\ncredentials = 3\n[site]\nlisten = \"all\"\nvm_ports = \"9-8\"\n\
                    [peer]\nname = \"West\"\naddress = \"west\"\nallow_different = \"cpu, moon\"\n[failure]\ntimeout_floor_ms = 1\nprotect_again = 1\n\
                    [check]\nkeep_frames_mib = 0\nkeep_differences = 0\nverify_every_hours = 0\nlead_astray_every_exits = 9\npreempt_after_ms = 0\n";
        let told: Vec<(usize, String)> = parse(text, Path::new(""))
            .unwrap_err()
            .into_iter()
            .map(|mistake| (mistake.line, mistake.what))
            .collect();
        let expected = [
            (1, "tiebreaker is missing"),
            (2, "credentials must be a string, here it is a whole number"),
            (3, "state is missing in [site]"),
            (4, "listen is no address to listen on"),
            (5, "vm_ports \"9-8\" is no range of ports"),
            (7, "name \"West\" is no name"),
            (8, "address \"west\" is no host with a port"),
            (
                9,
                "allow_different \"moon\" is nothing that hosts are compared by",
            ),
            (11, "timeout_floor_ms is 1, which is out of range"),
            (
                12,
                "protect_again must be true or false, here it is a whole number",
            ),
            (14, "keep_frames_mib is 0, which is out of range"),
            (15, "keep_differences is 0, which is out of range"),
            (16, "verify_every_hours is 0, which is out of range"),
            (17, "lead_astray_every_exits is 9, which is out of range"),
            (18, "preempt_after_ms is 0, which is out of range"),
        ];
        assert_eq!(told, expected.map(|(line, what)| (line, what.to_owned())));
    }
}
