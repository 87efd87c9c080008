//! What every host is made from: fetched or built once, then shared.

use super::build::{Profile, static_binary, static_test};
use super::error::Result;
use crate::debian::{Cache, Kernel, KernelFlavour};
use std::path::{Path, PathBuf};

/// Kernel, busybox and binaries for hosts.
#[derive(Debug, Clone)]
pub struct Materials {
    /// The workspace's `target/lab`.
    pub lab_directory: PathBuf,
    /// The hosts' kernel.
    pub kernel: Kernel,
    /// A static busybox.
    pub busybox: PathBuf,
    /// The static `antipode-lab-agent`.
    pub agent: PathBuf,
    /// The static `antipode` that hosts have in their `PATH`.
    pub antipode: Option<PathBuf>,
}

impl Materials {
    /// Everything, with the `antipode` of this workspace.
    ///
    /// # Errors
    /// A package that cannot be had or a build that failed.
    pub fn prepare() -> Result<Self> {
        let mut materials = Self::without_antipode()?;
        materials.antipode = Some(static_binary(
            &materials.lab_directory,
            "antipode",
            "antipode",
            Profile::Release,
        )?);
        Ok(materials)
    }

    /// Everything, with an `antipode` built elsewhere (static, or it will not start in a host).
    ///
    /// # Errors
    /// As [`Materials::prepare`].
    pub fn with_antipode(path: &Path) -> Result<Self> {
        Ok(Self {
            antipode: Some(path.to_owned()),
            ..Self::without_antipode()?
        })
    }

    /// Everything but `antipode`.
    ///
    /// # Errors
    /// As [`Materials::prepare`].
    pub fn without_antipode() -> Result<Self> {
        let cache = Cache::of_workspace()?;
        let kernel = cache.kernel(&cache.resolve_kernel(KernelFlavour::Cloud)?)?;
        let busybox = cache.closure(&["busybox-static"])?;
        let mut trees = busybox.iter().filter(|package| package.name == "busybox-static");
        let tree = trees
            .next()
            .map(|package| cache.tree(package))
            .transpose()?
            .unwrap_or_default();
        let lab_directory = cache.root().to_owned();
        let agent = static_binary(
            &lab_directory,
            "antipode-lab",
            "antipode-lab-agent",
            Profile::Release,
        )?;
        Ok(Self {
            lab_directory,
            kernel,
            busybox: tree.join("bin/busybox"),
            agent,
            antipode: None,
        })
    }

    /// A static binary of the lab, for files of hosts and guests.
    ///
    /// # Errors
    /// A build that failed.
    pub fn build_binary(&self, binary: &str) -> Result<PathBuf> {
        static_binary(&self.lab_directory, "antipode-lab", binary, Profile::Release)
    }

    /// A static `antipode` with debug assertions.
    ///
    /// # Errors
    /// A build that failed.
    pub fn build_debug_antipode(&self) -> Result<PathBuf> {
        static_binary(&self.lab_directory, "antipode", "antipode", Profile::Debug)
    }

    /// One of `antipode`'s files of tests, as a static program.
    ///
    /// # Errors
    /// A build that failed.
    pub fn build_test(&self, test: &str) -> Result<PathBuf> {
        static_test(&self.lab_directory, test)
    }
}

/// The workspace's `target/lab`, and an `antipode` for processes of this machine: the one at `built`, or the one that
/// hosts get.
///
/// # Errors
/// A build that failed.
pub fn antipode_alone(built: Option<&Path>) -> Result<(PathBuf, PathBuf)> {
    let lab_directory = Cache::of_workspace()?.root().to_owned();
    let antipode = match built {
        Some(path) => path.canonicalize().unwrap_or_else(|_| path.to_owned()),
        None => static_binary(&lab_directory, "antipode", "antipode", Profile::Release)?,
    };
    Ok((lab_directory, antipode))
}
