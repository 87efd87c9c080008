//! What every stage is made from: fetched or built once, then found.

use super::Result;
use crate::debian::{Cache, KernelFlavour, requirements};
use crate::host::Materials;
use crate::image::{self, Image, Service};

/// The hosts' materials, `antipode` among them, and one guest image.
#[derive(Debug, Clone)]
pub struct Setup {
    /// For hosts.
    pub materials: Materials,
    /// For guests.
    pub image: Image,
}

impl Setup {
    /// Installs what this machine lacks (as root; otherwise says the command), builds the static binaries and the
    /// image. Minutes on a fresh clone, then a second.
    ///
    /// # Errors
    /// A package that cannot be had or a build that failed.
    pub fn prepare(service: Service, kernel: KernelFlavour) -> Result<Self> {
        requirements::ensure()?;
        let image = image::build(&Cache::of_workspace()?, service, kernel)?;
        let materials = Materials::prepare()?;
        Ok(Self { materials, image })
    }

    /// What the guest runs.
    #[must_use]
    pub fn service(&self) -> Service {
        self.image.manifest.recipe.service
    }
}
