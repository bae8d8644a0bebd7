//! What idle connections take in the transport alone: ten thousand of them accepted by one endpoint, after a heartbeat each.

use std::net::SocketAddr;

use anyhow::Context as _;
use rudp::{Config, Connection, Endpoint, Event, Limits};

use crate::{
    ground::{memory, now},
    numbers::float,
};

const CONNECTIONS: u16 = 10_000;

/// Prints private octets a connection.
pub(crate) fn weigh() -> anyhow::Result<()> {
    let time = now();
    let config = Config::heartbeat(60_000);
    let mut endpoint = Endpoint::new(config, Limits::default(), [1, 2])?;
    let own = || memory(std::process::id()).map(|[_, private]| private);
    // The first one brings what all of them share.
    accept(&mut endpoint, 1, config)?;
    let before = own()?;
    for port in 2..=CONNECTIONS {
        accept(&mut endpoint, port, config)?;
    }
    anyhow::ensure!(endpoint.len() == usize::from(CONNECTIONS) && endpoint.half_open() == 0);
    let octets = (own()? - before) * 1024.0 / float(usize::from(CONNECTIONS) - 1);
    println!("{octets}");
    anyhow::ensure!(endpoint.next_deadline().is_some_and(|deadline| deadline > time));
    Ok(())
}

/// A client that opens, says something, and is forgotten on its own side.
fn accept(endpoint: &mut Endpoint, port: u16, config: Config) -> anyhow::Result<()> {
    let time = now();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let seed = u64::from(port);
    let mut client = Connection::connect(config, u32::from(port), [seed, 3], time);
    let mut out = Vec::new();
    let (mut told, mut said) = (false, false);
    while !told {
        client.poll_transmit(&mut out).context("the client has something to say")?;
        endpoint.handle_datagram(address, &out, time);
        out.clear();
        while let Some((handle, event)) = endpoint.poll_event() {
            match event {
                Event::Opened => endpoint.verify(handle),
                Event::Data(_) => told = true,
                _ => anyhow::bail!("{event:?} from port {port}"),
            }
        }
        while endpoint.poll_transmit(&mut out).is_some() {
            client.handle_datagram(&out, time);
            out.clear();
        }
        if !said && client.send(&[7; 40], time).is_ok() {
            said = true;
        }
    }
    Ok(())
}
