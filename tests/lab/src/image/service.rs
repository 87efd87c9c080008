//! The services that a guest can run: what each is made of and how it is reached.

use serde::{Deserialize, Serialize};

use crate::debian::LeftOut;

/// What a guest is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// Redis, every write forced to the disk before it is acknowledged.
    Redis,
    /// PostgreSQL 15, trusting its network.
    Postgres,
    /// A shell on the serial console with Debian's dynamically linked tools.
    Shell,
    /// A processor that never rests, and a port that tells how far it came.
    Compute,
}

const MEBIBYTE: u64 = 1 << 20;

/// What any service goes without. Maintainer scripts do not run here, so what only they use is not needed.
const INSTALLATION: &[LeftOut] = &[
    LeftOut {
        name: "adduser",
        reason: "users are part of the image",
    },
    LeftOut {
        name: "debconf",
        reason: "asks questions at installation",
    },
    LeftOut {
        name: "dpkg",
        reason: "installs packages",
    },
    LeftOut {
        name: "init-system-helpers",
        reason: "enables services at installation",
    },
    LeftOut {
        name: "lsb-base",
        reason: "serves System V init scripts",
    },
];

/// What PostgreSQL goes without besides.
const POSTGRES: &[LeftOut] = &[
    LeftOut {
        name: "libllvm14",
        reason: "114 MB for just-in-time compilation, which is switched off",
    },
    LeftOut {
        name: "locales",
        reason: "the database uses the C locale, which is built into the C library",
    },
    LeftOut {
        name: "postgresql-common",
        reason: "manages several clusters; the image has one",
    },
    LeftOut {
        name: "postgresql-client-common",
        reason: "chooses among several clusters",
    },
    LeftOut {
        name: "sensible-utils",
        reason: "finds an editor for psql",
    },
    LeftOut {
        name: "ssl-cert",
        reason: "makes a certificate at installation; connections are in the clear",
    },
];

impl Service {
    /// Every service.
    pub const ALL: [Self; 4] = [Self::Redis, Self::Postgres, Self::Shell, Self::Compute];

    /// The name on the command line, in console messages and in paths.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Postgres => "postgres",
            Self::Shell => "shell",
            Self::Compute => "compute",
        }
    }

    /// The TCP port on which the service answers; `None` for the shell.
    #[must_use]
    pub const fn port(self) -> Option<u16> {
        match self {
            Self::Redis => Some(6379),
            Self::Postgres => Some(5432),
            Self::Shell => None,
            Self::Compute => Some(7000),
        }
    }

    /// The console line that says the service accepts connections.
    #[must_use]
    pub fn ready_line(self) -> String {
        format!("antipode-guest: service {} ready", self.name())
    }

    /// The Debian packages wanted; their dependencies follow.
    #[must_use]
    pub const fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Redis => &["busybox-static", "redis-server"],
            Self::Postgres => &["busybox-static", "postgresql-15"],
            Self::Shell => &[
                "busybox-static",
                "bash",
                "dash",
                "coreutils",
                "tar",
                "gzip",
                "perl-base",
            ],
            Self::Compute => &["busybox-static", "coreutils", "gzip", "perl-base"],
        }
    }

    /// What of the dependencies is left out, and why.
    #[must_use]
    pub fn left_out(self) -> Vec<LeftOut> {
        let own = if self == Self::Postgres { POSTGRES } else { &[] };
        [INSTALLATION, own].concat()
    }

    /// Size of the data disk.
    #[must_use]
    pub const fn disk_bytes(self) -> u64 {
        match self {
            Self::Postgres => 512 * MEBIBYTE,
            Self::Redis | Self::Shell | Self::Compute => 256 * MEBIBYTE,
        }
    }

    /// Guest memory in which the service runs with room to spare.
    #[must_use]
    pub const fn memory_bytes(self) -> u64 {
        match self {
            Self::Postgres => 512 * MEBIBYTE,
            Self::Redis | Self::Shell | Self::Compute => 256 * MEBIBYTE,
        }
    }

    /// The script that the first process reads.
    pub(crate) const fn script(self) -> &'static str {
        match self {
            Self::Redis => include_str!("init/redis.sh"),
            Self::Postgres => include_str!("init/postgres.sh"),
            Self::Shell => include_str!("init/shell.sh"),
            Self::Compute => include_str!("init/compute.sh"),
        }
    }

    /// Files under `etc/antipode/` that the script uses.
    pub(super) const fn files(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Compute => &[("compute.pl", include_str!("init/compute.pl"))],
            Self::Redis | Self::Postgres | Self::Shell => &[],
        }
    }
}

impl std::fmt::Display for Service {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_carry_the_name_and_every_part_that_init_uses() {
        for service in Service::ALL {
            let script = service.script();
            assert!(
                script.contains(&format!("\nservice={service}\n")),
                "{service}: its name"
            );
            for part in [
                "\nready_line=\"",
                "\ndisk=",
                "\nservice_run() {",
                "\nservice_stop() {",
            ] {
                assert!(script.contains(part), "{service}: {part:?}");
            }
        }
    }
}
