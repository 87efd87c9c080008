//! The tiebreaker's configuration file, from its text to settings that keep their limits.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use antipode_certs::{Name, Paths, TRUST_FILE};
use antipode_tiebreaker::client::Cluster;
use antipode_tiebreaker::limits::{HEARTBEAT_MS, HEARTBEAT_MS_DEFAULT, NODES};
use antipode_tiebreaker::service::{SeatSettings, ServiceSettings};
use toml::de::{DeTable, DeValue};

use crate::base::configuration::{
    ConfigError, ConfigMistake, Mistakes, Section, Wrong, load, understand, values,
};

/// Highest priority that a node may have.
const PRIORITY_MAX: u64 = 100;

/// What a file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Config {
    pub(super) cluster: Name,
    pub(super) seats: BTreeMap<Name, SeatSettings>,
    pub(super) credentials: Paths,
    pub(super) heartbeat_ms: u64,
    /// The node here, if the file describes one.
    pub(super) here: Option<Here>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Here {
    name: Name,
    listen: SocketAddr,
    data: PathBuf,
}

impl Config {
    pub(super) fn load(path: &Path) -> Result<Self, ConfigError> {
        load(path, parse)
    }

    /// The settings of the node here.
    pub(super) fn service(&self) -> Option<ServiceSettings> {
        let Here { name, listen, data } = self.here.clone()?;
        Some(ServiceSettings {
            cluster: self.cluster.clone(),
            name,
            listen,
            data,
            credentials: self.credentials.clone(),
            seats: self.seats.clone(),
            heartbeat_ms: self.heartbeat_ms,
        })
    }

    /// Whom a client asks.
    pub(super) fn to_ask(&self) -> Cluster {
        let nodes = self
            .seats
            .iter()
            .map(|(name, seat)| (name.clone(), seat.address.clone()));
        Cluster {
            name: self.cluster.clone(),
            nodes: nodes.collect(),
        }
    }
}

fn parse(text: &str, folder: &Path) -> Result<Config, Vec<ConfigMistake>> {
    understand(text, |document, mistakes| read(document, folder, mistakes))
}

/// `None` only if a mistake was noted.
fn read(document: &DeTable<'_>, folder: &Path, mistakes: &mut Mistakes<'_>) -> Option<Config> {
    let known = &["cluster", "certificates", "node", "here", "timing"];
    let root = Section::root(document, known, mistakes);
    let cluster = root.required("cluster", "cluster = \"prod\"", mistakes, values::name);
    let seats = read_seats(root, mistakes);
    let credentials = read_credentials(root, folder, mistakes);
    let heartbeat_ms = root
        .subsection("timing", &["heartbeat_ms"], mistakes)
        .and_then(|timing| {
            timing.optional("heartbeat_ms", mistakes, |value| {
                values::number(value, &HEARTBEAT_MS)
            })
        })
        .unwrap_or(HEARTBEAT_MS_DEFAULT);
    let here = root
        .subsection("here", &["name", "listen", "data"], mistakes)
        .map(|section| read_here(section, folder, &seats, mistakes));
    let here = match here {
        None => None,
        Some(found) => Some(found?),
    };
    Some(Config {
        cluster: cluster?,
        seats,
        credentials: credentials?,
        heartbeat_ms,
        here,
    })
}

fn read_seats(root: Section<'_, '_>, mistakes: &mut Mistakes<'_>) -> BTreeMap<Name, SeatSettings> {
    let sections = root.list("node", &["name", "address", "priority"], mistakes);
    if sections.len() != NODES {
        let what = format!("the tiebreaker has {NODES} nodes, here are {}", sections.len());
        let mend = format!("describe {NODES}, each below a line [[node]]");
        sections
            .first()
            .unwrap_or(&root)
            .note(Wrong::new(what, mend), mistakes);
    }
    let mut seats = BTreeMap::new();
    for section in sections {
        let seat = section.required("name", "name = \"north\"", mistakes, values::name);
        let address = section.required(
            "address",
            "address = \"north.example.org:7600\"",
            mistakes,
            values::address,
        );
        let range = 0..=PRIORITY_MAX;
        let priority = section.optional("priority", mistakes, |value| values::number(value, &range));
        let (Some(seat), Some(address)) = (seat, address) else {
            continue;
        };
        let settings = SeatSettings {
            address,
            priority: priority.map_or(0, |priority| u32::try_from(priority).unwrap_or(u32::MAX)),
        };
        let twice = seats
            .values()
            .any(|other: &SeatSettings| other.address == settings.address);
        if twice || seats.insert(seat.clone(), settings).is_some() {
            let what = format!("node {seat} has the name or the address of another");
            section.note(
                Wrong::new(what, "give each node its own name and address"),
                mistakes,
            );
        }
    }
    seats
}

fn read_credentials(root: Section<'_, '_>, folder: &Path, mistakes: &mut Mistakes<'_>) -> Option<Paths> {
    let example = "credentials = \"tiebreaker-north.pem\" below a line [certificates]";
    let Some(section) = root.subsection("certificates", &["credentials", "trust"], mistakes) else {
        // A section that is there but is none has been noted already; one that is absent is noted here.
        root.required("certificates", example, mistakes, |_| Ok(()));
        return None;
    };
    let path = |value: &DeValue<'_>| values::path(value, folder);
    let credentials = section.required(
        "credentials",
        "credentials = \"tiebreaker-north.pem\"",
        mistakes,
        path,
    )?;
    let trust = section.optional("trust", mistakes, path);
    Some(Paths {
        trust: trust.unwrap_or_else(|| credentials.with_file_name(TRUST_FILE)),
        credentials,
    })
}

fn read_here(
    section: Section<'_, '_>,
    folder: &Path,
    seats: &BTreeMap<Name, SeatSettings>,
    mistakes: &mut Mistakes<'_>,
) -> Option<Here> {
    let among = |value: &DeValue<'_>| {
        let found = values::name(value)?;
        if seats.is_empty() || seats.contains_key(&found) {
            return Ok(found);
        }
        let names: Vec<&str> = seats.keys().map(Name::as_str).collect();
        let what = format!("{:?} is none of the nodes", found.as_str());
        Err(Wrong::new(what, format!("name one of {}", names.join(", "))))
    };
    let name = section.required("name", "name = \"north\"", mistakes, among);
    let listen = section.required("listen", "listen = \"0.0.0.0:7600\"", mistakes, values::listen);
    let example = "data = \"/var/lib/antipode/tiebreaker\"";
    let data = section.required("data", example, mistakes, |value| values::path(value, folder));
    Some(Here {
        name: name?,
        listen: listen?,
        data: data?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sample that docs/tiebreaker.md shows.
    fn sample() -> &'static str {
        let page = include_str!("../../../docs/tiebreaker.md");
        let (_, rest) = page.split_once("```toml\n").unwrap();
        rest.split_once("```").unwrap().0
    }

    #[test]
    fn the_sample_of_the_page_is_understood() {
        let config = parse(sample(), Path::new("/etc/antipode")).unwrap();
        assert_eq!(config.seats.len(), NODES);
        let service = config.service().unwrap();
        assert!(config.seats.contains_key(&service.name));
        assert!(service.credentials.trust.ends_with(TRUST_FILE));
        assert_eq!(service.heartbeat_ms, HEARTBEAT_MS_DEFAULT);
        assert_eq!(config.to_ask().nodes.len(), NODES);
    }

    #[test]
    fn every_mistake_is_told_with_its_line() {
        let text = "cluster = \"Prod\"\ncolour = 1\n[certificates]\ncredentials = 3\n[[node]]\nname = \"a\"\n\
                    address = \"a\"\n[[node]]\nname = \"b\"\naddress = \"h:7600\"\npriority = 101\n\
                    [here]\nname = \"c\"\nlisten = \"all\"\n[timing]\nheartbeat_ms = 1\n";
        let mistakes = parse(text, Path::new("")).unwrap_err();
        let told: Vec<(usize, &str)> = mistakes
            .iter()
            .map(|mistake| (mistake.line, mistake.what.as_str()))
            .collect();
        let expected = [
            (1, "cluster \"Prod\" is no name"),
            (2, "unknown key \"colour\""),
            (4, "credentials must be a string, here it is a whole number"),
            (5, "the tiebreaker has 3 nodes, here are 2"),
            (7, "address \"a\" is no host with a port"),
            (11, "priority is 101, which is out of range"),
            (12, "data is missing in [here]"),
            (13, "name \"c\" is none of the nodes"),
            (14, "listen is no address to listen on"),
            (16, "heartbeat_ms is 1, which is out of range"),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn two_nodes_of_one_name_or_address_are_refused() {
        for twin in [
            "name = \"north\"\naddress = \"x:1\"",
            "name = \"x\"\naddress = \"north.example.org:7600\"",
        ] {
            let text = sample().replace("name = \"west\"\naddress = \"west.example.org:7600\"", twin);
            assert_ne!(text, sample());
            let mistakes = parse(&text, Path::new("")).unwrap_err();
            assert!(mistakes[0].what.contains("of another"), "{mistakes:?}");
        }
    }

    #[test]
    fn a_file_of_nothing_misses_everything() {
        let mistakes = parse("", Path::new("")).unwrap_err();
        let told: Vec<&str> = mistakes.iter().map(|mistake| mistake.what.as_str()).collect();
        assert_eq!(
            told,
            [
                "cluster is missing",
                "the tiebreaker has 3 nodes, here are 0",
                "certificates is missing"
            ]
        );
        assert!(parse("node = 3\n", Path::new("")).is_err());
        assert!(parse("node = [3]\n", Path::new("")).is_err());
    }
}
