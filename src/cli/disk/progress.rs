//! How far long work is: a bar on the terminal, with rate and time left (O4).

use antipode_disk_sync::protocol::Status;
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};

const TEMPLATE: &str = "{prefix} {bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left  {msg}";

/// A bar on standard error; nothing is drawn where that is no terminal, or where JSON is asked for.
pub(super) struct Bar(ProgressBar);

impl Bar {
    pub(super) fn new(what: &'static str, bytes: u64, json: bool) -> Self {
        let target = if json {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let style = ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(Some(bytes), target);
        bar.set_style(style);
        bar.set_prefix(what);
        Self(bar)
    }

    pub(super) fn set_length(&self, bytes: u64) {
        self.0.set_length(bytes);
    }

    pub(super) fn advance(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    pub(super) fn set(&self, done: u64, of: u64) {
        self.0.set_length(of);
        self.0.set_position(done);
    }

    pub(super) fn show(&self, status: &Status) {
        self.0.set_length(status.bytes());
        self.0.set_position(status.bytes_done());
        if !self.0.is_hidden() {
            let (sent, received) = (HumanBytes(status.bytes_sent), HumanBytes(status.bytes_received));
            self.0.set_message(format!("sent {sent}, received {received}"));
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
