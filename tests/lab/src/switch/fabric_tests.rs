use super::*;
use proptest::prelude::*;

const BROADCAST: u8 = 0xff;

/// A frame from one host to another; addresses are `02:00:00:00:00:<n>`.
fn frame(from: u8, to: u8, tag: u8) -> Frame {
    let address = |n: u8| {
        if n == BROADCAST {
            [BROADCAST; 6]
        } else {
            [2, 0, 0, 0, 0, n]
        }
    };
    let mut bytes = Vec::from(address(to));
    bytes.extend(address(from));
    bytes.extend([0x08, 0x00, tag]);
    bytes.into()
}

fn fabric(seed: u64, ports: usize) -> Fabric {
    let mut fabric = Fabric::new(seed);
    for port in 0..ports {
        fabric.add_port(&format!("p{port}"), "lan");
    }
    fabric
}

fn send(fabric: &mut Fabric, from: u8, to: u8, tag: u8, now: Nanos) -> Vec<Effect> {
    let mut effects = Vec::new();
    let event = Event::Frame {
        port: PortId(usize::from(from)),
        frame: frame(from, to, tag),
    };
    fabric.step(event, now, &mut effects);
    effects
}

fn tick(fabric: &mut Fabric, now: Nanos) -> Vec<Effect> {
    let mut effects = Vec::new();
    fabric.step(Event::Tick, now, &mut effects);
    effects
}

fn deliver(port: usize, frame: Frame) -> Effect {
    Effect::Deliver {
        port: PortId(port),
        frame,
    }
}

fn set(fabric: &mut Fabric, port: usize, way: Way, change: ShapeChange) {
    fabric.reshape(PortId(port), way, change).unwrap();
}

#[test]
fn an_unknown_destination_is_flooded_and_a_known_one_is_not() {
    let mut fabric = fabric(1, 3);
    let flooded = send(&mut fabric, 0, 1, 7, 0);
    assert_eq!(flooded, [deliver(1, frame(0, 1, 7)), deliver(2, frame(0, 1, 7))]);
    assert_eq!(send(&mut fabric, 1, 0, 8, 1), [deliver(0, frame(1, 0, 8))]);
}

#[test]
fn an_address_that_moves_is_learnt_again() {
    let mut fabric = fabric(1, 3);
    send(&mut fabric, 0, BROADCAST, 0, 0);
    let mut effects = Vec::new();
    // Host 0's address speaks from port 2: a guest that went live elsewhere.
    fabric.step(
        Event::Frame {
            port: PortId(2),
            frame: frame(0, BROADCAST, 0),
        },
        1,
        &mut effects,
    );
    assert_eq!(send(&mut fabric, 1, 0, 9, 2), [deliver(2, frame(1, 0, 9))]);
}

#[test]
fn a_silent_address_is_forgotten() {
    let mut fabric = fabric(1, 3);
    send(&mut fabric, 0, BROADCAST, 0, 0);
    let later = ADDRESS_AGE_NANOS_MAX + 1;
    assert_eq!(send(&mut fabric, 1, 0, 9, later).len(), 2, "flooded again");
}

#[test]
fn segments_do_not_see_each_other() {
    let mut fabric = Fabric::new(1);
    for (name, segment) in [("a", "lan"), ("b", "wan"), ("c", "lan")] {
        fabric.add_port(name, segment);
    }
    assert_eq!(
        send(&mut fabric, 0, BROADCAST, 1, 0),
        [deliver(2, frame(0, BROADCAST, 1))]
    );
}

#[test]
fn a_receiver_behind_the_senders_own_port_gets_no_second_copy() {
    let mut fabric = fabric(1, 2);
    send(&mut fabric, 0, BROADCAST, 0, 0);
    let mut effects = Vec::new();
    fabric.step(
        Event::Frame {
            port: PortId(0),
            frame: frame(5, 0, 1),
        },
        1,
        &mut effects,
    );
    assert_eq!(effects, []);
}

#[test]
fn latency_adds_over_both_links_and_a_late_tick_adds_nothing() {
    let mut fabric = fabric(1, 2);
    set(
        &mut fabric,
        0,
        Way::Tx,
        ShapeChange {
            latency_us: Some(10),
            ..ShapeChange::default()
        },
    );
    set(
        &mut fabric,
        1,
        Way::Rx,
        ShapeChange {
            latency_us: Some(20),
            ..ShapeChange::default()
        },
    );
    assert_eq!(send(&mut fabric, 0, BROADCAST, 1, 0), []);
    assert_eq!(fabric.next_due(), Some(10_000));
    assert_eq!(tick(&mut fabric, 15_000), []);
    assert_eq!(fabric.next_due(), Some(30_000));
    assert_eq!(tick(&mut fabric, 30_000), [deliver(1, frame(0, BROADCAST, 1))]);
    assert_eq!(fabric.next_due(), None);
}

#[test]
fn a_one_way_cut_is_one_way() {
    let mut fabric = fabric(1, 2);
    set(
        &mut fabric,
        0,
        Way::Rx,
        ShapeChange {
            cut: Some(true),
            ..ShapeChange::default()
        },
    );
    assert_eq!(send(&mut fabric, 0, BROADCAST, 1, 0).len(), 1);
    assert_eq!(send(&mut fabric, 1, BROADCAST, 1, 0).len(), 0);
    assert_eq!(fabric.ports()[0].counters(Way::Rx).dropped_cut, 1);
}

#[test]
fn a_cut_loses_what_is_in_flight_even_if_healed_before_it_arrives() {
    let mut fabric = fabric(1, 2);
    set(
        &mut fabric,
        0,
        Way::Tx,
        ShapeChange {
            latency_us: Some(10),
            ..ShapeChange::default()
        },
    );
    send(&mut fabric, 0, BROADCAST, 1, 0);
    set(
        &mut fabric,
        0,
        Way::Tx,
        ShapeChange {
            cut: Some(true),
            ..ShapeChange::default()
        },
    );
    set(
        &mut fabric,
        0,
        Way::Tx,
        ShapeChange {
            cut: Some(false),
            ..ShapeChange::default()
        },
    );
    assert_eq!(tick(&mut fabric, 20_000), []);
    assert_eq!(fabric.ports()[0].counters(Way::Tx).dropped_cut, 1);
}

#[test]
fn a_runt_is_counted_and_dropped() {
    let mut fabric = fabric(1, 2);
    let mut effects = Vec::new();
    fabric.step(
        Event::Frame {
            port: PortId(0),
            frame: vec![0; 13].into(),
        },
        0,
        &mut effects,
    );
    assert_eq!((effects.len(), fabric.malformed()), (0, 1));
}

#[test]
fn the_address_table_is_bounded() {
    let mut fabric = fabric(1, 2);
    let mut effects = Vec::new();
    for n in 0..u32::try_from(ADDRESSES_MAX).unwrap() + 100 {
        let mut bytes = vec![BROADCAST; 6];
        bytes.extend([2, 0]);
        bytes.extend(n.to_be_bytes());
        bytes.extend([8, 0]);
        fabric.step(
            Event::Frame {
                port: PortId(0),
                frame: bytes.into(),
            },
            0,
            &mut effects,
        );
    }
    assert_eq!(fabric.addresses.len(), ADDRESSES_MAX);
}

fn arbitrary_change() -> impl Strategy<Value = ShapeChange> {
    let ppm = || prop::option::of(0..=1_000_000_u32);
    (
        0..2_000_u64,
        0..2_000_u64,
        ppm(),
        ppm(),
        ppm(),
        prop::option::of(0..100_000_000_u64),
        prop::bool::weighted(0.1),
    )
        .prop_map(
            |(latency, jitter, loss_ppm, duplicate_ppm, reorder_ppm, bandwidth_bps, cut)| ShapeChange {
                cut: Some(cut),
                latency_us: Some(latency),
                jitter_us: Some(jitter),
                loss_ppm,
                duplicate_ppm,
                reorder_ppm,
                bandwidth_bps,
                ..ShapeChange::default()
            },
        )
}

#[derive(Debug, Clone)]
enum Act {
    Send {
        from: u8,
        to: u8,
        tag: u8,
    },
    Shape {
        port: usize,
        way: Way,
        change: ShapeChange,
    },
}

fn arbitrary_act() -> impl Strategy<Value = Act> {
    let way = prop_oneof![Just(Way::Tx), Just(Way::Rx)];
    prop_oneof![
        8 => (0..4_u8, prop_oneof![0..4_u8, Just(BROADCAST)], any::<u8>())
            .prop_map(|(from, to, tag)| Act::Send { from, to, tag }),
        1 => (0..4_usize, way, arbitrary_change())
            .prop_map(|(port, way, change)| Act::Shape { port, way, change }),
    ]
}

/// Runs a script and lists every delivery with the moment it became due.
fn run(seed: u64, script: &[(u64, Act)]) -> (Vec<(Nanos, Effect)>, Fabric) {
    let mut fabric = fabric(seed, 4);
    let (mut now, mut log) = (0, Vec::new());
    for (gap, act) in script {
        now += gap;
        while let Some(due) = fabric.next_due().filter(|due| *due <= now) {
            log.extend(tick(&mut fabric, due).into_iter().map(|effect| (due, effect)));
        }
        match act {
            Act::Send { from, to, tag } => {
                log.extend(
                    send(&mut fabric, *from, *to, *tag, now)
                        .into_iter()
                        .map(|effect| (now, effect)),
                );
            }
            Act::Shape { port, way, change } => set(&mut fabric, *port, *way, *change),
        }
    }
    while let Some(due) = fabric.next_due() {
        log.extend(tick(&mut fabric, due).into_iter().map(|effect| (due, effect)));
    }
    (log, fabric)
}

proptest! {
    #[test]
    fn the_same_seed_makes_the_same_choices(
        seed: u64, script in prop::collection::vec((0..500_000_u64, arbitrary_act()), 1..200),
    ) {
        prop_assert_eq!(run(seed, &script).0, run(seed, &script).0);
    }

    #[test]
    fn no_frame_is_invented_or_unaccounted(
        seed: u64, script in prop::collection::vec((0..500_000_u64, arbitrary_act()), 1..200),
    ) {
        let (log, fabric) = run(seed, &script);
        let mut delivered = 0;
        for port in fabric.ports() {
            for way in [Way::Tx, Way::Rx] {
                let c = port.counters(way);
                prop_assert_eq!(c.frames + c.duplicated, c.delivered + c.lost + c.dropped_cut + c.dropped_queue);
            }
            delivered += port.counters(Way::Rx).delivered;
        }
        prop_assert_eq!(delivered, u64::try_from(log.len()).unwrap());
        let sent: std::collections::HashSet<Frame> = script.iter().filter_map(|(_, act)| match act {
            Act::Send { from, to, tag } => Some(frame(*from, *to, *tag)),
            Act::Shape { .. } => None,
        }).collect();
        for (_, Effect::Deliver { frame, .. }) in &log {
            prop_assert!(sent.contains(frame));
        }
    }
}
