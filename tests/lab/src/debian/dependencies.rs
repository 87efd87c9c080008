//! Which of the selected packages are needed once some have been left out by name.

use std::collections::{BTreeMap, BTreeSet};

use super::apt::Stanza;

/// A package that a closure goes without, and why that is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// The package.
    pub name: &'static str,
    /// Why what remains works without it.
    pub reason: &'static str,
}

/// Keeps the stanzas reachable from `wanted` without passing through a package that is left out. The order is kept.
pub(super) fn reachable(stanzas: Vec<Stanza>, wanted: &[&str], left_out: &[LeftOut]) -> Vec<Stanza> {
    let mut providers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for stanza in &stanzas {
        let name = stanza.candidate.name.as_str();
        for provided in std::iter::once(name).chain(stanza.provides.iter().map(String::as_str)) {
            providers.entry(provided).or_default().push(name);
        }
    }
    let by_name: BTreeMap<&str, &Stanza> = stanzas
        .iter()
        .map(|one| (one.candidate.name.as_str(), one))
        .collect();
    let mut kept: BTreeSet<&str> = BTreeSet::new();
    let mut queue: Vec<&str> = wanted.to_vec();
    while let Some(name) = queue.pop() {
        for &provider in providers.get(name).into_iter().flatten() {
            if left_out.iter().any(|one| one.name == provider) || !kept.insert(provider) {
                continue;
            }
            queue.extend(by_name[provider].depends.iter().flatten().map(String::as_str));
        }
    }
    let kept: BTreeSet<String> = kept.into_iter().map(str::to_owned).collect();
    stanzas
        .into_iter()
        .filter(|one| kept.contains(&one.candidate.name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::debian::Candidate;

    fn stanza(name: &str, depends: &[&[&str]], provides: &[&str]) -> Stanza {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        Stanza {
            candidate: Candidate {
                name: name.to_owned(),
                version: "1".to_owned(),
                architecture: "amd64".to_owned(),
                sha256: String::new(),
            },
            depends: depends.iter().map(|one| owned(one)).collect(),
            provides: owned(provides),
        }
    }

    #[test]
    fn what_only_a_left_out_package_needed_goes_with_it() {
        let stanzas = vec![
            stanza("libc", &[], &[]),
            stanza("perl", &[&["libc"], &["db"]], &[]),
            stanza("db", &[&["libc"]], &[]),
            stanza("mail", &[&["libc"]], &["mta"]),
            stanza("server", &[&["libc"], &["perl", "absent"], &["mta"]], &[]),
        ];
        let left_out = [LeftOut {
            name: "perl",
            reason: "test",
        }];
        let names = |left_out: &[LeftOut]| -> Vec<String> {
            let kept = reachable(stanzas.clone(), &["server"], left_out);
            kept.into_iter().map(|one| one.candidate.name).collect()
        };
        assert_eq!(names(&[]), ["libc", "perl", "db", "mail", "server"]);
        assert_eq!(names(&left_out), ["libc", "mail", "server"]);
    }
}
