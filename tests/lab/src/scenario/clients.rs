//! Clients of the guest's service, as a program in the client host: its kernel speaks TCP, and nothing between it and the
//! guest waits for the lab.

use super::stage::GUEST_ADDRESS;
use super::{Setup, Stage};
use crate::host::Host;
use crate::image::Service;
use crate::load::clients::Talk;
use anyhow::{Context, Result};

const PROGRAM: &str = "/bin/antipode-lab-load";

/// The client host of a stage, with the program installed.
#[derive(Clone, Copy)]
pub(crate) struct Clients<'a> {
    host: &'a Host,
    service: Service,
    port: u16,
}

impl<'a> Clients<'a> {
    /// On `stage`; nothing if its guest serves no port.
    pub(crate) fn install(setup: &Setup, stage: &'a Stage) -> Result<Option<Self>> {
        let service = setup.service();
        let Some(port) = service.port() else {
            return Ok(None);
        };
        let host = stage.client().context("the stage has no client host")?;
        let program = setup.materials.build_binary("antipode-lab-load")?;
        host.put(&program, PROGRAM, 0o755)?;
        Ok(Some(Self { host, service, port }))
    }

    /// Lets `clients` at once write `values` values to the service and read them back. `salt` goes into every value.
    pub(crate) fn talk(&self, values: usize, clients: usize, salt: &str) -> Result<Talk> {
        let Self { service, port, .. } = self;
        let text = self.host.shell(&format!(
            "{PROGRAM} talk {service} {GUEST_ADDRESS}:{port} --values {values} --clients {clients} --salt {salt}"
        ))?;
        serde_json::from_str(&text).with_context(|| format!("the clients' answer `{text}`"))
    }
}
