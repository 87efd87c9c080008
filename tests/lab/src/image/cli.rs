//! `antipode-lab image`: builds a guest image and says where it is.

use std::path::Path;

use serde::Serialize;

use super::{Image, Manifest, Result, Service, build, check_reproducible, json_text, trial};
use crate::debian::{Cache, KernelFlavour, requirements};

/// Build a guest image from Debian's packages, or find it in the cache.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// What the guest runs.
    #[arg(long, value_enum)]
    pub service: Service,
    /// Which of Debian's kernels boots it.
    #[arg(long, value_enum, default_value = "cloud")]
    pub kernel: KernelFlavour,
    /// Build it once more from the same packages and compare every byte.
    #[arg(long)]
    pub check_reproducible: bool,
    /// Boot it in plain QEMU, talk to the service and press the power button.
    #[arg(long)]
    pub try_boot: bool,
    /// Print one line of JSON.
    #[arg(long)]
    pub json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Summary<'a> {
    ok: bool,
    service: Service,
    kernel: &'a Path,
    initrd: &'a Path,
    disk: &'a Path,
    initrd_bytes: u64,
    disk_bytes: u64,
    packages: usize,
    digest: &'a str,
    reproducible: Option<bool>,
    trial: Option<trial::Report>,
}

/// Does what `args` ask for; prints the result on standard output.
///
/// # Errors
///
/// Those of [`build`], [`check_reproducible`] and [`trial::run`].
pub fn run(args: &Args) -> Result<()> {
    requirements::ensure()?;
    let cache = Cache::of_workspace()?;
    let image = build(&cache, args.service, args.kernel)?;
    if args.check_reproducible {
        check_reproducible(&cache, &image)?;
    }
    let trial = if args.try_boot {
        Some(trial::run(&image)?)
    } else {
        None
    };
    if args.json {
        let summary = Summary {
            ok: true,
            service: args.service,
            kernel: &image.kernel,
            initrd: &image.initrd,
            disk: &image.disk,
            initrd_bytes: bytes(&image.manifest, "initrd.cpio"),
            disk_bytes: image.manifest.recipe.disk_bytes,
            packages: image.manifest.recipe.packages.len(),
            digest: &image.manifest.digest,
            reproducible: args.check_reproducible.then_some(true),
            trial,
        };
        println!("{}", json_text(&summary, false));
    } else {
        describe(&image, args.check_reproducible, trial.as_ref());
    }
    Ok(())
}

fn describe(image: &Image, reproducible: bool, trial: Option<&trial::Report>) {
    let recipe = &image.manifest.recipe;
    let mebibytes = |name: &str| bytes(&image.manifest, name) >> 20;
    println!("{} guest of {} packages", recipe.service, recipe.packages.len());
    println!(
        "  kernel  {}  ({} {})",
        image.kernel.display(),
        recipe.kernel.package.name,
        recipe.kernel.package.version
    );
    println!(
        "  initrd  {}  ({} MiB)",
        image.initrd.display(),
        mebibytes("initrd.cpio")
    );
    println!(
        "  disk    {}  ({} MiB, sparse; copy before use)",
        image.disk.display(),
        mebibytes("disk.ext4")
    );
    if reproducible {
        println!("  built again: the same bytes");
    }
    if let Some(report) = trial {
        println!(
            "  booted in QEMU; {}; powered off by its power button",
            report.answer
        );
    }
}

fn bytes(manifest: &Manifest, name: &str) -> u64 {
    manifest.files.get(name).map_or(0, |file| file.bytes)
}
