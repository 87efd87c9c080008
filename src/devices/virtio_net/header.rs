//! The 12-byte header of a frame (virtio 1.2 § 5.1.6) and which of its offloads a feature set allows.

use serde::{Deserialize, Serialize};
use virtio_bindings::bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_HDR_F_DATA_VALID, VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_ECN,
    VIRTIO_NET_HDR_GSO_NONE, VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6,
};

use crate::base::limits::FRAME_BYTES_MAX;
use crate::devices::virtio::{byte, feature};

/// Bytes of the header.
pub(super) const HEADER_BYTES: usize = 12;
/// Shortest Ethernet frame that says where it goes.
const ETHERNET_BYTES: usize = 14;

const NEEDS_CHECKSUM: u8 = byte(VIRTIO_NET_HDR_F_NEEDS_CSUM);
const DATA_VALID: u8 = byte(VIRTIO_NET_HDR_F_DATA_VALID);
const ECN: u8 = byte(VIRTIO_NET_HDR_GSO_ECN);
const GSO_NONE: u8 = byte(VIRTIO_NET_HDR_GSO_NONE);
const GSO_TCP4: u8 = byte(VIRTIO_NET_HDR_GSO_TCPV4);
const GSO_TCP6: u8 = byte(VIRTIO_NET_HDR_GSO_TCPV6);

/// Work that one direction of an interface may leave to the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Offloads {
    /// Checksums (`TUN_F_CSUM`); without it there is none of the others.
    pub checksum: bool,
    /// TCP segmentation over IPv4 (`TUN_F_TSO4`).
    pub tso4: bool,
    /// TCP segmentation over IPv6 (`TUN_F_TSO6`).
    pub tso6: bool,
    /// Segmentation of frames with ECN bits (`TUN_F_TSO_ECN`).
    pub ecn: bool,
}

/// Feature numbers of one direction, in the order of the fields of [`Offloads`].
pub(super) type OffloadFeatures = [u32; 4];

/// What the host does for frames that the guest transmits.
pub(super) const TRANSMIT: OffloadFeatures = [
    VIRTIO_NET_F_CSUM,
    VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_HOST_ECN,
];

/// What the guest does for frames that it receives.
pub(super) const RECEIVE: OffloadFeatures = [
    VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_GUEST_ECN,
];

impl Offloads {
    /// No offload.
    pub const NONE: Self = Self {
        checksum: false,
        tso4: false,
        tso6: false,
        ecn: false,
    };
    /// Every offload.
    pub const ALL: Self = Self {
        checksum: true,
        tso4: true,
        tso6: true,
        ecn: true,
    };

    /// Without those that lack what they build on (§ 5.1.3.1).
    pub(super) fn sound(self) -> Self {
        let tso4 = self.tso4 && self.checksum;
        let tso6 = self.tso6 && self.checksum;
        Self {
            checksum: self.checksum,
            tso4,
            tso6,
            ecn: self.ecn && (tso4 || tso6),
        }
    }

    pub(super) fn from_features(features: u64, [checksum, tso4, tso6, ecn]: OffloadFeatures) -> Self {
        let has = |number| features & feature(number) != 0;
        Self {
            checksum: has(checksum),
            tso4: has(tso4),
            tso6: has(tso6),
            ecn: has(ecn),
        }
    }

    pub(super) fn features(self, numbers: OffloadFeatures) -> u64 {
        let wanted = [self.checksum, self.tso4, self.tso6, self.ecn];
        let bits = numbers.iter().zip(wanted).filter(|(_, wanted)| *wanted);
        bits.map(|(number, _)| feature(*number)).sum()
    }

    /// Whether a header's segmentation type is among these; `needs_checksum` as its flags say.
    fn allow_segmentation(self, kind: u8, segment_bytes: u16, needs_checksum: bool) -> bool {
        let allowed = match kind & !ECN {
            GSO_NONE => return kind == GSO_NONE,
            GSO_TCP4 => self.tso4,
            GSO_TCP6 => self.tso6,
            _ => false,
        };
        allowed && needs_checksum && segment_bytes > 0 && (kind & ECN == 0 || self.ecn)
    }
}

/// Makes a frame from the guest fit for a TAP; `None` if it cannot be.
pub(super) fn mend_transmitted(mut frame: Vec<u8>, allowed: Offloads) -> Option<Vec<u8>> {
    let checked = check(&frame)?;
    let allowed_checksum = !checked.needs_checksum || (allowed.checksum && checked.checksum_place.is_some());
    let allowed_segments = allowed.allow_segmentation(
        checked.segmentation,
        checked.segment_bytes,
        checked.needs_checksum,
    );
    if !(allowed_checksum && allowed_segments) {
        return None;
    }
    frame[0] &= NEEDS_CHECKSUM;
    frame[10..HEADER_BYTES].fill(0);
    Some(frame)
}

/// Makes a frame from the TAP fit for a driver with `allowed` offloads; `None` if it cannot be.
pub(super) fn mend_received(mut frame: Vec<u8>, allowed: Offloads) -> Option<Vec<u8>> {
    let checked = check(&frame)?;
    if !allowed.allow_segmentation(
        checked.segmentation,
        checked.segment_bytes,
        checked.needs_checksum,
    ) {
        return None;
    }
    if allowed.checksum {
        frame[0] &= NEEDS_CHECKSUM | DATA_VALID;
        return Some(frame);
    }
    if checked.needs_checksum {
        let (start, place) = checked.checksum_place?;
        let sum = internet_checksum(&frame[start..]);
        frame[place..place + 2].copy_from_slice(&sum.to_be_bytes());
    }
    frame[0] = 0;
    Some(frame)
}

struct Checked {
    needs_checksum: bool,
    segmentation: u8,
    segment_bytes: u16,
    /// Where summing starts and where the sum goes, as indices into header and frame, if inside.
    checksum_place: Option<(usize, usize)>,
}

/// Reads the header of a frame whose length is sound.
fn check(frame: &[u8]) -> Option<Checked> {
    if !(HEADER_BYTES + ETHERNET_BYTES..=FRAME_BYTES_MAX).contains(&frame.len()) {
        return None;
    }
    let field = |at: usize| u16::from_le_bytes([frame[at], frame[at + 1]]);
    let start = HEADER_BYTES + usize::from(field(6));
    let place = start + usize::from(field(8));
    Some(Checked {
        needs_checksum: frame[0] & NEEDS_CHECKSUM != 0,
        segmentation: frame[1],
        segment_bytes: field(4),
        checksum_place: (place + 2 <= frame.len()).then_some((start, place)),
    })
}

/// RFC 1071 over `bytes`, in which the sum's place holds the pseudo-header's sum. A zero is sent as its other form,
/// which TCP takes too and UDP must have.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| {
        let [high, low] = [pair[0], pair.get(1).copied().unwrap_or(0)];
        u64::from(u16::from_be_bytes([high, low]))
    });
    let mut sum: u64 = words.sum();
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    match !u16::try_from(sum).unwrap_or(u16::MAX) {
        0 => 0xFFFF,
        checksum => checksum,
    }
}
