//! What was typed after `antipode certs`.

use std::path::PathBuf;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum CertsCommand {
    /// Make a private CA: its key, `ca.key`, and its certificate, `ca.crt`.
    Init {
        /// Where to; made if it is not there.
        #[arg(default_value = ".")]
        folder: PathBuf,
        /// Days that the CA lives.
        #[arg(long, value_name = "DAYS", default_value_t = antipode_certs::limits::AUTHORITY_DAYS_DEFAULT)]
        days: u32,
    },
    /// Issue a certificate with a new key, in one file, `ROLE-NAME.pem`.
    Issue {
        /// What its holder does: site, tiebreaker or operator.
        role: String,
        /// Which one its holder is, such as `berlin`.
        name: String,
        /// The folder with `ca.key` and `ca.crt`.
        #[arg(long, value_name = "FOLDER", default_value = ".")]
        ca: PathBuf,
        /// Where to, with a copy of `ca.crt`, if not beside the CA.
        #[arg(long, value_name = "FOLDER")]
        into: Option<PathBuf>,
        /// Days that the certificate lives.
        #[arg(long, value_name = "DAYS", default_value_t = antipode_certs::limits::LEAF_DAYS_DEFAULT)]
        days: u32,
    },
    /// Show certificates: whose they are, who signed them, when they end. Proves nothing: see `verify`.
    Show {
        /// Files, or folders of them.
        #[arg(default_value = ".")]
        paths: Vec<PathBuf>,
    },
    /// Replace certificates and their keys by new ones for the same holders. Running daemons take them up by
    /// themselves.
    Renew {
        /// The files to replace.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// The folder with `ca.key` and `ca.crt`.
        #[arg(long, value_name = "FOLDER", default_value = ".")]
        ca: PathBuf,
        /// Days that the new certificates live.
        #[arg(long, value_name = "DAYS", default_value_t = antipode_certs::limits::LEAF_DAYS_DEFAULT)]
        days: u32,
    },
    /// Check a certificate with its key and CA as a daemon does before it starts.
    Verify {
        /// Certificate and key.
        file: PathBuf,
        /// The CA's certificate, if it is not the `ca.crt` beside the file.
        #[arg(long, value_name = "FILE")]
        ca: Option<PathBuf>,
        /// The role that its holder must have.
        #[arg(long, value_name = "ROLE")]
        role: Option<String>,
    },
}
