//! What was typed after `antipode tiebreaker`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// The configuration of the cluster, and of this node where there is one here.
#[derive(Debug, Args)]
pub(in crate::cli) struct ConfigFile {
    /// The tiebreaker's configuration file.
    #[arg(long, value_name = "FILE", default_value = "tb.toml")]
    pub(super) config: PathBuf,
}

/// An operator's change: of which VM, in which state of its record.
#[derive(Debug, Args)]
pub(in crate::cli) struct Target {
    /// The VM's name.
    pub(super) vm: String,
    /// The generation that the record has, as `vm show` says: the change is refused if another came first.
    #[arg(long, value_name = "NUMBER")]
    pub(super) generation: u64,
    #[command(flatten)]
    pub(super) file: ConfigFile,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum TiebreakerCommand {
    /// Make the data of a node of a new cluster.
    Init(ConfigFile),
    /// Run a node until a signal ends it.
    Run(ConfigFile),
    /// Give a node that has lost its disk a new id in its cluster, and make its data.
    Rejoin(ConfigFile),
    /// Say how the cluster and every VM's record are.
    Status(ConfigFile),
    /// Show and set records of VMs.
    #[command(subcommand)]
    Vm(VmCommand),
    /// Decide by hand who may be live: that site alone may start, whatever it has. Refused while another site of the
    /// VM is in touch with the tiebreaker.
    Force {
        #[command(flatten)]
        target: Target,
        /// The site.
        #[arg(long, value_name = "SITE")]
        site: String,
        /// Why; kept in the record's history.
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Write every record to a new file.
    Backup {
        /// The file.
        file: PathBuf,
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Make the data of a node of a cluster that begins anew from a backup, the same for all its nodes.
    Restore {
        /// The backup.
        file: PathBuf,
        /// What happened since the backup is forgotten: confirms that no site runs a VM of this cluster.
        #[arg(long, required = true)]
        every_site_is_stopped: bool,
        #[command(flatten)]
        config: ConfigFile,
    },
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum VmCommand {
    /// Show who holds each VM.
    List(ConfigFile),
    /// Show one VM's record with its history.
    Show {
        /// The VM's name.
        vm: String,
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Set which site is preferred and how flushes are made from the next pairing on.
    Configure {
        #[command(flatten)]
        target: Target,
        /// The site with the head start; none if not given.
        #[arg(long, value_name = "SITE")]
        preferred: Option<String>,
        /// When a guest's flush is complete: `site` or `both`.
        #[arg(long, value_name = "HOW", default_value = "site")]
        flush: String,
    },
    /// Give a VM up. Its name may be registered anew.
    Retire {
        #[command(flatten)]
        target: Target,
        /// Why; kept in the record's history.
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
}
