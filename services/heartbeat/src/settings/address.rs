//! What a text of the settings may stand for.

use std::net::{IpAddr, SocketAddr};

pub(super) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("{text:?} is not an address; write \"127.0.0.1:7420\" or \"[::]:7420\"")
    })
}

pub(super) fn host(text: &str) -> Result<IpAddr, String> {
    let host: Result<IpAddr, _> = text.parse();
    host.map(|host| host.to_canonical())
        .map_err(|_| format!("{text:?} is not an address; write \"10.0.0.7\" or \"fd00::7\""))
}
