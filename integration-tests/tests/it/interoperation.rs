//! A peer that nobody here wrote: Wireshark's dissector must read what client and broker say to each other as Reliable UDP,
//! with the flags, lengths and numbers that were meant.
//!
//! Its checksum column is right for headers of six octets only, and it shows neither the numbers of an EACK nor the fields of
//! a SYN; for these there are the golden octets of crates/rudp.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::UdpSocket,
    path::Path,
    process::Command,
    time::Duration,
};

use heartbeat_client::{Client, Error, Settings};
use rudp::{
    Config, Dialect,
    packet::{Body, Packet, Syn, Transfer, decode, encode},
};
use testkit::until;

use crate::{
    applications::{broker, device, expect, row, settings},
    relay::{Faults, Relay, Sent},
};

/// The broker's port in the capture; the real one is any.
const PORT: u16 = 7420;
/// The kinds that must come from the exchange itself, and whether the client sends them.
const EXCHANGED: [(&str, bool); 10] = [
    ("SYN", true),
    ("SYN+ACK", false),
    ("ACK", true),
    ("ACK", false),
    ("DATA", true),
    ("DATA", false),
    ("EACK", false),
    ("NUL", true),
    ("RST+ACK", true),
    ("RST+ACK", false),
];

/// What one segment means, as far as the dissector shows it.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Meaning {
    kind: &'static str,
    flags: u8,
    header: usize,
    number: u8,
    acknowledged: u8,
}

fn meaning(packet: &Packet<'_>) -> Meaning {
    let acknowledges = packet.acknowledged.is_some();
    let (kind, with_ack, flags, header) = match packet.body {
        Body::Syn(_) => ("SYN", "SYN+ACK", 0x80, 28),
        Body::Acknowledgement => ("", "ACK", 0, 6),
        Body::Data { covered: false, .. } => ("", "DATA", 0, 6),
        Body::Data { covered: true, .. } => ("", "DATA+CHK", 0x04, 6),
        Body::Extended(numbers) => ("", "EACK", 0x20, 6 + numbers.len()),
        Body::Null => ("", "NUL", 0x08, 6),
        Body::Reset => ("RST", "RST+ACK", 0x10, 6),
        Body::Transfer(_) => ("TCS", "TCS+ACK", 0x02, 12),
        Body::Finish => unreachable!("only the Java dialect has it"),
    };
    Meaning {
        kind: if acknowledges { with_ack } else { kind },
        flags: flags | if acknowledges { 0x40 } else { 0 },
        header,
        number: packet.number,
        acknowledged: packet.acknowledged.unwrap_or(0),
    }
}

#[test]
fn wireshark_reads_every_segment_of_client_and_broker_as_it_was_meant() {
    let mut sent = exchange();
    let ours = |octets: &[u8]| decode(octets, Dialect::Draft).map(|packet| meaning(&packet));
    let kind = |one: &Sent| (ours(&one.octets).unwrap().kind, one.to_broker);
    let kinds: BTreeSet<_> = sent.iter().map(kind).collect();
    for wanted in EXCHANGED {
        assert!(kinds.contains(&wanted), "no {wanted:?} in {kinds:?}");
    }
    sent.extend(made());
    let folder = tempfile::tempdir().unwrap();
    let capture = folder.path().join("exchange.pcap");
    write_capture(&capture, &sent);
    let theirs = dissected(&capture);
    assert_eq!(theirs.len(), sent.len());
    let mut seen = BTreeMap::new();
    for (one, found) in sent.iter().zip(theirs) {
        let meant = ours(&one.octets).unwrap();
        *seen.entry(meant.kind).or_insert(0) += 1;
        assert_eq!(found.malformed, "", "{:02x?}", one.octets);
        assert!(found.protocols.contains("rudp"), "{found:?}");
        let shown = (found.flags, found.header, found.number, found.acknowledged);
        let wanted = (meant.flags, meant.header, meant.number, meant.acknowledged);
        assert_eq!(shown, wanted, "{} {:02x?}", meant.kind, one.octets);
        let place = meant.header - 2;
        let written = u16::from_be_bytes([one.octets[place], one.octets[place + 1]]);
        if meant.header == 6 {
            assert_eq!(found.checksum, written, "{:02x?}", one.octets);
        }
    }
    eprintln!("read by Wireshark: {seen:?}");
}

/// Whatever a client and the real broker say to each other on a bad line.
fn exchange() -> Vec<Sent> {
    let device = device();
    let relay = Relay::start(broker(&device));
    expect(&device, 7, 1, 60_000);
    let patience = Duration::from_secs(20);
    let settings = Settings {
        block: Some(Duration::ZERO),
        timeout: patience,
        ..settings(relay.address(), 7, 1)
    };
    let mut client = Client::open(settings).unwrap();
    client.register().unwrap();
    let has = |wanted: &str, to_broker: bool| {
        let is = |one: &Sent| {
            let packet = decode(&one.octets, Dialect::Draft).unwrap();
            one.to_broker == to_broker && meaning(&packet).kind == wanted
        };
        relay.record().iter().any(is)
    };
    // The first of six is lost: the broker names the others.
    relay.lose(1);
    for _ in 0..6 {
        client.report().unwrap();
    }
    until("an EACK", || {
        client.service().unwrap();
        has("EACK", false).then_some(())
    });
    until("a NUL of a client with nothing to say", || {
        client.service().unwrap();
        has("NUL", true).then_some(())
    });
    relay.set(Faults { loss: 51, doubling: 25, reordering: 51 });
    for _ in 0..30 {
        client.report().unwrap();
        client.service().unwrap();
    }
    until("all reports have arrived", || {
        client.service().unwrap();
        (row(&device, 7)?.reports == 36).then_some(())
    });
    relay.set(Faults::default());
    client.close();
    // Nobody expects application 8: its client hangs up.
    let unknown =
        Settings { timeout: Duration::from_millis(200), ..self::settings(relay.address(), 8, 1) };
    let refused = Client::open(unknown).unwrap().register();
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    until("the client's RST", || has("RST+ACK", true).then_some(()));
    // A broker that knows nothing of a connection says so.
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let data = Body::Data { payload: b"hello", covered: false };
    let data = octets(&Packet { number: 9, acknowledged: Some(8), body: data });
    stranger.send_to(&data, relay.address()).unwrap();
    until("the broker's RST", || has("RST+ACK", false).then_some(()));
    relay.record()
}

fn octets(packet: &Packet<'_>) -> Vec<u8> {
    let mut octets = Vec::new();
    encode(packet, Dialect::Draft, &mut octets);
    octets
}

/// Segments that heartbeats don't use, or seldom.
fn made() -> Vec<Sent> {
    let syn = |reuse| {
        let Config { max_outstanding, max_segment, terms, .. } = Config::draft();
        let dialect = Dialect::Draft;
        Body::Syn(Syn { dialect, max_outstanding, max_segment, reuse, terms, connection_id: 7 })
    };
    let transfer = Body::Transfer(Transfer { adjustment: 3, connection_id: 0xc0ff_ee01 });
    let bodies = [
        (None, syn(false)),
        (Some(1), syn(true)),
        (None, transfer),
        (Some(255), transfer),
        (Some(254), Body::Data { payload: b"odd", covered: true }),
        (Some(0), Body::Data { payload: &[0; 40], covered: true }),
        (Some(127), Body::Extended(&[129])),
        (Some(128), Body::Extended(&[130, 131])),
        (Some(250), Body::Extended(&[252, 253, 254, 255, 0, 1, 2])),
        (None, Body::Reset),
        (Some(255), Body::Null),
        (Some(0), Body::Acknowledgement),
    ];
    let packets = bodies.into_iter().zip([0, 255, 128, 1].into_iter().cycle());
    packets
        .map(|((acknowledged, body), number)| Sent {
            to_broker: true,
            client: 40_000,
            lost: false,
            octets: octets(&Packet { number, acknowledged, body }),
        })
        .collect()
}

/// A capture as of `man 5 pcap-savefile`, each datagram behind an IPv4 and a UDP header.
fn write_capture(path: &Path, sent: &[Sent]) {
    const RAW_IP: u32 = 101;
    let mut file = Vec::new();
    file.extend(0xa1b2_c3d4_u32.to_be_bytes());
    file.extend([0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]);
    file.extend(RAW_IP.to_be_bytes());
    for (at, one) in sent.iter().enumerate() {
        let udp = u16::try_from(8 + one.octets.len()).unwrap();
        let ip = udp + 20;
        file.extend(u32::try_from(at).unwrap().to_be_bytes());
        file.extend([0; 4]);
        file.extend([u32::from(ip).to_be_bytes(), u32::from(ip).to_be_bytes()].concat());
        let mut header = vec![0x45, 0];
        header.extend(ip.to_be_bytes());
        // No fragment, 64 hops, UDP, the checksum to be filled in.
        header.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1]);
        let sum: u32 =
            header.as_chunks().0.iter().map(|pair| u32::from(u16::from_be_bytes(*pair))).sum();
        let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        file.extend(header);
        let (from, to) = if one.to_broker { (one.client, PORT) } else { (PORT, one.client) };
        file.extend([from.to_be_bytes(), to.to_be_bytes(), udp.to_be_bytes(), [0, 0]].concat());
        file.extend(&one.octets);
    }
    fs::write(path, file).unwrap();
}

/// What Wireshark shows of one datagram.
#[derive(Debug)]
struct Dissected {
    protocols: String,
    malformed: String,
    flags: u8,
    header: usize,
    number: u8,
    acknowledged: u8,
    checksum: u16,
}

fn dissected(capture: &Path) -> Vec<Dissected> {
    const FIELDS: [&str; 7] = [
        "frame.protocols",
        "_ws.malformed",
        "rudp.flags",
        "rudp.hlen",
        "rudp.seq",
        "rudp.ack",
        "rudp.cksum",
    ];
    let mut tshark = Command::new("tshark");
    tshark.arg("-r").arg(capture).args(["-d", &format!("udp.port=={PORT},rudp"), "-T", "fields"]);
    // What a data segment carries is ours; Wireshark takes it for Cisco's session manager, whatever it is.
    tshark.args(["--disable-protocol", "sm"]);
    tshark.args(FIELDS.iter().flat_map(|field| ["-e", field]));
    let output = tshark.output().expect("tshark is installed; scripts/test does it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| {
            let fields: Vec<&str> = line.split('\t').collect();
            let [protocols, malformed, flags, header, number, acknowledged, checksum] = fields[..]
            else {
                panic!("{line}");
            };
            let octet = |text: &str| text.parse::<u8>().unwrap_or_else(|_| panic!("{line}"));
            Dissected {
                protocols: protocols.to_owned(),
                malformed: malformed.to_owned(),
                flags: octet(flags),
                header: usize::from(octet(header)),
                number: octet(number),
                acknowledged: octet(acknowledged),
                checksum: u16::from_str_radix(checksum.trim_start_matches("0x"), 16).unwrap(),
            }
        })
        .collect()
}
