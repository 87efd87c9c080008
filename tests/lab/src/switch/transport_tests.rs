//! The switch as hosts and operators meet it: real sockets, in this process.

use super::super::capture;
use super::super::client::{Client, Error as ClientError};
use super::super::control::{Command, Config, PortConfig};
use super::super::fabric::Way;
use super::super::framing::{Decoder, encode};
use super::super::link::ShapeChange;
use super::Switch;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// For a frame that must come: a machine that is shared may give a process nothing for seconds.
const PATIENCE: Duration = Duration::from_secs(60);

struct Host {
    stream: UnixStream,
    decoder: Decoder,
}

impl Host {
    fn connect(directory: &Path, name: &str) -> Self {
        let stream = UnixStream::connect(directory.join(name)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            stream,
            decoder: Decoder::default(),
        }
    }

    fn send(&mut self, frame: &[u8]) {
        let mut bytes = Vec::new();
        encode(frame, &mut bytes);
        self.stream.write_all(&bytes).unwrap();
    }

    /// Whether nothing comes for a while.
    fn receives_nothing(&mut self) -> bool {
        let a_while = Duration::from_millis(300);
        self.stream.set_read_timeout(Some(a_while)).unwrap();
        let received = self.receive();
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        received.is_none()
    }

    fn receive(&mut self) -> Option<Vec<u8>> {
        let mut bytes = [0; 4_096];
        loop {
            if let Some(frame) = self.decoder.next().unwrap() {
                return Some(frame.to_vec());
            }
            let length = self.stream.read(&mut bytes).ok().filter(|length| *length > 0)?;
            self.decoder.extend(&bytes[..length]);
        }
    }
}

fn broadcast(tag: u8) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 1, 8, 0, tag]);
    frame
}

fn with_switch(test: impl FnOnce(&Path, &mut Client)) {
    let directory = tempfile::tempdir().unwrap();
    let port = |name: &str| PortConfig {
        name: name.into(),
        segment: "lan".into(),
        socket: directory.path().join(name),
    };
    let control = directory.path().join("control");
    let config = Config {
        seed: 1,
        control: control.clone(),
        ports: vec![port("a"), port("b")],
    };
    let switch = Switch::new(&config).unwrap();
    let thread = std::thread::spawn(|| switch.run());
    let mut client = Client::connect(&control).unwrap();
    test(directory.path(), &mut client);
    client.send(&Command::Stop).unwrap();
    thread.join().unwrap().unwrap();
}

/// Both hosts connected, known to the switch.
fn connected(directory: &Path, client: &mut Client) -> (Host, Host) {
    let hosts = (Host::connect(directory, "a"), Host::connect(directory, "b"));
    while !client.ports().unwrap().iter().all(|port| port.connected) {}
    hosts
}

#[test]
fn frames_pass_are_counted_and_captured() {
    with_switch(|directory, client| {
        let (mut a, mut b) = connected(directory, client);
        let file = directory.join("capture.pcapng");
        client
            .send(&Command::CaptureStart {
                file: file.clone(),
                ports: None,
            })
            .unwrap();
        a.send(&broadcast(7));
        assert_eq!(b.receive(), Some(broadcast(7)));
        assert_eq!(
            client.send(&Command::CaptureStop).unwrap().captured_frames,
            Some(2)
        );
        let frames = capture::read(std::fs::File::open(file).unwrap()).unwrap();
        let seen: Vec<_> = frames
            .iter()
            .map(|captured| (captured.port.as_str(), captured.way))
            .collect();
        assert_eq!(seen, [("a", Way::Tx), ("b", Way::Rx)]);
        let ports = client.ports().unwrap();
        assert_eq!(
            (ports[0].tx.counters.frames, ports[1].rx.counters.delivered),
            (1, 1)
        );
    });
}

#[test]
fn a_cut_holds_and_heals_at_run_time() {
    with_switch(|directory, client| {
        let (mut a, mut b) = connected(directory, client);
        client.cut("a", Some(Way::Tx)).unwrap();
        a.send(&broadcast(1));
        assert!(b.receives_nothing());
        b.send(&broadcast(2));
        assert_eq!(a.receive(), Some(broadcast(2)), "the other way is whole");
        client.heal("a", Some(Way::Tx)).unwrap();
        a.send(&broadcast(3));
        assert_eq!(b.receive(), Some(broadcast(3)));
    });
}

#[test]
fn latency_is_real_time() {
    with_switch(|directory, client| {
        let (mut a, mut b) = connected(directory, client);
        let slow = ShapeChange {
            latency_us: Some(50_000),
            ..ShapeChange::default()
        };
        client.shape("a", Some(Way::Tx), slow).unwrap();
        let start = std::time::Instant::now();
        a.send(&broadcast(1));
        assert_eq!(b.receive(), Some(broadcast(1)));
        assert!(start.elapsed() >= Duration::from_millis(50));
    });
}

#[test]
fn a_host_that_comes_back_takes_its_port_over() {
    with_switch(|directory, client| {
        let (a, mut b) = connected(directory, client);
        drop(a);
        let mut again = Host::connect(directory, "a");
        again.send(&broadcast(9));
        assert_eq!(b.receive(), Some(broadcast(9)));
    });
}

#[test]
fn a_host_that_does_not_read_loses_frames_and_blocks_nobody() {
    with_switch(|directory, client| {
        let (mut a, _b) = connected(directory, client);
        let large = [broadcast(1), vec![0; 60_000]].concat();
        (0..100).for_each(|_| a.send(&large));
        let dropped = |client: &mut Client| client.ports().unwrap()[1].rx.counters.dropped_host;
        while dropped(client) == 0 {}
    });
}

#[test]
fn mistakes_are_answered_in_words() {
    with_switch(|_, client| {
        let error = client.cut("nowhere", None).unwrap_err();
        assert!(
            matches!(&error, ClientError::Refused(words) if words.contains("there are: a, b")),
            "{error}"
        );
        let error = client.send(&Command::CaptureStop).unwrap_err();
        assert!(error.to_string().contains("no capture is running"));
    });
}
