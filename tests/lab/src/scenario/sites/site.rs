//! The two sites' names, addresses and cables.

/// One of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Site {
    /// `site-a`, where VMs are created.
    A,
    /// `site-b`.
    B,
}

impl Site {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::A, Self::B];

    /// Its host, and the name in its certificate.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::A => "site-a",
            Self::B => "site-b",
        }
    }

    /// The one of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|site| site.name() == name)
    }

    /// The other one.
    pub(crate) const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// Its cable to the clients, as the switch calls it.
    pub(crate) const fn lan_port(self) -> &'static str {
        match self {
            Self::A => "site-a.lan",
            Self::B => "site-b.lan",
        }
    }

    /// Its address between the sites.
    pub(super) const fn address(self) -> &'static str {
        match self {
            Self::A => "10.8.0.11:7400",
            Self::B => "10.8.0.12:7400",
        }
    }
}

impl std::fmt::Display for Site {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::playground::topology::{LAN, WAN, plan};

    #[test]
    fn names_and_addresses_are_those_of_the_topology() {
        let hosts = plan(2, 0);
        for (site, host) in Site::ALL.into_iter().zip(&hosts) {
            assert_eq!((site.name(), site.other().other()), (host.name.as_str(), site));
            let nic = |segment| host.nics.iter().find(|nic| nic.segment == segment).unwrap();
            assert_eq!(site.lan_port(), nic(LAN).port);
            let address = nic(WAN).address.strip_suffix("/24").unwrap();
            assert_eq!(site.address(), format!("{address}:7400"));
        }
        assert_eq!(Site::named("site-b"), Some(Site::B));
        assert_eq!(Site::named("site-c"), None);
    }
}
