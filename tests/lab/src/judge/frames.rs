//! The VM's frames in a capture.

use crate::switch::capture::Captured;
use crate::switch::fabric::Way;

/// One frame that a site sent in the VM's name, as the switch took it from the site's cable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// The port's name.
    pub port: String,
    /// Nanoseconds since 1970.
    pub nanos: u64,
    /// The frame.
    pub frame: Vec<u8>,
}

/// Bytes of an Ethernet header that come before the sender's address.
const DESTINATION_BYTES: usize = 6;

/// What hosts have sent whose sender is `mac`, in the order in which the switch saw it.
#[must_use]
pub fn sightings(captured: &[Captured], mac: [u8; 6]) -> Vec<Sighting> {
    let sent = captured.iter().filter(|captured| {
        captured.way == Way::Tx
            && captured
                .frame
                .get(DESTINATION_BYTES..DESTINATION_BYTES + mac.len())
                == Some(&mac[..])
    });
    let mut found: Vec<Sighting> = sent
        .map(|captured| Sighting {
            port: captured.port.clone(),
            nanos: captured.nanos,
            frame: captured.frame.clone(),
        })
        .collect();
    // The wall clock may have been set back between two frames; the file's order is the truth where it is equal.
    found.sort_by_key(|sighting| sighting.nanos);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const VM: [u8; 6] = [2, 0, 0, 0, 0, 9];

    fn captured(port: &str, way: Way, nanos: u64, from: [u8; 6]) -> Captured {
        Captured {
            port: port.to_owned(),
            way,
            nanos,
            frame: [&[0xff; 6][..], &from, b"rest"].concat(),
        }
    }

    #[test]
    fn only_what_a_host_sent_in_the_vms_name_is_seen() {
        let capture = [
            captured("b", Way::Tx, 20, VM),
            captured("a", Way::Tx, 10, VM),
            captured("a", Way::Rx, 11, VM),
            captured("a", Way::Tx, 12, [2, 0, 0, 0, 0, 8]),
        ];
        let found = sightings(&capture, VM);
        let places: Vec<_> = found
            .iter()
            .map(|sighting| (sighting.port.as_str(), sighting.nanos))
            .collect();
        assert_eq!(places, [("a", 10), ("b", 20)]);
    }

    #[test]
    fn a_frame_too_short_for_a_sender_is_nobodys() {
        let mut short = captured("a", Way::Tx, 1, VM);
        short.frame.truncate(11);
        assert!(sightings(&[short], VM).is_empty());
    }
}
