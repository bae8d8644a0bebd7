//! Listening sockets of every kind, inherited by the service; closed when nobody will serve them.

use std::{
    fs,
    io::Read as _,
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    time::Duration,
};

use testkit::{Device, until};

use crate::support::{demo, device_with, until_printed};

/// An address of the loopback that was free a moment ago.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn tcp_and_udp_sockets_are_inherited_by_name() {
    let (tcp, udp) = (free_address(), free_address());
    let device = device_with(&[
        (
            "tcp",
            demo(&["env=LISTEN_FDNAMES", "serve=tcp"])
                + &format!("[[sockets]]\nname = \"api\"\nlisten = \"tcp:{tcp}\"\n"),
        ),
        ("udp", demo(&["serve=udp"]) + &format!("[[sockets]]\nlisten = \"udp:{udp}\"\n")),
    ]);
    let mut answer = String::new();
    TcpStream::connect(tcp).unwrap().read_to_string(&mut answer).unwrap();
    assert_eq!(answer, format!("hello from {}\n", device.until_pid("tcp")));
    until_printed(&device, "tcp", "LISTEN_FDNAMES=api", 1);

    device.until_pid("udp");
    let caller = UdpSocket::bind("127.0.0.1:0").unwrap();
    caller.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    caller.send_to(b"who is there?", udp).unwrap();
    let mut answer = [0; 64];
    let length = caller.recv(&mut answer).unwrap();
    assert_eq!(
        String::from_utf8_lossy(&answer[..length]),
        format!("hello from {}\n", device.until_pid("udp"))
    );
}

#[test]
fn a_unix_sockets_file_has_the_mode_that_was_asked_for() {
    let mut device = Device::new();
    for (name, mode) in
        [("open", "mode = \"0666\"\n"), ("closed", "mode = \"0600\"\n"), ("plain", "")]
    {
        let socket = device.folder().join(name);
        let text = format!("[[sockets]]\nlisten = \"unix:{}\"\n{mode}", socket.display());
        device.define(name, &(demo(&["serve"]) + &text));
    }
    device.start();
    for (name, mode) in [("open", 0o666), ("closed", 0o600), ("plain", 0o660)] {
        device.until_pid(name);
        let found = fs::metadata(device.folder().join(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!(found, mode, "{name}: {found:o}");
    }
}

#[test]
fn an_address_that_is_taken_is_told_and_the_service_starts_once_it_is_free() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap();
    let device = device_with(&[(
        "web",
        demo(&["serve=tcp"]) + &format!("[[sockets]]\nlisten = \"tcp:{address}\"\n"),
    )]);
    until("it is told", || device.console().contains(&address.to_string()).then_some(()));
    assert!(device.processes("web").is_empty());
    drop(other);
    device.until_pid("web");
    TcpStream::connect(address).unwrap();
}

#[test]
fn callers_of_a_service_that_is_held_are_turned_away() {
    let mut device = Device::new();
    let (socket, gate) = (device.folder().join("socket"), device.folder().join("gate"));
    device.define(
        "web",
        &(demo(&[&format!("until={}", gate.display()), "exit=1"])
            + "respawn = { policy = \"on-failure\", max-restarts = 0 }\n"
            + &format!("[[sockets]]\nlisten = \"unix:{}\"\n", socket.display())),
    );
    device.start();
    device.until_pid("web");
    // It waits in the backlog of a service that never accepts.
    let mut caller = UnixStream::connect(&socket).unwrap();
    caller.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    fs::write(&gate, "").unwrap();
    let mut answer = Vec::new();
    caller.read_to_end(&mut answer).expect("closed, not timed out");
    device.until_state("web", "held");
    until("the socket is gone", || (!socket.exists()).then_some(()));
    assert!(UnixStream::connect(&socket).is_err());
    fs::remove_file(&gate).unwrap();
    device.ctl_ok(&["service", "start", "web"]);
    UnixStream::connect(&socket).expect("it is back with the service");
}
