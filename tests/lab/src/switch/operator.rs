//! What a running switch does when told to.

use super::capture::Writer;
use super::control::{Answer, Command, PortReport, WayReport};
use super::fabric::{Port, PortId, Way};
use super::transport::{Capture, Socket, Switch};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter};
use std::path::Path;

impl Switch {
    pub(super) fn obey(&mut self, command: Command) -> Answer {
        match command {
            Command::Shape { port, way, shape } => match self.fabric.port(&port) {
                None => self.unknown(&port),
                Some(id) => {
                    let changed = ways(way).map(|way| self.fabric.reshape(id, *way, shape));
                    changed
                        .collect::<Result<(), _>>()
                        .map_or_else(|e| Answer::refused(e.to_string()), |()| Answer::done())
                }
            },
            Command::Clear {
                port: Some(name),
                way,
            } => match self.fabric.port(&name) {
                None => self.unknown(&name),
                Some(id) => self.clear([id], way),
            },
            Command::Clear { port: None, way } => self.clear((0..self.sockets.len()).map(PortId), way),
            Command::Ports => Answer {
                ports: Some(self.report()),
                ..Answer::done()
            },
            Command::CaptureStart { file, ports } => self.start_capture(&file, ports),
            Command::CaptureStop => match self.capture.take() {
                None => Answer::refused("no capture is running"),
                Some(mut capture) => match capture.writer.flush() {
                    Ok(()) => Answer {
                        captured_frames: Some(capture.writer.frames()),
                        ..Answer::done()
                    },
                    Err(error) => Answer::refused(format!("the capture is incomplete: {error}")),
                },
            },
            Command::AddPort(port) if self.fabric.port(&port.name).is_some() => {
                Answer::refused(format!("port {} exists already", port.name))
            }
            Command::AddPort(port) => self
                .add_port(&port)
                .map_or_else(|e| Answer::refused(e.to_string()), |()| Answer::done()),
            Command::Stop => {
                self.stopping = true;
                Answer::done()
            }
        }
    }

    fn unknown(&self, name: &str) -> Answer {
        let known: Vec<&str> = self.fabric.ports().iter().map(Port::name).collect();
        Answer::refused(format!("no port {name}; there are: {}", known.join(", ")))
    }

    fn clear(&mut self, ports: impl IntoIterator<Item = PortId>, way: Option<Way>) -> Answer {
        for port in ports {
            ways(way).for_each(|way| self.fabric.clear(port, *way));
        }
        Answer::done()
    }

    fn report(&self) -> Vec<PortReport> {
        let report = |(port, socket): (&Port, &Socket)| {
            let way = |way| WayReport {
                shape: port.shape(way),
                counters: port.counters(way),
            };
            PortReport {
                name: port.name().to_owned(),
                segment: self.fabric.segment_of(port).to_owned(),
                connected: socket.stream.is_some(),
                tx: way(Way::Tx),
                rx: way(Way::Rx),
            }
        };
        self.fabric
            .ports()
            .iter()
            .zip(&self.sockets)
            .map(report)
            .collect()
    }

    fn start_capture(&mut self, file: &Path, ports: Option<Vec<String>>) -> Answer {
        if self.capture.is_some() {
            return Answer::refused("a capture is running; stop it first");
        }
        let names = ports.iter().flatten();
        if let Some(unknown) = names.clone().find(|name| self.fabric.port(name).is_none()) {
            return self.unknown(unknown);
        }
        match self.open_capture(file, ports) {
            Ok(capture) => {
                self.capture = Some(capture);
                Answer::done()
            }
            Err(error) => Answer::refused(format!("cannot capture into {}: {error}", file.display())),
        }
    }

    fn open_capture(&self, file: &Path, ports: Option<Vec<String>>) -> io::Result<Capture> {
        let mut writer = Writer::new(BufWriter::new(File::create_new(file)?))?;
        let mut interfaces = HashMap::new();
        for (index, port) in self.fabric.ports().iter().enumerate() {
            if ports
                .as_ref()
                .is_none_or(|names| names.iter().any(|name| name == port.name()))
            {
                interfaces.insert(PortId(index), writer.add_interface(port.name())?);
            }
        }
        Ok(Capture {
            writer,
            ports,
            interfaces,
        })
    }
}

fn ways(way: Option<Way>) -> std::slice::Iter<'static, Way> {
    match way {
        None => [Way::Tx, Way::Rx].iter(),
        Some(Way::Tx) => [Way::Tx].iter(),
        Some(Way::Rx) => [Way::Rx].iter(),
    }
}
