//! The ordinary client, `apt-get` and `apt-cache`, and the text it answers with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::tool::run;
use super::{Candidate, Error, Result};

/// Where `apt-get update` puts the lists.
const LISTS_DIRECTORY: &str = "/var/lib/apt/lists";

/// A package's stanza, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stanza {
    pub(super) candidate: Candidate,
    /// `Pre-Depends` and `Depends`: for each one that must be met, the names that meet it.
    pub(super) depends: Vec<Vec<String>>,
    /// Names it answers to besides its own.
    pub(super) provides: Vec<String>,
}

/// The client with a private, empty dpkg status and private scratch files, so that it needs no root and its answers do
/// not depend on what this host has installed.
#[derive(Clone, Debug)]
pub(super) struct Apt {
    scratch: PathBuf,
}

impl Apt {
    pub(super) fn new(scratch: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&scratch).map_err(Error::file("create", &scratch))?;
        let status = scratch.join("status");
        std::fs::write(&status, "").map_err(Error::file("write", &status))?;
        Ok(Self { scratch })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let option = |name: &str, path: &Path| format!("{name}={}", path.display());
        command
            .args(["-o", &option("Dir::State::status", &self.scratch.join("status"))])
            .args(["-o", &option("Dir::Cache", &self.scratch)])
            .args(["-o", "APT::Sandbox::User=root"])
            .args(["-o", "APT::Install-Recommends=false"]);
        command
    }

    /// Names and versions that installing `wanted` on an empty machine would bring.
    pub(super) fn simulate_install(&self, wanted: &[&str]) -> Result<Vec<(String, String)>> {
        let mut command = self.command("apt-get");
        command.args(["-qq", "--simulate", "install"]).args(wanted);
        let text = run(&mut command, "apt").map_err(|error| match error {
            Error::Tool { stderr, .. }
                if stderr.contains("Unable to locate")
                    || stderr.contains("has no installation candidate") =>
            {
                Error::UnknownPackage {
                    detail: stderr.trim_start_matches("E: ").to_owned(),
                }
            }
            other => other,
        })?;
        parse_simulation(&String::from_utf8_lossy(&text))
    }

    /// The stanzas of exactly these versions.
    pub(super) fn show(&self, selected: &[(String, String)]) -> Result<Vec<Stanza>> {
        let mut command = self.command("apt-cache");
        command
            .arg("show")
            .args(selected.iter().map(|(name, version)| format!("{name}={version}")));
        let text = run(&mut command, "apt")?;
        parse_stanzas(&String::from_utf8_lossy(&text))
    }

    /// Fetches into `directory`, under the client's own file names.
    pub(super) fn download(&self, candidates: &[&Candidate], directory: &Path) -> Result<()> {
        let names: Vec<String> = candidates
            .iter()
            .map(|one| format!("{}={}", one.name, one.version))
            .collect();
        let mut command = self.command("apt-get");
        command
            .args(["-qq", "download"])
            .args(&names)
            .current_dir(directory);
        run(&mut command, "apt").map(drop).map_err(|error| match error {
            Error::Tool { stderr, .. } => Error::Download {
                package: names.join(" "),
                detail: stderr,
            },
            other => other,
        })
    }
}

/// Names, lengths and times of the package lists: changes whenever the lists do.
pub(super) fn lists_fingerprint() -> Result<String> {
    let directory = Path::new(LISTS_DIRECTORY);
    let none = || Error::NoPackageLists {
        directory: directory.to_owned(),
    };
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(|_| none())? {
        let entry = entry.map_err(Error::file("list", directory))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.contains("_Packages") {
            let metadata = entry.metadata().map_err(Error::file("examine", entry.path()))?;
            let modified = metadata
                .modified()
                .map_err(Error::file("examine", entry.path()))?;
            lines.push(format!("{name} {} {modified:?}", metadata.len()));
        }
    }
    if lines.is_empty() {
        return Err(none());
    }
    lines.sort();
    Ok(lines.join("\n"))
}

/// Reads `Inst name [old] (version origin [architecture])` lines.
fn parse_simulation(text: &str) -> Result<Vec<(String, String)>> {
    let malformed = |line: &str| Error::Malformed {
        source_name: "apt-get --simulate".to_owned(),
        detail: format!("expected `Inst name (version …)`, found `{line}`"),
    };
    text.lines()
        .filter_map(|line| Some((line, line.strip_prefix("Inst ")?)))
        .map(|(line, rest)| {
            let (name, rest) = rest.split_once(' ').ok_or_else(|| malformed(line))?;
            let version = rest
                .split_once('(')
                .and_then(|(_, rest)| rest.split_whitespace().next());
            Ok((
                name.to_owned(),
                version.ok_or_else(|| malformed(line))?.to_owned(),
            ))
        })
        .collect()
}

/// Reads stanzas separated by empty lines. Continuation lines belong to fields that are of no interest here.
fn parse_stanzas(text: &str) -> Result<Vec<Stanza>> {
    text.split("\n\n")
        .filter(|stanza| !stanza.trim().is_empty())
        .map(parse_stanza)
        .collect()
}

fn parse_stanza(text: &str) -> Result<Stanza> {
    let fields: BTreeMap<&str, &str> = text
        .lines()
        .filter(|line| !line.starts_with([' ', '\t']))
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name, value.trim()))
        .collect();
    let field = |name: &str| {
        fields
            .get(name)
            .map(|value| (*value).to_owned())
            .ok_or_else(|| Error::Malformed {
                source_name: "apt-cache show".to_owned(),
                detail: format!("a stanza has no {name}"),
            })
    };
    let list = |name: &str| fields.get(name).copied().unwrap_or_default();
    let depends = [list("Pre-Depends"), list("Depends")];
    Ok(Stanza {
        candidate: Candidate {
            name: field("Package")?,
            version: field("Version")?,
            architecture: field("Architecture")?,
            sha256: field("SHA256")?,
        },
        depends: depends.into_iter().flat_map(parse_relations).collect(),
        provides: parse_relations(list("Provides")).into_iter().flatten().collect(),
    })
}

/// Reads `a (>= 1) | b, c:any` into names. Versions need no check: the client chose the set.
fn parse_relations(text: &str) -> Vec<Vec<String>> {
    let bare = |relation: &str| {
        let name = relation.split_whitespace().next()?;
        Some(name.split_once(':').map_or(name, |(name, _)| name).to_owned())
    };
    text.split(',')
        .map(|alternatives| alternatives.split('|').filter_map(bare).collect::<Vec<_>>())
        .filter(|alternatives| !alternatives.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simulation_gives_names_and_versions_once() {
        let text = "Inst libattr1 (1:2.5.1-4 Debian:12.15/oldstable [amd64])\n\
                    Inst libc6 [2.0] (2.36-9 Debian:12.15/oldstable, Other:1 [amd64]) []\n\
                    Conf libattr1 (1:2.5.1-4 Debian:12.15/oldstable [amd64])\n";
        let expected = [("libattr1", "1:2.5.1-4"), ("libc6", "2.36-9")];
        let expected: Vec<_> = expected
            .map(|(name, version)| (name.to_owned(), version.to_owned()))
            .into();
        assert_eq!(parse_simulation(text).expect("well formed"), expected);
        assert!(parse_simulation("Inst broken\n").is_err());
    }

    #[test]
    fn stanza_keeps_alternatives_and_drops_versions() {
        let text = "Package: a\nVersion: 1\nArchitecture: amd64\nPre-Depends: libc6 (>= 2.36)\n\
                    Depends: x (>= 1) | y, perl:any\nDescription: text\n more: text\nProvides: v (= 2), w\nSHA256: 00\n\n";
        let stanzas = parse_stanzas(text).expect("well formed");
        assert_eq!(stanzas.len(), 1);
        assert_eq!(stanzas[0].depends, [vec!["libc6"], vec!["x", "y"], vec!["perl"]]);
        assert_eq!(stanzas[0].provides, ["v", "w"]);
        assert!(parse_stanzas("Package: a\nVersion: 1\n").is_err());
    }
}
