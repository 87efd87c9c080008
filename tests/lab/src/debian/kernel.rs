//! Debian's kernel packages: which one a flavour means today, and where its parts are.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Cache, Candidate, Error, Result};

/// Which of Debian's kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum KernelFlavour {
    /// `linux-image-cloud-amd64`: for virtual machines.
    Cloud,
    /// `linux-image-amd64`: for any PC.
    Generic,
}

impl KernelFlavour {
    /// The meta-package that depends on the newest kernel of this flavour.
    #[must_use]
    pub const fn meta_package(self) -> &'static str {
        match self {
            Self::Cloud => "linux-image-cloud-amd64",
            Self::Generic => "linux-image-amd64",
        }
    }
}

/// A kernel package, unpacked and unmodified.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// What `uname -r` prints under it.
    pub release: String,
    /// `vmlinuz` as Debian ships it.
    pub vmlinuz: PathBuf,
    /// The unpacked package; modules lie in its `lib/modules/<release>/`.
    pub tree: PathBuf,
}

impl Kernel {
    /// The directory of the modules and of `modules.builtin`.
    #[must_use]
    pub fn modules_directory(&self) -> PathBuf {
        modules_directory(&self.tree, &self.release)
    }
}

pub(super) fn modules_directory(tree: &Path, release: &str) -> PathBuf {
    tree.join("lib/modules").join(release)
}

impl Cache {
    /// The kernel package that a flavour means now. Its dependencies (initramfs-tools and their like) serve
    /// installation and are left aside.
    ///
    /// # Errors
    ///
    /// As [`Cache::resolve`].
    pub fn resolve_kernel(&self, flavour: KernelFlavour) -> Result<Candidate> {
        let meta = flavour.meta_package();
        self.resolve(&[meta], &[])?
            .into_iter()
            .find(|one| one.name.starts_with("linux-image-") && one.name != meta)
            .ok_or_else(|| Error::UnknownPackage {
                detail: format!("the kernel that {meta} depends on"),
            })
    }

    /// Fetches and unpacks a kernel found by [`Cache::resolve_kernel`].
    ///
    /// # Errors
    ///
    /// As [`Cache::fetch`] and [`Cache::tree`].
    pub fn kernel(&self, candidate: &Candidate) -> Result<Kernel> {
        let packages = self.fetch(std::slice::from_ref(candidate))?;
        let tree = self.tree(&packages[0])?;
        let release = candidate.name.trim_start_matches("linux-image-").to_owned();
        let vmlinuz = tree.join(format!("boot/vmlinuz-{release}"));
        if !vmlinuz.is_file() {
            let detail = format!("the package holds no boot/vmlinuz-{release}");
            return Err(Error::Malformed {
                source_name: candidate.name.clone(),
                detail,
            });
        }
        Ok(Kernel {
            release,
            vmlinuz,
            tree,
        })
    }
}
