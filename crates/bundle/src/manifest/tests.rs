use super::*;

fn component(id: &str) -> Component {
    Component {
        allow_special: false,
        chunks: 513,
        id: id.to_owned(),
        image_hash: [1; 32],
        index_root: [2; 32],
        kind: Kind::Image,
        pages: 2,
        requires: Vec::new(),
        rollback_index: 7,
        size: 5_000_000,
        stored: 4_000_000,
        version: "2.4.1".to_owned(),
    }
}

fn manifest() -> Manifest {
    let require = Require {
        component: "rootfs".to_owned(),
        image_hash: None,
        rollback_index: None,
        version: Some(Range::parse(">=2.0, <3").expect("it is one")),
    };
    Manifest {
        activate: Some(Activate::Reboot),
        build: Some("ci 4711".to_owned()),
        components: vec![Component { requires: vec![require], ..component("application") }],
        created: Some(1_700_000_000),
        health: Some(Health { stable_ms: 60_000 }),
        product: "demo-board".to_owned(),
        revisions: vec!["a1".to_owned(), "a2".to_owned()],
        version: "2.4.1".to_owned(),
    }
}

/// Why the manifest is refused once this was done to it.
fn refused(change: impl FnOnce(&mut Manifest)) -> String {
    let mut manifest = manifest();
    change(&mut manifest);
    Manifest::parse(&manifest.encode()).expect_err("it is refused").text
}

#[test]
fn a_manifest_is_read_as_it_was_written_and_its_keys_are_sorted() {
    let bytes = manifest().encode();
    assert_eq!(Manifest::parse(&bytes), Ok(manifest()));
    let value: serde_json::Value = serde_json::from_slice(&bytes).expect("it is JSON");
    let component = &value["components"][0];
    for object in [&value, component, &component["requires"][0]] {
        let keys: Vec<_> = object.as_object().expect("it is one").keys().collect();
        assert!(keys.is_sorted(), "{keys:?}");
    }
}

#[test]
fn what_is_not_understood_is_refused() {
    let text = String::from_utf8(manifest().encode()).expect("it is JSON");
    for (from, to) in [
        ("\"product\"", "\"colour\":1,\"product\""),
        ("\"product\"", "\"product\":\"x\",\"product\""),
        ("\"reboot\"", "\"explode\""),
        ("\"chunks\":513", "\"chunks\":-1"),
        ("\"chunks\":513", "\"chunks\":513.0"),
        ("\"image-hash\":\"01", "\"image-hash\":\"0A"),
        (">=2.0, <3", "^2"),
        ("}]", "}"),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{from}");
        let refusal = Manifest::parse(changed.as_bytes()).expect_err(&changed);
        assert_eq!(refusal.code, Code::BadManifest, "{to}");
    }
    assert_eq!(Manifest::parse(&vec![b' '; MANIFEST_MAX + 1]).unwrap_err().code, Code::TooLong);
    let deep = "[".repeat(60_000);
    assert_eq!(Manifest::parse(deep.as_bytes()).unwrap_err().code, Code::BadManifest);
}

#[test]
fn every_number_is_within_its_limits() {
    assert!(
        refused(|m| m.components.clear()).contains("components: 0 entries; allowed are 1 to 64")
    );
    assert!(refused(|m| m.components.push(component("application"))).contains("occurs twice"));
    assert!(refused(|m| m.components[0].chunks = 0).contains("chunks: 0"));
    assert!(
        refused(|m| m.components[0].chunks = CHUNKS_MAX + 1).contains("allowed are 1 to 1048576")
    );
    assert!(refused(|m| m.components[0].pages = 1).contains("513 chunks need 2"));
    assert!(refused(|m| m.components[0].size = 512).contains("513 chunks hold 513 to"));
    assert!(refused(|m| m.components[0].size = u64::MAX).contains("513 chunks hold"));
    assert!(refused(|m| m.components[0].stored = 5_000_001).contains("more than the size"));
    assert!(refused(|m| m.components[0].id = "Root FS".into()).contains("not a component's name"));
    assert!(refused(|m| m.components[0].id = "../x".into()).contains("not a component's name"));
    assert!(
        refused(|m| m.components[0].requires[0].version = None).contains("without a condition")
    );
    assert!(refused(|m| m.revisions.clear()).contains("revisions: 0 entries"));
    assert!(refused(|m| m.product = "a\u{1b}[2J".into()).contains("printable ASCII"));
    assert!(refused(|m| m.version = "two point four".into()).contains("not a version"));
    assert!(refused(|m| m.health = Some(Health { stable_ms: 86_400_001 })).contains("stable-ms"));
}

#[test]
fn a_bundle_fits_its_product_and_revisions_alone() {
    let mut manifest = manifest();
    assert_eq!(manifest.check_fit("demo-board", "a2"), Ok(()));
    assert_eq!(manifest.check_fit("demo", "a2").unwrap_err().code, Code::WrongProduct);
    assert_eq!(manifest.check_fit("demo-board", "a").unwrap_err().code, Code::WrongRevision);
    manifest.revisions = vec!["*".to_owned()];
    assert_eq!(manifest.check_fit("demo-board", "b"), Ok(()));
}

#[test]
fn what_is_required_is_looked_for_in_the_bundle_first_and_then_on_the_device() {
    let mut manifest = manifest();
    let device = |version: &'static str| {
        move |id: &str| {
            (id == "rootfs").then_some(Running { version, rollback_index: 3, image_hash: None })
        }
    };
    assert_eq!(manifest.check_requires(device("2.1")), Ok(()));
    let refusal = manifest.check_requires(device("3.0")).unwrap_err();
    assert_eq!(refusal.code, Code::Requires);
    assert_eq!(refusal.text, "application requires rootfs >=2.0, <3, but it is 3.0");
    assert!(manifest.check_requires(|_| None).unwrap_err().text.contains("knows nothing"));
    manifest.components.push(component("rootfs"));
    assert_eq!(manifest.check_requires(device("3.0")), Ok(()));
    let require = &mut manifest.components[0].requires[0];
    require.image_hash = Some([1; 32]);
    require.rollback_index = Some(7);
    assert_eq!(manifest.check_requires(|_| None), Ok(()));
    manifest.components[0].requires[0].rollback_index = Some(8);
    assert!(manifest.check_requires(|_| None).unwrap_err().text.contains("rollback index 8"));
    manifest.components[0].requires[0].rollback_index = None;
    manifest.components[0].requires[0].image_hash = Some([9; 32]);
    assert!(manifest.check_requires(|_| None).unwrap_err().text.contains("with hash 0909"));
}
