//! A network side that was taken over says that root calls. The writer asks for a file that only root can have written.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::PathBuf,
};

use bundle::{Keyring, Kind, Permission, RoleKeys, Roles, Signatures, hex, sha256};
use protocol::upgrade::{ALLOW_UNSIGNED, Approval};
use serde_json::{Value, json};

use crate::{
    installs::application,
    support::{Device, Writer, bundle, key, noise},
};

/// What `begin` takes of a bundle that nobody known has signed.
fn offer(version: &str) -> Vec<u8> {
    let image = noise(2, 5000);
    let mut bytes = bundle(version, 2, &[("application", Kind::Image, &image)]);
    bytes[60] ^= 1;
    let head = bundle::Header::parse(bytes.first_chunk().unwrap()).unwrap();
    bytes.truncate(usize::try_from(head.index_at()).unwrap());
    bytes
}

fn place(device: &Device, approval: Approval, data: &[u8]) -> PathBuf {
    let name = approval.file(&hex::encode(&sha256(data)));
    device.path("state/upgrade/approved").join(name)
}

fn begin(writer: &mut Writer, offer: &[u8]) -> Result<u64, String> {
    told(writer, &json!({ "begin": { "flags": ALLOW_UNSIGNED } }), offer)
        .map(|begun| begun["session"].as_u64().unwrap())
}

fn told(writer: &mut Writer, what: &Value, data: &[u8]) -> Result<Value, String> {
    let (outcome, _) = writer.ask(what, data).expect("the writer is there");
    match outcome.get("Ok") {
        Some(answer) => Ok(answer.clone()),
        None => Err(outcome["Err"]["text"].as_str().unwrap().to_owned()),
    }
}

#[test]
fn an_unsigned_bundle_is_taken_once_for_each_file_that_root_has_written() {
    let device = application();
    let mut writer = device.writer();
    writer.until_ready();
    let folder = device.path("state/upgrade/approved");
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    let (offer, other) = (offer("2"), offer("3"));
    let path = place(&device, Approval::Unsigned, &offer);
    let refused = begin(&mut writer, &offer).unwrap_err();
    let cure = "use vestalctl upgrade install --allow-unsigned as root there";
    assert!(refused.contains(path.to_str().unwrap()) && refused.contains(cure), "{refused}");
    assert_eq!(writer.status()["state"], "idle");

    fs::write(place(&device, Approval::Unsigned, &other), "").unwrap();
    fs::write(place(&device, Approval::Keyring, &offer), "").unwrap();
    begin(&mut writer, &offer).unwrap_err();
    fs::write(device.path("elsewhere"), "").unwrap();
    symlink(device.path("elsewhere"), &path).unwrap();
    let refused = begin(&mut writer, &offer).unwrap_err();
    assert!(refused.contains("is no plain file of the writer's user"), "{refused}");
    fs::remove_file(&path).unwrap();
    fs::write(&path, "").unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o770)).unwrap();
    let refused = begin(&mut writer, &offer).unwrap_err();
    assert!(refused.contains("others can open its folder"), "{refused}");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();

    let session = begin(&mut writer, &offer).unwrap();
    assert!(!path.exists(), "it was used");
    writer.answer(&json!({ "leave": { "session": session } }));
    begin(&mut writer, &offer).unwrap_err();
    writer.end();
}

#[test]
fn what_was_approved_to_a_writer_that_is_gone_is_forgotten() {
    let device = application();
    let mut writer = device.writer();
    writer.until_ready();
    let offer = offer("2");
    fs::write(place(&device, Approval::Unsigned, &offer), "").unwrap();
    writer.end();
    let mut writer = device.writer();
    begin(&mut writer, &offer).unwrap_err();
    writer.end();
}

/// A keyring and its signatures; recovery is the key 7.
fn keyring(version: u64) -> (Vec<u8>, Vec<u8>) {
    let role = |number: u8| RoleKeys::new(1, &[key(number).public()]);
    let roles =
        Roles { root: role(1), bundle: Some(role(2)), recovery: Some(role(7)), operator: None };
    let keyring = Keyring { version, roles }.encode();
    let mut signatures = Signatures::default();
    signatures.add(Keyring::sign(&keyring, &key(1))).unwrap();
    (keyring, signatures.encode())
}

#[test]
fn the_first_keyring_needs_a_file_of_root_s_and_later_ones_need_the_old_root_keys() {
    let device = application();
    for name in ["keyring.json", "keyring.json.sig"] {
        fs::remove_file(device.path("factory").join(name)).unwrap();
    }
    let mut writer = device.writer();
    writer.until_ready();
    let mut install = |version| {
        let (keyring, signatures) = keyring(version);
        let what = json!({ "keyring": { "length": keyring.len() } });
        told(&mut writer, &what, &[keyring, signatures].concat())
    };
    let refused = install(1).unwrap_err();
    assert!(refused.contains("use vestalctl upgrade keyring install as root there"), "{refused}");
    let (first, signatures) = keyring(1);
    let path = place(&device, Approval::Keyring, &[first, signatures].concat());
    fs::write(&path, "").unwrap();
    assert_eq!(install(1), Ok(json!(1)));
    assert!(!path.exists(), "it was used");
    assert_eq!(install(2), Ok(json!(2)));
    writer.end();
}

#[test]
fn a_permission_lets_its_bundle_go_below_the_floor_on_this_device_alone() {
    let device = application();
    let (ring, ring_signatures) = keyring(1);
    fs::write(device.path("factory/keyring.json"), ring).unwrap();
    fs::write(device.path("factory/keyring.json.sig"), ring_signatures).unwrap();
    fs::create_dir(device.path("state/upgrade")).unwrap();
    fs::write(device.path("state/upgrade/tls.key"), [9; 32]).unwrap();
    let mut writer = device.writer();
    writer.until_ready();
    let made = |version, index| {
        bundle(version, index, &[("application", Kind::Image, &noise(index, 5000))])
    };
    writer.install(&made("5", 5));
    writer.until_state(&["confirmed"]);
    let old = made("4", 4);
    let head = bundle::Header::parse(old.first_chunk().unwrap()).unwrap();
    let at = |place: u64| usize::try_from(place).unwrap();
    let offer = &old[..at(head.index_at())];
    let begin = json!({ "begin": { "flags": 2 } });
    assert!(told(&mut writer, &begin, offer).unwrap_err().contains("permission"));
    let mut permit = |device: [u8; 32]| {
        let manifest = sha256(&old[at(head.manifest_at())..at(head.index_at())]);
        let component = "application".to_owned();
        let permission = Permission { component, device, manifest, to_index: 4 }.encode();
        let mut signatures = Signatures::default();
        signatures.add(Permission::sign(&permission, &key(7))).unwrap();
        let what = json!({ "permission": { "length": permission.len() } });
        told(&mut writer, &what, &[permission, signatures.encode()].concat())
    };
    assert!(permit([1; 32]).unwrap_err().contains("for another device"));
    permit(key(9).public().fingerprint()).unwrap();
    told(&mut writer, &begin, offer).unwrap();
    writer.end();
}
