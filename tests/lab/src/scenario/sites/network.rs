//! What lies between the sites, and what can go wrong with it.

use super::Sites;
use super::site::Site;
use crate::switch::fabric::Way;
use crate::switch::link::ShapeChange;
use anyhow::{Context, Result};
use std::time::Duration;

/// The cable on which the way between the sites takes its time, both ways: site-b sends by `tx` and receives by `rx`.
const WAN_PORT: &str = "site-b.wan";

/// The client's cable.
const CLIENT_PORT: &str = "client.lan";

/// From the client to either site, each way.
const CLIENT_ONE_WAY: Duration = Duration::from_micros(500);

/// What may wait for a narrow way: what it takes in a quarter of a second, and some frames at least.
const WAN_QUEUE_BYTES_MIN: u64 = 64 << 10;

/// Which way between the sites.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Both.
    Both,
    /// What this site sends to the other.
    From(Site),
}

impl Direction {
    const fn way(self) -> Option<Way> {
        match self {
            Self::Both => None,
            Self::From(Site::A) => Some(Way::Rx),
            Self::From(Site::B) => Some(Way::Tx),
        }
    }
}

impl Sites<'_> {
    /// Gives the cables their lengths.
    pub(super) fn lay_cables(&self) -> Result<()> {
        let length = |one_way: Duration| ShapeChange {
            latency_us: Some(u64::try_from(one_way.as_micros()).unwrap_or(u64::MAX)),
            ..ShapeChange::default()
        };
        let mut switch = self.cluster.switch.client()?;
        switch.shape(WAN_PORT, None, length(self.plan.rtt / 2))?;
        switch.shape(CLIENT_PORT, None, length(CLIENT_ONE_WAY))?;
        Ok(())
    }

    /// Cuts the way between the sites, or mends it.
    pub(crate) fn cut_wan(&self, direction: Direction, is_cut: bool) -> Result<()> {
        let mut switch = self.cluster.switch.client()?;
        let way = direction.way();
        Ok(if is_cut {
            switch.cut(WAN_PORT, way)
        } else {
            switch.heal(WAN_PORT, way)
        }?)
    }

    /// Loses so many frames of a million on the way between the sites, each way.
    pub(crate) fn lose_on_wan(&self, parts_per_million: u32) -> Result<()> {
        let loss = ShapeChange {
            loss_ppm: Some(parts_per_million),
            ..ShapeChange::default()
        };
        Ok(self.cluster.switch.client()?.shape(WAN_PORT, None, loss)?)
    }

    /// Lets so many bits a second through between the sites, each way; none for as many as come.
    pub(crate) fn narrow_wan(&self, bits_per_second: Option<u64>) -> Result<()> {
        let narrow = ShapeChange {
            bandwidth_bps: Some(bits_per_second.unwrap_or(0)),
            queue_bytes: bits_per_second.map(|rate| (rate / 8 / 4).max(WAN_QUEUE_BYTES_MIN)),
            ..ShapeChange::default()
        };
        Ok(self.cluster.switch.client()?.shape(WAN_PORT, None, narrow)?)
    }

    /// Bytes that a site has sent to the other one so far, frames and all.
    pub(crate) fn wan_bytes_from(&self, site: Site) -> Result<u64> {
        let ports = self.cluster.switch.client()?.ports()?;
        let port = ports.iter().find(|port| port.name == WAN_PORT);
        let port = port.with_context(|| format!("the switch has no port {WAN_PORT}"))?;
        Ok(match site {
            Site::A => port.rx.counters.bytes,
            Site::B => port.tx.counters.bytes,
        })
    }

    /// Whole and wide again: everything but the cables' lengths.
    pub(crate) fn mend_network(&self) -> Result<()> {
        self.cut_wan(Direction::Both, false)?;
        self.lose_on_wan(0)?;
        self.narrow_wan(None)?;
        for cut in self.ways.values() {
            cut.set(false);
        }
        Ok(())
    }

    /// Cuts or mends a site's ways to every tiebreaker node.
    pub(crate) fn cut_from_tiebreaker(&self, site: Site, is_cut: bool) {
        for ((from, _), cut) in &self.ways {
            if *from == site {
                cut.set(is_cut);
            }
        }
    }
}
