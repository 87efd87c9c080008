//! The package cache in the workspace's `target/lab/`.
//!
//! ```text
//! target/lab/
//!   apt/                     the client's scratch files and its empty dpkg status
//!   resolved/<digest>.json   an answer of the client; the digest covers the question and the package lists
//!   packages/                name_version_architecture.deb
//!   trees/<name_version>/    a package unpacked whole (kernels)
//! ```
//! Everything in it can be deleted at any time. New files and trees appear by renaming, so an interrupted run leaves
//! nothing half-written under a final name, and runs may go side by side.

use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use super::apt::{Apt, lists_fingerprint};
use super::dependencies::reachable;
use super::tool::run;
use super::{Candidate, Error, LeftOut, Package, Result};

/// Packages of this host's Debian release, each fetched once.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
    apt: Apt,
}

impl Cache {
    /// Opens the cache of this workspace: `lab/` in `$CARGO_TARGET_DIR`, or in the workspace's `target/`.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if it cannot be created.
    pub fn of_workspace() -> Result<Self> {
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"),
            PathBuf::from,
        );
        std::fs::create_dir_all(&target).map_err(Error::file("create", &target))?;
        let target = target.canonicalize().map_err(Error::file("find", &target))?;
        Self::open(&target.join("lab"))
    }

    /// Opens or creates a cache in `root`.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if it cannot be created.
    pub fn open(root: &Path) -> Result<Self> {
        for directory in ["resolved", "packages", "trees"] {
            let path = root.join(directory);
            std::fs::create_dir_all(&path).map_err(Error::file("create", &path))?;
        }
        Ok(Self {
            root: root.to_owned(),
            apt: Apt::new(root.join("apt"))?,
        })
    }

    /// The directory that holds everything the lab may delete and make again.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `wanted` and all they depend on, fetched: [`Cache::resolve`], then [`Cache::fetch`].
    ///
    /// # Errors
    ///
    /// As these two.
    pub fn closure(&self, wanted: &[&str]) -> Result<Vec<Package>> {
        self.fetch(&self.resolve(wanted, &[])?)
    }

    /// What an empty machine would need for `wanted`, without recommendations, and without `left_out` and what only
    /// they needed. Sorted by name. The client is asked once per state of the package lists.
    ///
    /// # Errors
    ///
    /// [`Error::NoPackageLists`] and [`Error::UnknownPackage`] tell the user to update the lists.
    pub fn resolve(&self, wanted: &[&str], left_out: &[LeftOut]) -> Result<Vec<Candidate>> {
        let names: Vec<&str> = left_out.iter().map(|one| one.name).collect();
        let question = format!("{}\n{wanted:?}\n{names:?}", lists_fingerprint()?);
        let path = self
            .root
            .join("resolved")
            .join(format!("{}.json", hex_digest(question.as_bytes())));
        if let Ok(text) = std::fs::read(&path)
            && let Ok(known) = serde_json::from_slice(&text)
        {
            return Ok(known);
        }
        let stanzas = self.apt.show(&self.apt.simulate_install(wanted)?)?;
        let mut candidates: Vec<Candidate> = reachable(stanzas, wanted, left_out)
            .into_iter()
            .map(|stanza| stanza.candidate)
            .collect();
        candidates.sort_by(|left, right| left.name.cmp(&right.name));
        let text = serde_json::to_vec_pretty(&candidates).map_err(|error| Error::Malformed {
            source_name: "package resolution".to_owned(),
            detail: error.to_string(),
        })?;
        write_by_renaming(&path, &text)?;
        Ok(candidates)
    }

    /// Fetches what the cache lacks and verifies all of it.
    ///
    /// # Errors
    ///
    /// [`Error::Download`] if the archive does not give it, [`Error::Corrupt`] if a cached file has changed.
    pub fn fetch(&self, candidates: &[Candidate]) -> Result<Vec<Package>> {
        let directory = self.root.join("packages");
        let missing: Vec<&Candidate> = candidates
            .iter()
            .filter(|one| !directory.join(file_name(one)).exists())
            .collect();
        if !missing.is_empty() {
            let arrivals = tempfile::tempdir_in(&directory).map_err(Error::file("create", &directory))?;
            self.apt.download(&missing, arrivals.path())?;
            for candidate in missing {
                let arrived = arrivals.path().join(file_name(candidate));
                verify(&arrived, &candidate.sha256)?;
                std::fs::rename(&arrived, directory.join(file_name(candidate)))
                    .map_err(Error::file("move", &arrived))?;
            }
        }
        candidates
            .iter()
            .map(|candidate| {
                let deb_path = directory.join(file_name(candidate));
                verify(&deb_path, &candidate.sha256)?;
                let Candidate {
                    name,
                    version,
                    sha256,
                    ..
                } = candidate.clone();
                Ok(Package {
                    name,
                    version,
                    deb_path,
                    sha256,
                })
            })
            .collect()
    }

    /// Unpacks a package's files over `directory`, with their modes; owners are those of the running user.
    ///
    /// # Errors
    ///
    /// [`Error::Tool`] if the package cannot be read or the directory not be written.
    pub fn extract(&self, package: &Package, directory: &Path) -> Result<()> {
        run(
            Command::new("dpkg-deb")
                .arg("-x")
                .arg(&package.deb_path)
                .arg(directory),
            "dpkg",
        )
        .map(drop)
    }

    /// A package's files in a directory of its own, unpacked at the first use. Read only: others share it.
    ///
    /// # Errors
    ///
    /// As [`Cache::extract`].
    pub fn tree(&self, package: &Package) -> Result<PathBuf> {
        let trees = self.root.join("trees");
        let path = trees.join(format!("{}_{}", package.name, package.version));
        if path.exists() {
            return Ok(path);
        }
        let scratch = tempfile::tempdir_in(&trees).map_err(Error::file("create", &trees))?;
        let fresh = scratch.path().join("tree");
        self.extract(package, &fresh)?;
        match std::fs::rename(&fresh, &path) {
            // Another run was quicker; its tree holds the same files.
            Err(_) if path.exists() => Ok(path),
            outcome => outcome
                .map(|()| path.clone())
                .map_err(Error::file("create", &path)),
        }
    }
}

/// The client's name for a downloaded package: the epoch's colon is escaped.
fn file_name(candidate: &Candidate) -> String {
    let version = candidate.version.replace(':', "%3a");
    format!("{}_{version}_{}.deb", candidate.name, candidate.architecture)
}

fn verify(path: &Path, expected: &str) -> Result<()> {
    let actual = hex_digest(&std::fs::read(path).map_err(Error::file("read", path))?);
    if actual == expected {
        return Ok(());
    }
    Err(Error::Corrupt {
        path: path.to_owned(),
        expected: expected.to_owned(),
        actual,
    })
}

/// SHA-256 in lower-case hex.
#[must_use]
pub fn hex_digest(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// Replaces `path` whole or not at all.
fn write_by_renaming(path: &Path, bytes: &[u8]) -> Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let fresh = tempfile::NamedTempFile::new_in(directory).map_err(Error::file("create", directory))?;
    std::fs::write(fresh.path(), bytes).map_err(Error::file("write", fresh.path()))?;
    fresh
        .persist(path)
        .map(drop)
        .map_err(|error| Error::file("write", path)(error.error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_escape_the_epoch() {
        let candidate = Candidate {
            name: "libattr1".to_owned(),
            version: "1:2.5.1-4".to_owned(),
            architecture: "amd64".to_owned(),
            sha256: String::new(),
        };
        assert_eq!(file_name(&candidate), "libattr1_1%3a2.5.1-4_amd64.deb");
    }

    #[test]
    fn a_changed_package_is_refused_by_name() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let cache = Cache::open(directory.path()).expect("cache");
        let candidate = Candidate {
            name: "a".to_owned(),
            version: "1".to_owned(),
            architecture: "all".to_owned(),
            sha256: hex_digest(b"right"),
        };
        let path = directory.path().join("packages").join(file_name(&candidate));
        std::fs::write(&path, "right").expect("write");
        assert_eq!(
            cache.fetch(std::slice::from_ref(&candidate)).expect("verified")[0].deb_path,
            path
        );
        std::fs::write(&path, "wrong").expect("write");
        let error = cache.fetch(&[candidate]).expect_err("changed");
        assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    }
}
