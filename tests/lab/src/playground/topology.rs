//! Which hosts there are, how they are joined and what they are called. Pure.

use serde::Serialize;

/// Sites a playground may have; the product knows two, more are for shared tiebreakers.
pub const SITES_MAX: u8 = 8;

/// Tiebreaker hosts a playground may have.
pub const TIEBREAKERS_MAX: u8 = 7;

/// The network between sites: eth1 of a site, eth0 of a tiebreaker.
pub const WAN: &str = "wan";

/// The network where clients meet guests: eth0 of a site and of the client.
pub const LAN: &str = "lan";

/// What a host is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Runs guests.
    Site,
    /// Decides.
    Tiebreaker,
    /// Has a real TCP stack and talks to guests.
    Client,
}

/// One host of a topology.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostPlan {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Its cards, `eth0` first.
    pub nics: Vec<NicPlan>,
}

/// One card of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NicPlan {
    /// The port of the switch: `<host>.<segment>`.
    pub port: String,
    /// The network it is in.
    pub segment: &'static str,
    /// Address and prefix length.
    pub address: String,
    /// Address on the wire.
    #[serde(skip)]
    pub mac: [u8; 6],
}

/// Sites, tiebreakers and one client, in that order.
#[must_use]
pub fn plan(sites: u8, tiebreakers: u8) -> Vec<HostPlan> {
    let letters = ('a'..='z').map(|letter| format!("site-{letter}"));
    let mut hosts: Vec<HostPlan> = (0..sites)
        .zip(letters)
        .map(|(index, name)| host(name, Role::Site, 11 + index, &[LAN, WAN]))
        .collect();
    hosts.extend(
        (0..tiebreakers)
            .map(|index| host(format!("tie-{}", index + 1), Role::Tiebreaker, 21 + index, &[WAN])),
    );
    hosts.push(host("client".to_owned(), Role::Client, 100, &[LAN]));
    hosts
}

fn host(name: String, role: Role, number: u8, segments: &[&'static str]) -> HostPlan {
    let nic = |segment: &&'static str| {
        let network = if *segment == LAN { 9 } else { 8 };
        NicPlan {
            port: format!("{name}.{segment}"),
            segment,
            address: format!("10.{network}.0.{number}/24"),
            // Locally administered; a capture shows network and host in the last two bytes.
            mac: [0x02, 0xa0, 0, 0, network, number],
        }
    };
    let nics = segments.iter().map(nic).collect();
    HostPlan { name, role, nics }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn two_sites_and_a_client() {
        let hosts = plan(2, 0);
        let names: Vec<_> = hosts.iter().map(|host| host.name.as_str()).collect();
        assert_eq!(names, ["site-a", "site-b", "client"]);
        assert_eq!(hosts[1].nics[1].address, "10.8.0.12/24");
        assert_eq!(hosts[1].nics[0].port, "site-b.lan");
    }

    #[test]
    fn nothing_is_given_out_twice() {
        let hosts = plan(SITES_MAX, TIEBREAKERS_MAX);
        let nics: Vec<_> = hosts.iter().flat_map(|host| &host.nics).collect();
        let distinct = |values: Vec<String>| values.iter().collect::<BTreeSet<_>>().len();
        assert_eq!(
            distinct(nics.iter().map(|nic| nic.address.clone()).collect()),
            nics.len()
        );
        assert_eq!(
            distinct(nics.iter().map(|nic| format!("{:?}", nic.mac)).collect()),
            nics.len()
        );
        assert_eq!(
            distinct(nics.iter().map(|nic| nic.port.clone()).collect()),
            nics.len()
        );
    }
}
