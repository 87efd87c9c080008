//! A guest's frames as a cable carries them. A guest leaves work to its host (virtio 1.2 § 5.1.6): a checksum, and to cut
//! what it hands over at once into segments. A host whose own card does neither has done both when the frame leaves, as
//! the kernel's `skb_checksum_help` and `tcp_gso_segment` do them.
//!
//! The other way round, what is on a cable may have been handed over as it is, or with that work left, as Linux leaves it.

/// The virtio-net header before each frame.
const HEADER_BYTES: usize = 12;
const NEEDS_CHECKSUM: u8 = 1;
const SEGMENTS_NONE: u8 = 0;
const SEGMENTS_TCP4: u8 = 1;
const SEGMENTS_ECN: u8 = 0x80;

const ETHERNET_BYTES: usize = 14;
const IP_TOTAL_LENGTH: usize = 2;
const IP_ID: usize = 4;
const IP_CHECKSUM: usize = 10;
const IP_ADDRESSES: std::ops::Range<usize> = 12..20;
const TCP_SEQUENCE: usize = 4;
const TCP_DATA_OFFSET: usize = 12;
/// Of a header without options.
const TCP_WORDS_MIN: usize = 5;
const TCP_FLAGS: usize = 13;
const TCP_CHECKSUM: usize = 16;
const TCP_PROTOCOL: u8 = 6;
const UDP_PROTOCOL: u8 = 17;
const IP_PROTOCOL: usize = 9;
const UDP_CHECKSUM: usize = 6;
/// Only in the last segment.
const FIN_AND_PUSH: u8 = 0x01 | 0x08;
/// Only in the first.
const WINDOW_REDUCED: u8 = 0x80;

/// The frames that `made`, with its virtio-net header, is on a cable. None where the header asks for what no guest of the
/// lab asks for: such a frame is not known.
#[must_use]
pub fn as_on_a_cable(made: &[u8]) -> Vec<Vec<u8>> {
    finished(made).unwrap_or_default()
}

fn finished(made: &[u8]) -> Option<Vec<Vec<u8>>> {
    let (header, frame) = made.split_at_checked(HEADER_BYTES)?;
    let half = |at: usize| usize::from(u16::from_le_bytes([header[at], header[at + 1]]));
    match header[1] & !SEGMENTS_ECN {
        SEGMENTS_NONE => {
            let mut frame = frame.to_vec();
            if header[0] & NEEDS_CHECKSUM != 0 {
                let (start, offset) = (half(6), half(8));
                let sum = match !folded(sum(frame.get(start..)?)) {
                    0 => u16::MAX,
                    sum => sum,
                };
                put(frame.get_mut(start + offset..)?, sum)?;
            }
            Some(vec![frame])
        }
        SEGMENTS_TCP4 => segments(frame, half(4)),
        _ => None,
    }
}

fn segments(frame: &[u8], size: usize) -> Option<Vec<Vec<u8>>> {
    let ip_bytes = usize::from(frame.get(ETHERNET_BYTES)? & 0xf) * 4;
    let tcp = ETHERNET_BYTES + ip_bytes;
    let payload = tcp + usize::from(frame.get(tcp + TCP_DATA_OFFSET)? >> 4) * 4;
    let (heads, data) = frame.split_at_checked(payload)?;
    let ip = ETHERNET_BYTES;
    let id = u16::from_be_bytes(*heads.get(ip + IP_ID..)?.first_chunk()?);
    let sequence = u32::from_be_bytes(*heads.get(tcp + TCP_SEQUENCE..)?.first_chunk()?);
    let count = data.chunks(size.max(1)).count();
    let mut cut = Vec::with_capacity(count);
    for (index, piece) in data.chunks(size.max(1)).enumerate() {
        let mut segment = [heads, piece].concat();
        let total = u16::try_from(segment.len() - ETHERNET_BYTES).ok()?;
        put(&mut segment[ip + IP_TOTAL_LENGTH..], total)?;
        put(
            &mut segment[ip + IP_ID..],
            id.wrapping_add(u16::try_from(index).ok()?),
        )?;
        put(&mut segment[ip + IP_CHECKSUM..], 0)?;
        let sum_of_ip = !folded(sum(&segment[ip..tcp]));
        put(&mut segment[ip + IP_CHECKSUM..], sum_of_ip)?;
        let at = sequence.wrapping_add(u32::try_from(index * size).ok()?);
        segment[tcp + TCP_SEQUENCE..][..4].copy_from_slice(&at.to_be_bytes());
        if index > 0 {
            segment[tcp + TCP_FLAGS] &= !WINDOW_REDUCED;
        }
        if index + 1 < count {
            segment[tcp + TCP_FLAGS] &= !FIN_AND_PUSH;
        }
        put(&mut segment[tcp + TCP_CHECKSUM..], 0)?;
        let tcp_bytes = u32::try_from(segment.len() - tcp).ok()?;
        let addresses = sum(&segment[ip + IP_ADDRESSES.start..ip + IP_ADDRESSES.end]);
        let of_tcp = addresses + u32::from(TCP_PROTOCOL) + tcp_bytes + sum(&segment[tcp..]);
        put(&mut segment[tcp + TCP_CHECKSUM..], !folded(of_tcp))?;
        cut.push(segment);
    }
    Some(cut)
}

/// All that a guest may have handed over at once, with the virtio-net header, that is these `frames` on a cable. None where
/// they were not handed over at once.
#[must_use]
pub fn as_made(frames: &[&[u8]]) -> Vec<Vec<u8>> {
    let possible = match frames {
        [frame] => vec![
            Some([&[0; HEADER_BYTES], *frame].concat()),
            left_to_host(frame, &[], 0),
        ],
        [first, rest @ ..] => vec![joined(first, rest)],
        [] => Vec::new(),
    };
    let is_so = |made: &Vec<u8>| as_on_a_cable(made)[..] == *frames;
    possible.into_iter().flatten().filter(is_so).collect()
}

/// What was cut into these segments.
fn joined(first: &[u8], rest: &[&[u8]]) -> Option<Vec<u8>> {
    let tcp = ETHERNET_BYTES + usize::from(first.get(ETHERNET_BYTES)? & 0xf) * 4;
    let words = usize::from(first.get(tcp + TCP_DATA_OFFSET)? >> 4);
    if words < TCP_WORDS_MIN {
        return None;
    }
    let payload = tcp + words * 4;
    let data: Option<Vec<&[u8]>> = rest.iter().map(|segment| segment.get(payload..)).collect();
    let last_flags = *rest.last()?.get(tcp + TCP_FLAGS)?;
    let mut head = first.to_vec();
    *head.get_mut(tcp + TCP_FLAGS)? |= last_flags & FIN_AND_PUSH;
    left_to_host(&head, &data?.concat(), first.get(payload..)?.len())
}

/// `frame` with `more` data of its protocol, its checksum left to the host and, where it has to be cut into segments of
/// `segment` bytes of data, that as well.
fn left_to_host(frame: &[u8], more: &[u8], segment: usize) -> Option<Vec<u8>> {
    let ip = ETHERNET_BYTES;
    let start = ip + usize::from(frame.get(ip)? & 0xf) * 4;
    let protocol = *frame.get(ip + IP_PROTOCOL)?;
    let place = match (frame[ip] >> 4, protocol) {
        (4, TCP_PROTOCOL) => TCP_CHECKSUM,
        (4, UDP_PROTOCOL) if segment == 0 => UDP_CHECKSUM,
        _ => return None,
    };
    let mut whole = [frame, more].concat();
    let length = u16::try_from(whole.len().checked_sub(start)?).ok()?;
    let addresses = sum(whole.get(ip + IP_ADDRESSES.start..ip + IP_ADDRESSES.end)?);
    let of_pseudo_header = folded(addresses + u32::from(protocol) + u32::from(length));
    put(whole.get_mut(start + place..)?, of_pseudo_header)?;
    let mut header = [0; HEADER_BYTES];
    header[0] = NEEDS_CHECKSUM;
    if segment > 0 {
        put(
            &mut whole[ip + IP_TOTAL_LENGTH..],
            u16::try_from(frame.len() + more.len() - ip).ok()?,
        )?;
        put(&mut whole[ip + IP_CHECKSUM..], 0)?;
        let sum_of_ip = !folded(sum(&whole[ip..start]));
        put(&mut whole[ip + IP_CHECKSUM..], sum_of_ip)?;
        header[1] = SEGMENTS_TCP4;
        let heads = u16::try_from(frame.len() - segment).ok()?;
        header[2..4].copy_from_slice(&heads.to_le_bytes());
        header[4..6].copy_from_slice(&u16::try_from(segment).ok()?.to_le_bytes());
    }
    header[6..8].copy_from_slice(&u16::try_from(start).ok()?.to_le_bytes());
    header[8..10].copy_from_slice(&u16::try_from(place).ok()?.to_le_bytes());
    Some([&header[..], &whole].concat())
}

fn put(place: &mut [u8], value: u16) -> Option<()> {
    *place.first_chunk_mut()? = value.to_be_bytes();
    Some(())
}

/// The sum of RFC 1071, not folded. A frame is far shorter than what would overflow it.
fn sum(bytes: &[u8]) -> u32 {
    let words = bytes
        .chunks(2)
        .map(|word| [word[0], word.get(1).copied().unwrap_or(0)]);
    words.map(|word| u32::from(u16::from_be_bytes(word))).sum()
}

fn folded(mut sum: u32) -> u16 {
    while sum > u32::from(u16::MAX) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: usize = ETHERNET_BYTES + 20;

    /// A TCP segment of 10.0.0.1 to 10.0.0.2, its checksum the guest's part alone: of the pseudo header.
    fn segment(data: &[u8], flags: u8) -> Vec<u8> {
        let mut frame = vec![0; TCP + 20];
        frame[ETHERNET_BYTES] = 0x45;
        frame[ETHERNET_BYTES + 8..][..2].copy_from_slice(&[64, TCP_PROTOCOL]);
        frame[ETHERNET_BYTES + 12..][..8].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        put(&mut frame[ETHERNET_BYTES + IP_ID..], 0xffff).unwrap();
        put(
            &mut frame[ETHERNET_BYTES + IP_TOTAL_LENGTH..],
            u16::try_from(40 + data.len()).unwrap(),
        )
        .unwrap();
        frame[TCP + TCP_SEQUENCE..][..4].copy_from_slice(&u32::MAX.to_be_bytes());
        frame[TCP + TCP_DATA_OFFSET] = 0x50;
        frame[TCP + TCP_FLAGS] = flags;
        let pseudo = sum(&[10, 0, 0, 1, 10, 0, 0, 2]) + 6 + u32::try_from(20 + data.len()).unwrap();
        put(&mut frame[TCP + TCP_CHECKSUM..], folded(pseudo)).unwrap();
        frame.extend_from_slice(data);
        frame
    }

    fn made(header: [u8; HEADER_BYTES], frame: &[u8]) -> Vec<u8> {
        [&header[..], frame].concat()
    }

    /// The sum over pseudo header and segment of a frame whose checksum is right.
    fn verified(frame: &[u8]) -> u16 {
        let tcp_bytes = u32::try_from(frame.len() - TCP).unwrap();
        folded(sum(&frame[ETHERNET_BYTES + 12..][..8]) + 6 + tcp_bytes + sum(&frame[TCP..]))
    }

    const START: u8 = 34;

    #[test]
    fn a_frame_to_which_no_work_is_left_is_as_it_was_made() {
        assert_eq!(as_on_a_cable(&made([0; 12], b"frame")), [b"frame"]);
        assert!(as_on_a_cable(&[0; 11]).is_empty());
        assert!(
            as_on_a_cable(&made(
                [1, 4, 0, 0, 1, 0, START, 0, 16, 0, 0, 0],
                &segment(b"six", 0)
            ))
            .is_empty(),
            "TCP over IPv6 is not cut here"
        );
    }

    #[test]
    fn a_checksum_is_filled_in() {
        let header = [1, 0, 0, 0, 0, 0, START, 0, 16, 0, 0, 0];
        let frames = as_on_a_cable(&made(header, &segment(b"odd", 0x18)));
        assert_eq!(frames.len(), 1);
        assert_eq!(verified(&frames[0]), 0xffff);
        assert_eq!(&frames[0][TCP + 20..], b"odd");
        assert!(as_on_a_cable(&made([1, 0, 0, 0, 0, 0, 200, 0, 16, 0, 0, 0], b"short")).is_empty());
    }

    #[test]
    fn what_is_on_a_cable_is_led_back_to_what_was_made() {
        let back = |made: &[u8]| {
            let frames = as_on_a_cable(made);
            as_made(&frames.iter().map(Vec::as_slice).collect::<Vec<_>>())
        };
        let whole = made([0; 12], b"no packet");
        assert_eq!(back(&whole), [&whole[..]]);
        let checksum_left = made([1, 0, 0, 0, 0, 0, START, 0, 16, 0, 0, 0], &segment(b"odd", 0x18));
        assert!(back(&checksum_left).contains(&checksum_left));
        let mut to_be_cut = segment(b"0123456789", 0x19);
        let sum_of_ip = !folded(sum(&to_be_cut[ETHERNET_BYTES..TCP]));
        put(&mut to_be_cut[ETHERNET_BYTES + IP_CHECKSUM..], sum_of_ip).unwrap();
        let to_be_cut = made([1, SEGMENTS_TCP4, 54, 0, 4, 0, START, 0, 16, 0, 0, 0], &to_be_cut);
        assert_eq!(back(&to_be_cut), [&to_be_cut[..]]);
        let cut = as_on_a_cable(&to_be_cut);
        assert!(as_made(&[&cut[0], &cut[2]]).is_empty(), "one is missing");
        assert!(as_made(&[&cut[1], &cut[0]]).is_empty(), "in another order");
        assert!(as_made(&[b"no packet", b"no other"]).is_empty());
        assert!(as_made(&[]).is_empty());
    }

    #[test]
    fn what_was_handed_over_at_once_is_cut_into_segments() {
        let header = [1, SEGMENTS_TCP4 | SEGMENTS_ECN, 0, 0, 4, 0, START, 0, 16, 0, 0, 0];
        let frames = as_on_a_cable(&made(header, &segment(b"0123456789", 0x99)));
        let told: Vec<_> = frames
            .iter()
            .map(|frame| {
                assert_eq!(verified(frame), 0xffff);
                assert_eq!(folded(sum(&frame[ETHERNET_BYTES..TCP])), 0xffff);
                let half = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
                let sequence = u32::from_be_bytes(*frame[TCP + TCP_SEQUENCE..].first_chunk().unwrap());
                (
                    half(ETHERNET_BYTES + IP_TOTAL_LENGTH),
                    half(ETHERNET_BYTES + IP_ID),
                    sequence,
                    frame[TCP + TCP_FLAGS],
                    &frame[TCP + 20..],
                )
            })
            .collect();
        let expected = [
            (44, 0xffff, u32::MAX, 0x90, &b"0123"[..]),
            (44, 0, 3, 0x10, b"4567"),
            (42, 1, 7, 0x19, b"89"),
        ];
        assert_eq!(told, expected);
    }
}
