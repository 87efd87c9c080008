//! What was typed after `antipode disk`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum DiskCommand {
    /// Make the metadata of a replica, `IMAGE.replica`, for an image that is there or is made.
    Create {
        /// A raw image file or a block device.
        image: PathBuf,
        /// The VM whose disk this is: lower-case letters, digits and dashes.
        #[arg(long, value_name = "NAME")]
        vm: String,
        /// Make the image, of this size, such as 20G. It holds zeros and takes no room yet.
        #[arg(long, value_name = "SIZE")]
        size: Option<String>,
        /// What the image holds counts for nothing: it shall become a copy of another replica.
        #[arg(long)]
        empty: bool,
        /// The metadata's file, if it is not beside the image.
        #[arg(long, value_name = "FILE")]
        metadata: Option<PathBuf>,
    },
    /// Show what is known of a replica: state, lineage, what may differ from the other one.
    Info {
        /// The replica's image.
        image: PathBuf,
        /// The metadata's file, if it is not beside the image.
        #[arg(long, value_name = "FILE")]
        metadata: Option<PathBuf>,
    },
    /// Digest any file or block device: BLAKE3, as `b3sum` prints it, and the content root that replicas compare.
    Digest {
        /// A file or a block device, or `tls://HOST:PORT` where `disk serve` runs.
        image: String,
        /// The content root alone: holes and zeros take no time then.
        #[arg(long)]
        content: bool,
        /// Read everything, also what did not change since the last digest: a bad disk changes things by itself.
        #[arg(long)]
        full: bool,
        /// The replica's metadata, if it is one and that is not beside the image: what it was digested to before and did
        /// not change is not read again.
        #[arg(long, value_name = "FILE")]
        metadata: Option<PathBuf>,
        #[command(flatten)]
        proof: Proof,
    },
    /// Compare any two files or block devices, and show where they differ.
    Diff {
        /// One: a file or a block device, or `tls://HOST:PORT` where `disk serve` runs.
        one: String,
        /// The other one, likewise; one of them is of this host.
        other: String,
        #[command(flatten)]
        proof: Proof,
    },
    /// Make a target equal to a source, sending only what differs. Interrupted, the same command goes on.
    Sync {
        #[command(flatten)]
        ends: Ends,
        /// The most bytes that are sent in a second, such as 12M.
        #[arg(long, value_name = "RATE")]
        limit: Option<String>,
        /// Change nothing; show what would be sent.
        #[arg(long)]
        dry_run: bool,
        /// Compare everything, whatever the marks say.
        #[arg(long)]
        full: bool,
        /// What the target alone holds may be lost.
        #[arg(long)]
        discard_target: bool,
    },
    /// Compare two replicas whole, changing neither.
    Verify {
        #[command(flatten)]
        ends: Ends,
        /// The most bytes that are sent in a second, such as 12M.
        #[arg(long, value_name = "RATE")]
        limit: Option<String>,
    },
    /// Be the far end of `sync` and `verify` for one replica, and of `digest` and `diff` for any image.
    Serve {
        /// The image.
        image: PathBuf,
        /// Which end of `sync` and `verify` this is; without it, it is none, and `digest` and `diff` alone are served.
        #[arg(long = "as", value_name = "ROLE", value_parser = ["source", "target"])]
        role: Option<String>,
        /// Where to listen, such as 0.0.0.0:7420.
        #[arg(long, value_name = "ADDRESS:PORT")]
        listen: String,
        /// End after one session, with its exit code.
        #[arg(long)]
        once: bool,
        /// The most bytes that are sent in a second, such as 12M.
        #[arg(long, value_name = "RATE")]
        limit: Option<String>,
        /// The metadata's file, if it is not beside the image.
        #[arg(long, value_name = "FILE")]
        metadata: Option<PathBuf>,
        #[command(flatten)]
        proof: Proof,
    },
}

/// Both ends.
#[derive(Debug, Args)]
pub(in crate::cli) struct Ends {
    /// The replica that is copied from: an image, or `tls://HOST:PORT` where `disk serve --as source` runs.
    pub(super) source: String,
    /// The replica that becomes equal to it: an image, or `tls://HOST:PORT` where `disk serve --as target` runs.
    pub(super) target: String,
    /// The metadata of the source, if it is not beside its image.
    #[arg(long, value_name = "FILE")]
    pub(super) source_metadata: Option<PathBuf>,
    /// The metadata of the target, if it is not beside its image.
    #[arg(long, value_name = "FILE")]
    pub(super) target_metadata: Option<PathBuf>,
    #[command(flatten)]
    pub(super) proof: Proof,
}

/// Who we are and whom we trust.
#[derive(Debug, Args)]
pub(in crate::cli) struct Proof {
    /// Our certificate with its key; needed towards another host.
    #[arg(long, value_name = "FILE")]
    pub(super) cert: Option<PathBuf>,
    /// The CA's certificate, if it is not the `ca.crt` beside ours.
    #[arg(long, value_name = "FILE")]
    pub(super) ca: Option<PathBuf>,
    /// The only site that may be at the other end.
    #[arg(long, value_name = "NAME")]
    pub(super) peer: Option<String>,
}
