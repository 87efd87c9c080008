//! The hosts that have power.

use super::site::Site;
use super::{CLIENT, Sites};
use crate::host::Host;
use anyhow::{Context, Result, anyhow};
use std::thread;

impl Sites<'_> {
    /// A site's host, which must have power.
    pub(crate) fn host(&self, site: Site) -> Result<&Host> {
        let host = self.cluster.hosts.get(site.name());
        host.with_context(|| format!("{site} has no power"))
    }

    /// What each site's host answers to what `ask` has it do, both at once.
    pub(crate) fn on_both<T: Send>(&self, ask: impl Fn(Site, &Host) -> Result<T> + Sync) -> Result<[T; 2]> {
        let ask = |site| ask(site, self.host(site)?);
        let [a, b] = Site::ALL;
        thread::scope(|scope| {
            let other = scope.spawn(|| ask(b));
            let here = ask(a);
            let there = other.join().map_err(|_| anyhow!("a host's thread has died"))?;
            Ok([here?, there?])
        })
    }

    /// The client's host.
    pub(crate) fn client(&self) -> Result<&Host> {
        self.cluster.hosts.get(CLIENT).context("the client has no power")
    }
}
