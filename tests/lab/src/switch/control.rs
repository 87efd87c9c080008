//! Commands to a running switch and its answers: one JSON object a line, over a unix socket.
//!
//! ```text
//! {"do":"shape","port":"site-a.wan","way":"tx","shape":{"latency_us":5000,"loss_ppm":1000}}
//! {"do":"shape","port":"site-a.wan","shape":{"cut":true}}        both ways when "way" is absent
//! {"do":"clear"}                                                  every port; or one, or one way of it
//! {"do":"ports"}                                                  shapes and counters
//! {"do":"capture_start","file":"/…/lan.pcapng","ports":["site-a.lan"]}    all ports when absent
//! {"do":"capture_stop"}
//! {"do":"add_port","name":"x.lan","segment":"lan","socket":"/…/x.lan.sock"}
//! {"do":"stop"}
//! ```
//!
//! Every command gets exactly one answer, in order. A refused command changes nothing.

use super::fabric::Way;
use super::link::{Counters, Shape, ShapeChange};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The longest command or answer accepted.
pub const LINE_BYTES_MAX: usize = 1 << 20;

/// What `antipode-lab switch --config` reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// All chance follows from it.
    pub seed: u64,
    /// Where commands are taken.
    pub control: PathBuf,
    /// The cables.
    #[serde(default)]
    pub ports: Vec<PortConfig>,
}

/// One cable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortConfig {
    /// Unique; by convention `<host>.<segment>`.
    pub name: String,
    /// Its broadcast domain.
    pub segment: String,
    /// The unix socket on which the switch waits for QEMU.
    pub socket: PathBuf,
}

/// What a running switch can be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Change the shape of a port; what the change leaves out stays.
    Shape {
        /// The port's name.
        port: String,
        /// One way, or both.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        way: Option<Way>,
        /// What to change.
        shape: ShapeChange,
    },
    /// Make links perfect again.
    Clear {
        /// One port, or all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        port: Option<String>,
        /// One way, or both.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        way: Option<Way>,
    },
    /// Report every port.
    Ports,
    /// Capture frames into a new pcapng file until told to stop.
    CaptureStart {
        /// Created; must not exist.
        file: PathBuf,
        /// Names, or every port, including ones added later.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ports: Option<Vec<String>>,
    },
    /// End the capture; the file is complete when this is answered.
    CaptureStop,
    /// Add a cable.
    AddPort(PortConfig),
    /// End the switch.
    Stop,
}

/// What the switch answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// Whether it was done.
    pub ok: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// For [`Command::Ports`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<PortReport>>,
    /// For [`Command::CaptureStop`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub captured_frames: Option<u64>,
}

impl Answer {
    /// Done, nothing to report.
    #[must_use]
    pub fn done() -> Self {
        Self {
            ok: true,
            error: None,
            ports: None,
            captured_frames: None,
        }
    }

    /// Not done.
    #[must_use]
    pub fn refused(error: impl Into<String>) -> Self {
        Self {
            ok: false,
            error: Some(error.into()),
            ..Self::done()
        }
    }
}

/// One port in [`Answer::ports`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortReport {
    /// Its name.
    pub name: String,
    /// Its broadcast domain.
    pub segment: String,
    /// Whether a host is connected now.
    pub connected: bool,
    /// What the host sends.
    pub tx: WayReport,
    /// What the host receives.
    pub rx: WayReport,
}

/// One way of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WayReport {
    /// Its present shape.
    pub shape: Shape,
    /// What it counted since the port was added.
    pub counters: Counters,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_lines_are_understood() {
        let header = include_str!("control.rs");
        let examples = header.lines().filter_map(|line| line.strip_prefix("//! {"));
        let mut count = 0;
        for example in examples {
            let line = format!("{{{example}");
            let json = &line[..=line.rfind('}').unwrap()];
            serde_json::from_str::<Command>(json).unwrap_or_else(|error| panic!("{json}: {error}"));
            count += 1;
        }
        assert_eq!(count, 8);
    }

    #[test]
    fn an_unknown_field_is_an_error_not_a_surprise() {
        let typo = r#"{"do":"shape","port":"a","shape":{"latency_ms":5}}"#;
        assert!(
            serde_json::from_str::<Command>(typo)
                .unwrap_err()
                .to_string()
                .contains("latency_ms")
        );
    }
}
