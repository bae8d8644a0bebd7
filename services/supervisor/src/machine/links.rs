//! Which network interfaces are there and up, from the kernel's route netlink messages, and what changed. Total over any
//! bytes; what is cut or of another kind is passed over.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// More interfaces are not followed.
const LINKS_MAX: usize = 4096;
/// Longest name, in bytes (IFNAMSIZ less its NUL).
const NAME_MAX: usize = 15;

const HEAD: usize = 16;
const DONE: u16 = 3;
const NEW_LINK: u16 = 16;
const DELETED_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const DELETED_ADDRESS: u16 = 21;
/// NLM_F_REQUEST and NLM_F_DUMP.
const REQUEST_DUMP: u16 = 0x301;
/// IFF_UP and IFF_RUNNING: switched on, and able to carry packets.
const UP: u32 = 0x1 | 0x40;
/// IFLA_IFNAME.
const NAME: u16 = 3;

/// What became of an interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Change {
    interface: String,
    what: What,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum What {
    Up,
    Down,
    /// Its addresses changed.
    Update,
}

impl Change {
    /// The event that triggers see, as procd gets it from netifd: `interface.up {interface, action}`.
    pub(crate) fn event(&self) -> (String, Map<String, Value>) {
        let (kind, action) = match self.what {
            What::Up => ("interface.up", "ifup"),
            What::Down => ("interface.down", "ifdown"),
            What::Update => ("interface.update", "ifupdate"),
        };
        let entries = [("interface", json!(self.interface)), ("action", json!(action))];
        (kind.to_owned(), entries.map(|(key, value)| (key.to_owned(), value)).into_iter().collect())
    }
}

#[derive(Debug)]
struct Link {
    name: String,
    up: bool,
    /// It was in the list that is being read.
    listed: bool,
}

/// All interfaces, by index.
#[derive(Debug, Default)]
pub(crate) struct Links {
    known: BTreeMap<u32, Link>,
    /// A whole list was read: from here on differences are news.
    learned: bool,
    listing: bool,
}

impl Links {
    /// The request for a list of all interfaces: at the start, and after messages were lost.
    pub(crate) fn ask_for_all(&mut self) -> [u8; 32] {
        self.listing = true;
        for link in self.known.values_mut() {
            link.listed = false;
        }
        let mut request = [0; 32];
        request[0] = 32;
        request[4..6].copy_from_slice(&GET_LINK.to_ne_bytes());
        request[6..8].copy_from_slice(&REQUEST_DUMP.to_ne_bytes());
        request
    }

    /// What one datagram says that is new.
    pub(crate) fn take(&mut self, mut datagram: &[u8]) -> Vec<Change> {
        let mut changes = Vec::new();
        while let Some((kind, body, rest)) = next_message(datagram) {
            datagram = rest;
            match kind {
                NEW_LINK => self.link(body, &mut changes),
                DELETED_LINK => {
                    if let Some(index) = u32_at(body, 4) {
                        self.gone(index, &mut changes);
                    }
                }
                NEW_ADDRESS | DELETED_ADDRESS => {
                    let link = u32_at(body, 4).and_then(|index| self.known.get(&index));
                    let interface = link.map(|link| link.name.clone());
                    changes.extend(
                        interface.map(|interface| Change { interface, what: What::Update }),
                    );
                }
                DONE if self.listing => self.listed(&mut changes),
                _ => {}
            }
        }
        if !self.learned {
            changes.clear();
        }
        changes
    }

    fn link(&mut self, body: &[u8], changes: &mut Vec<Change>) {
        let (Some(index), Some(flags), Some(name)) =
            (u32_at(body, 4), u32_at(body, 8), name_of(body))
        else {
            return;
        };
        let up = flags & UP == UP;
        if self.known.get(&index).is_some_and(|link| link.name != name) {
            self.gone(index, changes);
        }
        let is_new = !self.known.contains_key(&index);
        if is_new && self.known.len() >= LINKS_MAX {
            return;
        }
        let link = self.known.entry(index).or_insert_with(|| Link {
            name: name.clone(),
            up: false,
            listed: true,
        });
        link.listed = true;
        if link.up != up {
            link.up = up;
            let what = if up { What::Up } else { What::Down };
            changes.push(Change { interface: name, what });
        }
    }

    fn gone(&mut self, index: u32, changes: &mut Vec<Change>) {
        if let Some(Link { name, up: true, .. }) = self.known.remove(&index) {
            changes.push(Change { interface: name, what: What::Down });
        }
    }

    /// The list is whole: what wasn't in it is gone.
    fn listed(&mut self, changes: &mut Vec<Change>) {
        let missing = self.known.iter().filter(|(_, link)| !link.listed);
        for index in missing.map(|(index, _)| *index).collect::<Vec<_>>() {
            self.gone(index, changes);
        }
        if !self.learned {
            changes.clear();
        }
        (self.learned, self.listing) = (true, false);
    }
}

/// A message's type and body, and what follows it.
fn next_message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(u32_at(bytes, 0)?).ok().filter(|length| *length >= HEAD)?;
    let body = bytes.get(HEAD..length)?;
    Some((u16_at(bytes, 4)?, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// The name among the attributes that follow 16 bytes of ifinfomsg.
fn name_of(body: &[u8]) -> Option<String> {
    let mut rest = body.get(16..)?;
    loop {
        let length = usize::from(u16_at(rest, 0)?);
        let value = rest.get(4..length)?;
        if u16_at(rest, 2)? == NAME {
            let text = value.split(|byte| *byte == 0).next()?;
            let text = str::from_utf8(text).ok()?;
            return (1..=NAME_MAX).contains(&text.len()).then(|| text.to_owned());
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEAD + body.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn link(kind: u16, index: u32, name: &str, flags: u32) -> Vec<u8> {
        let mut body = [0; 4].to_vec();
        body.extend(index.to_ne_bytes());
        body.extend(flags.to_ne_bytes());
        body.extend([0; 4]);
        // An attribute before the name, of an odd length.
        body.extend([5, 0, 9, 0, 7, 0, 0, 0]);
        body.extend(u16::try_from(5 + name.len()).unwrap().to_ne_bytes());
        body.extend(NAME.to_ne_bytes());
        body.extend(name.as_bytes());
        body.push(0);
        message(kind, &body)
    }

    fn learned() -> Links {
        let mut links = Links::default();
        links.ask_for_all();
        let list = [link(NEW_LINK, 1, "lo", UP), link(NEW_LINK, 2, "eth0", 1), message(DONE, &[])];
        assert_eq!(links.take(&list.concat()), []);
        links
    }

    fn words(changes: &[Change]) -> Vec<String> {
        changes.iter().map(|it| format!("{} {}", it.event().0, it.interface)).collect()
    }

    #[test]
    fn what_was_there_before_is_no_news_and_what_changes_is() {
        let mut links = learned();
        assert_eq!(words(&links.take(&link(NEW_LINK, 2, "eth0", UP))), ["interface.up eth0"]);
        assert_eq!(links.take(&link(NEW_LINK, 2, "eth0", UP | 0x100)), []);
        let address = [[2, 24, 0, 0], 2_u32.to_ne_bytes()].concat();
        for kind in [NEW_ADDRESS, DELETED_ADDRESS] {
            assert_eq!(words(&links.take(&message(kind, &address))), ["interface.update eth0"]);
        }
        assert_eq!(
            words(&links.take(&link(NEW_LINK, 2, "wan", UP))),
            ["interface.down eth0", "interface.up wan"]
        );
        assert_eq!(words(&links.take(&link(DELETED_LINK, 2, "wan", 0))), ["interface.down wan"]);
    }

    #[test]
    fn after_lost_messages_the_difference_is_told() {
        let mut links = learned();
        links.ask_for_all();
        let list = [link(NEW_LINK, 2, "eth0", UP), message(DONE, &[])].concat();
        assert_eq!(words(&links.take(&list)), ["interface.up eth0", "interface.down lo"]);
    }

    #[test]
    fn an_event_has_netifds_shape() {
        let change = Change { interface: "eth0".to_owned(), what: What::Up };
        let (kind, data) = change.event();
        assert_eq!(kind, "interface.up");
        assert_eq!(Value::Object(data), json!({ "interface": "eth0", "action": "ifup" }));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..80), cut in 0_usize..60) {
            let mut links = learned();
            links.take(&bytes);
            bytes.splice(0..0, link(NEW_LINK, 3, "x", UP));
            bytes.truncate(cut);
            links.take(&bytes);
        }
    }
}
