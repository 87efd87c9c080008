//! A CA in a folder of its own, for tests.

use std::path::PathBuf;

use tempfile::TempDir;

use crate::{
    Authority, AuthorityDays, Existing, Identity, Issued, LeafDays, Paths, TRUST_FILE, Trust, UnixTime,
};

/// The moment at which tests make their CA.
pub(crate) const NOW: UnixTime = UnixTime::from_seconds(1_795_249_800);

pub(crate) const DAY: i64 = 86_400;

pub(crate) struct TestAuthority {
    pub(crate) folder: TempDir,
    pub(crate) authority: Authority,
}

impl TestAuthority {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(AuthorityDays::default(), NOW).unwrap();
        authority.save(folder.path()).unwrap();
        Self { folder, authority }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A certificate in memory.
    pub(crate) fn leaf(&self, uri: &str) -> Issued {
        let identity = Identity::from_uri(uri).unwrap();
        self.authority.issue(&identity, LeafDays::default(), NOW).unwrap()
    }

    /// A certificate made at `now`, on disk, replacing what was there.
    pub(crate) fn saved_leaf(&self, uri: &str, now: UnixTime) -> Paths {
        let identity = Identity::from_uri(uri).unwrap();
        let issued = self.authority.issue(&identity, LeafDays::default(), now).unwrap();
        let credentials = self.path(&issued.file_name());
        issued.save(&credentials, Existing::Replace).unwrap();
        Paths {
            credentials,
            trust: self.path(TRUST_FILE),
        }
    }

    pub(crate) fn trust(&self) -> Trust {
        Trust::load(&self.path(TRUST_FILE), NOW).unwrap()
    }
}
