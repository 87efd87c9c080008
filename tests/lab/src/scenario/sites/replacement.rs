//! Another host in the place of a site's: at its address, of another name, and with nothing on its disk.

use super::site::Site;
use super::{CONFIG, CREDENTIALS, Sites, serve_disk, store};
use crate::host::{Disk, DiskMode};
use anyhow::{Context, Result, ensure};
use std::fs;

impl Sites<'_> {
    /// What the certificate of a site's host says.
    pub(super) fn name_of(&self, site: Site) -> String {
        match (self.replaced.contains(&site), site) {
            (false, site) => site.name().to_owned(),
            (true, Site::A) => "site-d".to_owned(),
            (true, Site::B) => "site-c".to_owned(),
        }
    }

    /// Replaces the host of `site`, which has no power, by one of the other name that it may have, and says so to the site
    /// where the VM is live alone: in its configuration, and by `vm replace`.
    pub(crate) fn replace_host(&mut self, site: Site) -> Result<()> {
        ensure!(!self.has_power(site), "{site} is in use");
        let old = self.name_of(site);
        if !self.replaced.remove(&site) {
            self.replaced.insert(site);
        }
        let new = self.name_of(site);
        let credentials = self.source(site, CREDENTIALS)?;
        self.town.issue_to(&new, &credentials)?;
        self.empty_store(site)?;
        self.power_on(site)?;
        let (live, config) = (site.other(), self.source(site.other(), CONFIG)?);
        let text = fs::read_to_string(&config)?;
        let renamed = text.replace(&format!("name = \"{old}\""), &format!("name = \"{new}\""));
        ensure!(renamed != text, "{live} does not know {old}");
        fs::write(&config, renamed)?;
        self.host(live)?.put(&config, CONFIG, 0o644)?;
        self.restart_daemon(live)?;
        self.ask(live, &format!("vm replace {}", self.vm))?;
        Ok(())
    }

    /// A new disk of the same size, and a file system on it.
    fn empty_store(&mut self, site: Site) -> Result<()> {
        let file = self.store(site);
        let byte_count = file.metadata()?.len();
        drop(self.media.remove(&site));
        fs::remove_file(&file)?;
        store::make_of(&[], byte_count, &file)?;
        let spec = self.specs.get_mut(&site).context("no such site")?;
        let disk = spec.disks.first_mut().context("the host has no disk")?;
        let was_served = disk.mode == DiskMode::Served;
        if was_served {
            fs::remove_file(&disk.path)?;
        }
        *disk = Disk {
            path: file,
            mode: DiskMode::ReadWrite,
        };
        if was_served {
            let medium = serve_disk(spec, &self.run)?;
            self.media.insert(site, medium);
        }
        Ok(())
    }
}
