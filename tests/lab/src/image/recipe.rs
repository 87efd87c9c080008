//! Every input of an image, in one value whose digest is the image's name.

use serde::{Deserialize, Serialize};

use super::{Result, Service, disk, json_text};
use crate::debian::{Cache, Candidate, KernelFlavour, hex_digest};

/// The texts that decide what a build does with its packages: a change in any of them makes another image.
const BUILDER: &[&str] = &[
    include_str!("mod.rs"),
    include_str!("disk.rs"),
    include_str!("rootfs.rs"),
    include_str!("service.rs"),
    include_str!("../archive/cpio.rs"),
    include_str!("../debian/modules.rs"),
    include_str!("init/init.sh"),
    include_str!("init/power-button.sh"),
    include_str!("init/redis.sh"),
    include_str!("init/postgres.sh"),
    include_str!("init/shell.sh"),
    include_str!("init/compute.sh"),
    include_str!("init/compute.pl"),
];

/// Every input of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipe {
    /// What the guest runs.
    pub service: Service,
    /// Its kernel.
    pub kernel: KernelRecipe,
    /// The userland, by name.
    pub packages: Vec<Candidate>,
    /// Dependencies not followed.
    pub left_out: Vec<LeftOutRecord>,
    /// Size of the data disk.
    pub disk_bytes: u64,
    /// The program that made the disk.
    pub mke2fs: String,
    /// SHA-256 over the builder's sources and the image's own files.
    pub builder: String,
}

/// The kernel of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelRecipe {
    /// Which of Debian's kernels.
    pub flavour: KernelFlavour,
    /// The package that it means now.
    pub package: Candidate,
}

/// A package that an image goes without, as a manifest stores it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOutRecord {
    /// The package.
    pub name: String,
    /// Why the image works without it.
    pub reason: String,
}

impl Recipe {
    /// What `service` is made of, by today's package lists.
    ///
    /// # Errors
    ///
    /// Those of [`Cache::resolve`], and a missing `mke2fs`.
    pub fn resolve(cache: &Cache, service: Service, flavour: KernelFlavour) -> Result<Self> {
        let left_out = service.left_out();
        let package = |one: &crate::debian::LeftOut| LeftOutRecord {
            name: one.name.to_owned(),
            reason: one.reason.to_owned(),
        };
        Ok(Self {
            service,
            kernel: KernelRecipe {
                flavour,
                package: cache.resolve_kernel(flavour)?,
            },
            packages: cache.resolve(service.packages(), &left_out)?,
            left_out: left_out.iter().map(package).collect(),
            disk_bytes: service.disk_bytes(),
            mke2fs: disk::mke2fs_version()?,
            builder: hex_digest(BUILDER.join("\0").as_bytes()),
        })
    }

    /// SHA-256 of the recipe.
    #[must_use]
    pub fn digest(&self) -> String {
        hex_digest(json_text(self, false).as_bytes())
    }

    /// The name of the image's directory.
    #[must_use]
    pub fn directory_name(&self) -> String {
        format!("{}{}", self.directory_prefix(), &self.digest()[..16])
    }

    /// What the names of all images of this service and kernel begin with.
    pub(super) fn directory_prefix(&self) -> String {
        let flavour = match self.kernel.flavour {
            KernelFlavour::Cloud => "cloud",
            KernelFlavour::Generic => "generic",
        };
        format!("{}-{flavour}-", self.service)
    }
}
