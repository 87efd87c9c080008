//! Every certificate is replaced, and the CA with them, while everything runs (S1): the documented four steps.

use super::site::Site;
use super::{CREDENTIALS, Sites, TRUST};
use anyhow::{Context, Result};
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

/// A daemon looks at its files at most every ten seconds.
const UNTIL_LOOKED_AT: Duration = Duration::from_secs(11);

impl Sites<'_> {
    /// Replaces the CA and all that it has issued; nothing is started anew. From then on whoever shows a certificate of
    /// before is turned away.
    pub(crate) fn replace_authority(&mut self) -> Result<()> {
        let both = self.town.add_authority()?;
        self.trust(&both)?;
        self.town.reissue()?;
        for site in Site::ALL {
            let credentials = self.source(site, CREDENTIALS)?;
            self.town.issue_to(&self.name_of(site), &credentials)?;
            self.host(site)?.put(&credentials, CREDENTIALS, 0o600)?;
        }
        thread::sleep(UNTIL_LOOKED_AT);
        let new = self.town.drop_old_authority()?;
        self.trust(&new)
    }

    /// Both sites trust these CAs, now and when they boot again.
    fn trust(&self, authorities: &str) -> Result<()> {
        for site in Site::ALL {
            let source = self.source(site, TRUST)?;
            fs::write(&source, authorities)?;
            self.host(site)?.put(&source, TRUST, 0o644)?;
        }
        thread::sleep(UNTIL_LOOKED_AT);
        Ok(())
    }

    /// The file of this machine that a site's host boots with as `path`.
    pub(super) fn source(&self, site: Site, path: &str) -> Result<PathBuf> {
        let mut files = self.specs[&site].files.iter();
        let file = files.find(|file| file.path == path);
        let file = file.with_context(|| format!("{site} has no {path}"))?;
        Ok(file.source.clone())
    }
}
