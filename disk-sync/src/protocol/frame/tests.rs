//! Frames as bytes and back, and bytes that are none.

use proptest::prelude::*;

use super::*;
use crate::replica::{GenerationId, SyncKey};

fn runs() -> impl Strategy<Value = Vec<Run>> {
    proptest::collection::vec((any::<u64>(), any::<u32>()), 0..50).prop_map(|runs| {
        runs.into_iter()
            .map(|(first, count)| Run::new(first, u64::from(count)))
            .collect()
    })
}

fn values(most: usize) -> impl Strategy<Value = Vec<Value>> {
    let value = prop_oneof![Just(Value::ZERO), any::<[u8; 32]>().prop_map(Value)];
    proptest::collection::vec(value, 1..=most)
}

fn hellos() -> impl Strategy<Value = Frame> {
    let lineage = proptest::option::of((any::<[u8; 16]>(), any::<Option<[u8; 16]>>()));
    (any::<[bool; 6]>(), any::<(u64, [u8; 16], u8)>(), lineage).prop_map(
        |(flags, (length, id, state), lineage)| {
            Frame::Hello(Box::new(Hello {
                version: VERSION,
                role: if flags[0] { Role::Source } else { Role::Target },
                consent: Consent {
                    discard: flags[1],
                    compare_all: flags[2],
                },
                dry_run: flags[3],
                length,
                summary: Some(Summary {
                    vm: "a-vm".parse().unwrap(),
                    replica: ReplicaId(id),
                    state: match state % 3 {
                        0 => State::Clean,
                        1 => State::Stale,
                        _ => State::Syncing(SyncKey {
                            source: ReplicaId(id),
                            generation: GenerationId(id),
                        }),
                    },
                    lineage: lineage.map(|(current, base)| Lineage {
                        current: GenerationId(current),
                        base: base.map(GenerationId),
                        history: vec![GenerationId(id)],
                    }),
                    has_marks: flags[4],
                    was_changed_behind: flags[5],
                }),
            }))
        },
    )
}

pub(crate) fn frames() -> impl Strategy<Value = Frame> {
    prop_oneof![
        hellos(),
        (runs(), any::<bool>()).prop_map(|(runs, last)| Frame::Marks { runs, last }),
        (runs(), any::<bool>()).prop_map(|(runs, last)| Frame::Work { runs, last }),
        (any::<u64>(), values(100)).prop_map(|(first, values)| Frame::Regions { first, values }),
        any::<(u64, u64)>().prop_map(|(first, count)| Frame::Zeros(Run::new(first, count))),
        proptest::collection::vec(any::<u64>(), 0..50).prop_map(Frame::Ask),
        (any::<u64>(), values(16)).prop_map(|(region, values)| Frame::Leaves { region, values }),
        (any::<u64>(), 1..=16_u64, any::<bool>(), any::<Vec<u8>>()).prop_map(
            |(first, count, compressed, bytes)| {
                Frame::Data {
                    leaves: Run::new(first, count),
                    compressed,
                    bytes,
                }
            }
        ),
        any::<(u64, u64)>().prop_map(|(first, count)| Frame::Clear(Run::new(first, count))),
        (runs(), any::<bool>()).prop_map(|(regions, last)| Frame::Settled { regions, last }),
        any::<u64>().prop_map(Frame::Compared),
        any::<[u8; 32]>().prop_map(|root| Frame::End(ContentRoot(root))),
        any::<[u8; 32]>().prop_map(|root| Frame::Equal(ContentRoot(root))),
        "[a-z ]{0,100}".prop_map(Frame::Abort),
        any::<bool>().prop_map(|is_source| Frame::Hello(Box::new(Hello {
            version: VERSION,
            role: if is_source { Role::Source } else { Role::Target },
            consent: Consent::default(),
            dry_run: false,
            length: 7,
            summary: None,
        }))),
        any::<(bool, bool)>().prop_map(|(content_only, everything)| {
            Frame::Digest(DigestRequest {
                content_only,
                everything,
            })
        }),
        any::<(u64, u64)>().prop_map(|(done, of)| Frame::Hashing { done, of }),
        any::<(u64, u64, [u8; 32], Option<[u8; 32]>)>().prop_map(|(bytes, bytes_hashed, content, plain)| {
            Frame::Digested(Digested {
                bytes,
                bytes_hashed,
                content: ContentRoot(content),
                plain,
            })
        }),
    ]
}

proptest! {
    #[test]
    fn what_was_sent_is_received(frame in frames()) {
        prop_assert_eq!(Frame::decode(&frame.encode()), Ok(frame));
    }

    #[test]
    fn a_frame_cut_off_is_refused_or_carries_open_bytes(frame in frames(), at in any::<prop::sample::Index>()) {
        let body = frame.encode();
        let cut = at.index(body.len());
        let open_ended = matches!(frame, Frame::Data { .. } | Frame::Abort(_));
        prop_assert!(open_ended || Frame::decode(&body[..cut]).is_err());
    }

    #[test]
    fn bytes_left_over_are_refused(frame in frames()) {
        let body = [frame.encode(), vec![0]].concat();
        let open_ended = matches!(frame, Frame::Data { .. } | Frame::Abort(_));
        prop_assert!(open_ended || Frame::decode(&body).is_err());
    }

    #[test]
    fn any_bytes_are_a_frame_or_refused(kind in 0..20_u8, bytes in any::<Vec<u8>>()) {
        let body = [vec![kind], bytes].concat();
        if let Ok(frame) = Frame::decode(&body) {
            prop_assert_eq!(Frame::decode(&frame.encode()), Ok(frame));
        }
    }
}

#[test]
fn counts_beyond_the_limits_are_refused_before_anything_is_made_of_them() {
    let mut ask = vec![6];
    ask.extend(u32::MAX.to_le_bytes());
    assert_eq!(Frame::decode(&ask), Err(Malformed::Field("count of regions")));
    let mut marks = vec![2, 1];
    marks.extend(u32::MAX.to_le_bytes());
    assert_eq!(Frame::decode(&marks), Err(Malformed::Field("count of runs")));
    assert_eq!(
        Frame::decode(&vec![14; FRAME_BYTES_MAX + 1]),
        Err(Malformed::Long)
    );
    let other = [vec![1], (VERSION + 1).to_le_bytes().to_vec()].concat();
    assert_eq!(Frame::decode(&other), Err(Malformed::Field("version")));
    let other = [vec![15], (VERSION + 1).to_le_bytes().to_vec()].concat();
    assert_eq!(Frame::decode(&other), Err(Malformed::Field("version")));
}

#[test]
fn what_a_peer_says_cannot_steer_a_terminal() {
    let said = Frame::decode(b"\x0e\x1b[2Jgone\n").unwrap();
    assert_eq!(said, Frame::Abort(" [2Jgone ".into()));
}
