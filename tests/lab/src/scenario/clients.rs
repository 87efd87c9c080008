//! Clients of the guest's service, as a program in the client host: its kernel speaks TCP, and nothing between it and the
//! guest waits for the lab.

use super::stage::GUEST_ADDRESS;
use super::{Setup, Stage};
use crate::host::Host;
use crate::image::Service;
use crate::load::clients::{Amount, Talk};
use crate::load::ends::Answer;
use crate::load::guest::ORDER_PORT;
use crate::load::order::Order;
use anyhow::{Context, Result};
use std::time::Duration;

/// Where the program lies in a host.
pub(crate) const PROGRAM: &str = "/bin/antipode-lab-load";

/// For one order, whatever its span.
const PATIENCE_SECONDS: u32 = 120;

/// Clients of one guest in a host that has the program.
#[derive(Clone, Copy)]
pub(crate) struct Clients<'a> {
    host: &'a Host,
    service: Service,
    address: &'a str,
    port: u16,
}

impl<'a> Clients<'a> {
    /// On `stage`; nothing if its guest serves no port.
    pub(crate) fn install(setup: &Setup, stage: &'a Stage) -> Result<Option<Self>> {
        if setup.service().port().is_none() {
            return Ok(None);
        }
        let host = stage.client().context("the stage has no client host")?;
        let program = setup.materials.build_binary("antipode-lab-load")?;
        host.put(&program, PROGRAM, 0o755)?;
        Ok(Self::of(host, setup.service(), GUEST_ADDRESS))
    }

    /// Of the guest at `address`, in a host that has the program; nothing if the guest serves no port.
    pub(crate) fn of(host: &'a Host, service: Service, address: &'a str) -> Option<Self> {
        let port = service.port()?;
        Some(Self {
            host,
            service,
            address,
            port,
        })
    }

    /// Lets `clients` at once write values to the service and read them back. `salt` goes into every value.
    pub(crate) fn talk(&self, amount: Amount, clients: usize, salt: &str) -> Result<Talk> {
        let Self {
            service,
            address,
            port,
            ..
        } = self;
        let amount = match amount {
            Amount::Values(values) => format!("--values {values}"),
            Amount::Span(span) => format!("--span {}", span.as_millis()),
        };
        let text = self.host.shell(&format!(
            "{PROGRAM} talk {service} {address}:{port} {amount} --clients {clients} --salt {salt}"
        ))?;
        serde_json::from_str(&text).with_context(|| format!("the clients' answer `{text}`"))
    }
}

/// Lets the program in `host` ask the guest at `address` for `order`; `span` is how long to send, if it is to receive.
pub(crate) fn ask(host: &Host, address: &str, order: Order, span: Duration) -> Result<Answer> {
    let send = span.as_millis();
    let text = host.shell(&format!(
        "timeout {PATIENCE_SECONDS} {PROGRAM} ask --send {send} {address}:{ORDER_PORT} {order}"
    ))?;
    serde_json::from_str(&text).with_context(|| format!("the load's answer `{text}`"))
}
