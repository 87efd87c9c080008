//! What people read: tables of hosts and of links.

use super::topology::HostPlan;
use crate::switch::control::{PortReport, WayReport};
use crate::switch::fabric::Way;
use crate::switch::link::Shape;
use std::fmt::Write as _;

/// Rows as columns of equal width, two blanks between.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.iter().map(ToString::to_string).collect()
}

/// The hosts of a playground and what to do with them.
pub(super) fn hosts(plans: &[HostPlan], run: &str) -> String {
    let mut rows = vec![row(["HOST", "CARD", "ADDRESS", "PORT OF THE SWITCH"])];
    for plan in plans {
        for (index, nic) in plan.nics.iter().enumerate() {
            let name = if index == 0 { plan.name.as_str() } else { "" };
            rows.push(row([name, &format!("eth{index}"), &nic.address, &nic.port]));
        }
    }
    let mut text = table(&rows);
    let first = plans.first().map_or("site-a", |plan| plan.name.as_str());
    let port = plans
        .first()
        .and_then(|plan| plan.nics.last())
        .map_or("site-a.wan", |nic| nic.port.as_str());
    // Writing to a String does not fail.
    let _ = write!(
        text,
        "\nFrom another terminal:\n  \
         cargo lab shell {first}                       a shell on a host\n  \
         cargo lab exec {first} -- antipode doctor     one command on a host\n  \
         cargo lab link {port} --latency 20ms --loss 0.1%   shape a cable, both ways\n  \
         cargo lab link {port} --way tx --cut          cut one way of it; --heal mends it\n  \
         cargo lab links                               shapes and counters\n  \
         cargo lab capture start FILE                  capture frames; cargo lab capture stop\n\n\
         Consoles and logs: {run}\nCtrl-C ends it all.\n"
    );
    text
}

/// Shapes and counters of every port.
pub(super) fn links(ports: &[PortReport]) -> String {
    let mut rows = vec![row([
        "PORT",
        "WAY",
        "SHAPE",
        "FRAMES",
        "BYTES",
        "DELIVERED",
        "LOST",
        "HOST",
    ])];
    for port in ports {
        for (way, report) in [(Way::Tx, port.tx), (Way::Rx, port.rx)] {
            let connected = match (way, port.connected) {
                (Way::Rx, _) => "",
                (Way::Tx, true) => "connected",
                (Way::Tx, false) => "away",
            };
            let name = if way == Way::Tx { port.name.as_str() } else { "" };
            rows.push(link_row(name, way, &report, connected));
        }
    }
    table(&rows)
}

fn link_row(name: &str, way: Way, report: &WayReport, connected: &str) -> Vec<String> {
    let counters = &report.counters;
    let lost = counters.lost + counters.dropped_cut + counters.dropped_queue + counters.dropped_host;
    vec![
        name.to_owned(),
        if way == Way::Tx { "tx" } else { "rx" }.to_owned(),
        shape(&report.shape),
        counters.frames.to_string(),
        counters.bytes.to_string(),
        counters.delivered.to_string(),
        lost.to_string(),
        connected.to_owned(),
    ]
}

/// A shape in words; a perfect cable is `-`.
fn shape(shape: &Shape) -> String {
    let mut words = Vec::new();
    if shape.cut {
        words.push("CUT".to_owned());
    }
    let micros = |name: &str, value: u64| {
        let whole_millis = value >= 1_000 && value.is_multiple_of(1_000);
        let text = if whole_millis {
            format!("{}ms", value / 1_000)
        } else {
            format!("{value}us")
        };
        (value > 0).then(|| format!("{name} {text}"))
    };
    let share = |name: &str, ppm: u32| {
        (ppm > 0).then(|| {
            let fraction = format!("{:04}", ppm % 10_000);
            let fraction = fraction.trim_end_matches('0');
            let point = if fraction.is_empty() { "" } else { "." };
            format!("{name} {}{point}{fraction}%", ppm / 10_000)
        })
    };
    words.extend(micros("latency", shape.latency_us));
    words.extend(micros("jitter", shape.jitter_us));
    words.extend(share("loss", shape.loss_ppm));
    words.extend(share("duplicate", shape.duplicate_ppm));
    words.extend(share("reorder", shape.reorder_ppm));
    if shape.bandwidth_bps > 0 {
        words.push(format!("rate {}kbit", shape.bandwidth_bps / 1_000));
    }
    if words.is_empty() {
        "-".to_owned()
    } else {
        words.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::playground::topology::plan;

    #[test]
    fn hosts_are_lined_up() {
        let text = hosts(&plan(2, 0), "/run");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "HOST    CARD  ADDRESS        PORT OF THE SWITCH");
        assert_eq!(lines[1], "site-a  eth0  10.9.0.11/24   site-a.lan");
        assert_eq!(lines[2], "        eth1  10.8.0.11/24   site-a.wan");
    }

    #[test]
    fn shapes_read_as_they_are_written() {
        let shaped = Shape {
            latency_us: 20_000,
            jitter_us: 250,
            loss_ppm: 1_000,
            cut: true,
            ..Shape::default()
        };
        assert_eq!(shape(&shaped), "CUT latency 20ms jitter 250us loss 0.1%");
        assert_eq!(shape(&Shape::default()), "-");
    }
}
