//! What a device believes, and what it refuses before a byte is written.

use std::io;

use bundle::{
    Keyring, Permission, PublicKey, Require, RoleKeys, Roles, SecretKey, Signatures, sign_manifest,
};
use protocol::{
    failure::{Code, Failure},
    upgrade::{ALLOW_UNSIGNED, DRY_RUN, PAGE_TABLE, State},
};

use super::{
    checker::caller,
    device::{
        IMAGES, LIMITS, NOW, Parcel, SimBoot, SimPlatform, begin, factory, image, parcel, rules,
        start,
    },
    world::Shared,
};
use crate::engine::{
    Engine, Work,
    choice::Choice,
    contract::{Action, BootControl as _, Caller, Letter, Switched},
};

const DEVICE: [u8; 32] = [9; 32];

/// A device with a keyring: one key each for root, bundle and recovery.
struct Trusting {
    engine: Engine<SimPlatform>,
    world: Shared,
    /// Whether what was switched last came with a permission.
    permitted: bool,
}

fn key(number: u8) -> SecretKey {
    SecretKey::new(&[number; 32])
}

fn one(number: u8) -> RoleKeys {
    RoleKeys::new(1, &[key(number).public()])
}

fn keyring(version: u64, bundle: u8) -> (Vec<u8>, Vec<u8>) {
    let roles = Roles {
        bundle: Some(one(bundle)),
        operator: Some(one(8)),
        recovery: Some(one(3)),
        root: one(1),
    };
    let bytes = Keyring { version, roles }.encode();
    let mut signatures = Signatures::default();
    signatures.add(Keyring::sign(&bytes, &key(1))).unwrap();
    (bytes, signatures.encode())
}

fn signed(parcel: &Parcel, number: u8) -> Vec<u8> {
    let mut signatures = Signatures::default();
    signatures.add(sign_manifest(&parcel.manifest.encode(), &key(number))).unwrap();
    begin(&parcel.manifest, &signatures.encode())
}

fn all() -> Parcel {
    parcel(&IMAGES, 2)
}

fn application(version: u64) -> Parcel {
    parcel(&IMAGES[2..], version)
}

fn reason(failure: &Failure) -> &str {
    failure.details.as_ref().and_then(|details| details["reason"].as_str()).unwrap_or("")
}

impl Trusting {
    fn new() -> Self {
        let world = Shared::new(factory());
        let engine = Self::open(&world);
        Self { engine, world, permitted: false }
    }

    fn open(world: &Shared) -> Engine<SimPlatform> {
        Self::try_open(world).unwrap()
    }

    fn try_open(world: &Shared) -> io::Result<Engine<SimPlatform>> {
        let platform = SimPlatform::new(world);
        let mut engine = Engine::open(platform, rules(), start(Letter::A, 1, false), LIMITS, NOW)?;
        let (bytes, signatures) = keyring(1, 2);
        engine.trust(Some((&bytes, &signatures))).map_err(io::Error::other)?;
        Ok(engine)
    }

    /// What an earlier process left to be done.
    fn finish_activation(&mut self) -> Result<(), Failure> {
        while self.engine.work(NOW)? == Work::More {}
        match self.engine.status().state {
            State::Written => self.engine.activate(NOW)?,
            _ => return Ok(()),
        }
        while self.engine.work(NOW)? == Work::More {}
        Ok(())
    }

    /// What the loader goes by.
    fn choice(&self) -> Choice {
        SimBoot::of(&self.world).load().unwrap()
    }

    fn begin(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.engine.begin(bytes, 0, caller(), NOW).map(|_| ())
    }

    /// The reason of a refusal, which must have changed nothing.
    fn refused(&mut self, bytes: &[u8]) -> String {
        let before = self.world.0.borrow().faults.operations;
        let failure = self.begin(bytes).unwrap_err();
        assert_eq!(self.world.0.borrow().faults.operations, before, "{failure}");
        assert_eq!(self.engine.status().state, State::Idle);
        reason(&failure).to_owned()
    }

    /// Sends all that the device wants; how many bytes that was.
    fn send(&mut self, parcel: &Parcel) -> Result<u64, Failure> {
        let engine = &mut self.engine;
        let begun = engine.begin(&signed(parcel, 2), 0, caller(), NOW)?;
        let mut sent = 0;
        for number in begun.components {
            let at = usize::try_from(number).unwrap();
            engine.pages(begun.session, number, PAGE_TABLE, &parcel.tables[at], NOW)?;
            let (page, chunks) = &parcel.pages[at][0];
            let wanted = engine.pages(begun.session, number, 0, page, NOW)?;
            for (place, raw) in (0..).zip(chunks) {
                if wanted[place / 8] & 1 << (place % 8) != 0 {
                    let place = u32::try_from(place).unwrap();
                    engine.chunk(begun.session, number, place, raw, NOW)?;
                    sent += raw.len() as u64;
                }
            }
        }
        engine.finish(begun.session, None, NOW)?;
        Ok(sent)
    }

    /// Installs to the end, but for the reboot of a set.
    fn install(&mut self, parcel: &Parcel) -> Result<u64, Failure> {
        let sent = self.send(parcel)?;
        while self.engine.work(NOW)? == Work::More {}
        self.act()?;
        Ok(sent)
    }

    /// Does what the engine wants done; whatever is observed is healthy.
    fn act(&mut self) -> Result<(), Failure> {
        let engine = &mut self.engine;
        while let Some(action) = engine.poll_action() {
            match action {
                Action::Switch(switch) => {
                    self.permitted = switch.uses.iter().all(|using| using.permitted);
                    engine.switched(Ok(Switched { outage_ms: 7, ..Switched::default() }), NOW)?;
                }
                Action::Observe(observe) => engine.verdict(observe.number, Ok(()), NOW)?,
                Action::Changed | Action::Reboot { .. } => {}
            }
        }
        Ok(())
    }
}

#[test]
fn nothing_is_written_for_who_is_not_believed() {
    let mut device = Trusting::new();
    let parcel = all();
    assert_eq!(device.refused(&parcel.begin), "unsigned");
    assert_eq!(device.refused(&signed(&parcel, 7)), "unknown-key");
    assert_eq!(device.refused(&signed(&parcel, 3)), "wrong-role");
    let good = signed(&parcel, 2);
    for at in (0..good.len()).step_by(37) {
        let mut flipped = good.clone();
        flipped[at] ^= 1;
        device.refused(&flipped);
    }
    device.refused(&good[..good.len() - 1]);
    device.begin(&good).unwrap();
}

#[test]
fn what_is_made_for_another_device_or_lacks_what_it_needs_is_refused() {
    let mut device = Trusting::new();
    let mut wrong = |change: fn(&mut Parcel)| {
        let mut parcel = all();
        change(&mut parcel);
        device.refused(&signed(&parcel, 2))
    };
    assert_eq!(wrong(|parcel| parcel.manifest.product = "other".into()), "wrong-product");
    assert_eq!(wrong(|parcel| parcel.manifest.revisions = vec!["b".into()]), "wrong-revision");
    assert_eq!(
        wrong(|parcel| parcel.manifest.components[0].id = "fpga".into()),
        "unknown-component"
    );
    assert_eq!(wrong(|parcel| parcel.manifest.components[1].rollback_index = 0), "rollback");
    assert_eq!(
        wrong(|parcel| {
            let boot = Require {
                component: "boot".into(),
                image_hash: None,
                rollback_index: Some(1),
                version: None,
            };
            parcel.manifest.components[0].requires = vec![boot];
        }),
        "requires"
    );
    assert_eq!(
        wrong(|parcel| {
            let component = &mut parcel.manifest.components[0];
            (component.size, component.chunks) = (500_000, 100);
        }),
        "slot-too-small"
    );
}

#[test]
fn what_runs_already_needs_nothing_and_a_dry_run_writes_nothing() {
    let mut device = Trusting::new();
    let parcel = parcel(&IMAGES, 1);
    let begun = device.engine.begin(&signed(&parcel, 2), 0, caller(), NOW).unwrap();
    assert!(begun.current && begun.components.is_empty());
    let parcel = all();
    let begun = device.engine.begin(&signed(&parcel, 2), DRY_RUN, caller(), NOW).unwrap();
    assert_eq!((begun.session, begun.components.len()), (0, 3));
    assert_eq!(device.engine.status().state, State::Idle);
    assert_eq!(device.world.0.borrow().faults.operations, 0);
}

#[test]
fn only_root_on_the_device_installs_without_a_signature_and_the_history_says_so() {
    let mut device = Trusting::new();
    let parcel = application(2);
    let far = Caller { who: "operator".into(), local_root: false };
    let denied = device.engine.begin(&parcel.begin, ALLOW_UNSIGNED, far, NOW).unwrap_err();
    assert_eq!(denied.code, Code::Denied);
    let begun = device.engine.begin(&parcel.begin, ALLOW_UNSIGNED, caller(), NOW).unwrap();
    assert!(begun.session > 0);
    device.engine.abort(NOW).unwrap();
    let last = device.engine.history().last().unwrap();
    assert_eq!((last.state, last.reason.as_str()), (State::Failed, "given up; unsigned"));
}

#[test]
fn one_installs_at_a_time_and_the_other_is_told_who() {
    let mut device = Trusting::new();
    let parcel = all();
    device.begin(&signed(&parcel, 2)).unwrap();
    let busy = device.begin(&signed(&parcel, 2)).unwrap_err();
    assert_eq!(busy.code, Code::Busy);
    assert!(busy.text.contains("uid 0"), "{busy}");
    device.engine.leave(1);
    device.begin(&signed(&parcel, 2)).unwrap();
    let gone = device.engine.pages(1, 0, PAGE_TABLE, &parcel.tables[0], NOW).unwrap_err();
    assert_eq!(gone.code, Code::Gone);
}

#[test]
fn a_chunk_that_is_not_what_was_signed_is_refused_and_the_right_one_is_taken_then() {
    let mut device = Trusting::new();
    let parcel = all();
    device.begin(&signed(&parcel, 2)).unwrap();
    let engine = &mut device.engine;
    engine.pages(1, 0, PAGE_TABLE, &parcel.tables[0], NOW).unwrap();
    let (page, chunks) = &parcel.pages[0][0];
    let mut flipped = page.clone();
    flipped[30] ^= 1;
    assert_eq!(reason(&engine.pages(1, 0, 0, &flipped, NOW).unwrap_err()), "bad-index");
    engine.pages(1, 0, 0, page, NOW).unwrap();
    let mut wrong = chunks[0].clone();
    wrong[0] ^= 1;
    assert_eq!(reason(&engine.chunk(1, 0, 0, &wrong, NOW).unwrap_err()), "bad-chunk");
    assert_eq!(reason(&engine.chunk(1, 0, 1, &chunks[1], NOW).unwrap_err()), "bad-index");
    engine.chunk(1, 0, 0, &chunks[0], NOW).unwrap();
    let early = engine.finish(1, None, NOW).unwrap_err();
    assert_eq!(early.code, Code::InvalidArgument);
}

#[test]
fn the_second_upgrade_sends_only_what_changed_and_raises_the_floor() {
    let mut device = Trusting::new();
    let whole = device.install(&application(2)).unwrap();
    let changed = device.install(&application(3)).unwrap();
    assert!(changed > 0 && changed * 2 <= whole, "{changed} of {whole}");
    assert_eq!(device.engine.status().state, State::Confirmed);
    assert_eq!(device.engine.history().last().unwrap().outage_ms, Some(7));
    let old = device.begin(&signed(&application(2), 2)).unwrap_err();
    assert_eq!(reason(&old), "rollback");
    let back = device.engine.rollback(None, NOW).unwrap_err();
    assert_eq!(back.code, Code::Denied);
}

#[test]
fn a_permission_of_recovery_lets_one_bundle_below_the_floor_once() {
    let mut device = Trusting::new();
    device.install(&application(3)).unwrap();
    let old = application(2);
    let permission = Permission {
        component: "application".into(),
        device: DEVICE,
        manifest: bundle::sha256(&old.manifest.encode()),
        to_index: 2,
    };
    let bytes = permission.encode();
    let by = |number| {
        let mut signatures = Signatures::default();
        signatures.add(Permission::sign(&bytes, &key(number))).unwrap();
        signatures.encode()
    };
    let engine = &mut device.engine;
    assert!(engine.permit(&bytes, &by(2), &DEVICE).is_err());
    assert!(engine.permit(&bytes, &by(3), &[1; 32]).is_err());
    engine.permit(&bytes, &by(3), &DEVICE).unwrap();
    device.install(&old).unwrap();
    assert!(device.permitted, "whoever has a floor of its own is told");
    assert_eq!(device.engine.floor("application"), 2);
    device.install(&application(3)).unwrap();
    assert!(!device.permitted);
    assert_eq!(reason(&device.begin(&signed(&old, 2)).unwrap_err()), "rollback");
    let again = device.engine.permit(&bytes, &by(3), &DEVICE).unwrap_err();
    assert!(again.text.contains("used already"), "{again}");
}

#[test]
fn a_newer_keyring_replaces_the_factorys_and_outlives_the_process() {
    let mut device = Trusting::new();
    let install = |engine: &mut Engine<SimPlatform>, (bytes, signatures): (Vec<u8>, Vec<u8>)| {
        let length = u32::try_from(bytes.len()).unwrap().to_le_bytes();
        engine.install_keyring(&[&length[..], &bytes, &signatures].concat(), false)
    };
    assert_eq!(install(&mut device.engine, keyring(2, 5)), Ok(2));
    assert_eq!(reason(&install(&mut device.engine, keyring(2, 5)).unwrap_err()), "not-newer");
    let operators = device.engine.operators();
    assert_eq!(operators.iter().map(PublicKey::id).collect::<Vec<_>>(), [key(8).public().id()]);
    device.engine = Trusting::open(&device.world);
    assert_eq!(device.engine.keyring().map(|keyring| keyring.version), Some(2));
    assert_eq!(device.refused(&signed(&all(), 2)), "unknown-key");
    device.begin(&signed(&all(), 5)).unwrap();
}

#[test]
fn a_device_without_a_keyring_believes_nobody_and_says_what_to_do() {
    let world = Shared::new(factory());
    let platform = SimPlatform::new(&world);
    let mut engine =
        Engine::open(platform, rules(), start(Letter::A, 1, false), LIMITS, NOW).unwrap();
    let refused = engine.begin(&signed(&all(), 2), 0, caller(), NOW).unwrap_err();
    assert_eq!(reason(&refused), "no-keyring");
    assert!(refused.text.contains("--allow-unsigned"), "{refused}");
    let (bytes, signatures) = keyring(1, 2);
    let length = u32::try_from(bytes.len()).unwrap().to_le_bytes();
    let first = [&length[..], &bytes, &signatures].concat();
    assert_eq!(engine.install_keyring(&first, false).unwrap_err().code, Code::Denied);
    assert_eq!(engine.install_keyring(&first, true), Ok(1));
}

#[test]
fn a_set_has_all_its_tries_however_often_an_image_of_it_is_resumed() {
    let mut device = Trusting::new();
    device.act().unwrap();
    for _ in 0..10 {
        // The loader does not know that it is no boot.
        assert_eq!(SimBoot::boot(&device.world), Ok(Letter::A));
        device.engine.born_again(NOW);
        device.act().unwrap();
        assert_eq!(device.choice().tries, [3, 0]);
    }
}

#[test]
fn the_loader_never_boots_a_set_that_is_written_and_is_told_once_it_is_verified() {
    let mut device = Trusting::new();
    let mut both = device.choice();
    (both.order, both.tries) = ([Some(Letter::A), Some(Letter::B)], [3, 3]);
    SimBoot::of(&device.world).store(&both).unwrap();
    device.begin(&signed(&all(), 2)).unwrap();
    let choice = device.choice();
    assert_eq!((choice.order, choice.tries), ([Some(Letter::A), None], [3, 0]));
    device.engine.leave(1);
    device.install(&all()).unwrap();
    assert_eq!(device.engine.status().state, State::Activated);
    assert_eq!(device.choice().order, [Some(Letter::B), Some(Letter::A)]);
    let busy = device.begin(&signed(&all(), 2)).unwrap_err();
    assert!(busy.text.contains("confirm it or roll it back"), "{busy}");
    device.engine.rollback(None, NOW).unwrap();
    assert_eq!(device.choice().order, [Some(Letter::A), None]);
    assert_eq!(device.engine.status().state, State::RolledBack);
}

#[test]
fn a_set_with_a_mirror_is_activated_only_once_the_loader_was_told() {
    let mut device = Trusting::new();
    device.send(&parcel(&[IMAGES[1], ("boot", 9000)], 2)).unwrap();
    while device.engine.work(NOW).unwrap() == Work::More {
        let status = device.engine.status();
        assert_eq!((status.state, status.reason), (State::Verifying, None));
    }
    assert_eq!(device.engine.status().state, State::Activated);
    assert_eq!(device.choice().primary(), Some(Letter::B));
}

/// The first mirror that is whole, of any version.
fn whole_mirrors(world: &Shared) -> usize {
    let world = world.0.borrow();
    let is = |letter: &str, version| {
        world.seen(&format!("boot-{letter}"))[..9000] == image("boot", version, 9000)
    };
    ["A", "B"].into_iter().filter(|letter| is(letter, 1) || is(letter, 2)).count()
}

#[test]
fn a_mirrored_component_is_whole_in_one_place_whenever_power_is_lost() {
    let parcel = parcel(&[("boot", 9000)], 2);
    for cut in 1.. {
        let mut world = factory();
        (world.faults.cut_at, world.keep) = (Some(cut), cut);
        let world = Shared::new(world);
        for _ in 0..3 {
            // What a loss of power interrupts is pushed again.
            if let Ok(engine) = Trusting::try_open(&world) {
                let mut device = Trusting { engine, world: world.clone(), permitted: false };
                let _ = device.finish_activation();
                if device.engine.status().state != State::Confirmed {
                    let _ = device.install(&parcel);
                }
            }
            if world.0.borrow().off {
                world.0.borrow_mut().power_cycle();
                assert!(whole_mirrors(&world) >= 1, "cut at {cut}");
            }
        }
        let engine = Trusting::open(&world);
        assert_eq!(engine.status().state, State::Confirmed, "cut at {cut}");
        for letter in ["A", "B"] {
            let world = world.0.borrow();
            assert!(world.seen(&format!("boot-{letter}"))[..9000] == image("boot", 2, 9000));
        }
        if world.0.borrow().faults.cut_at.is_some() {
            break;
        }
    }
}

#[test]
fn an_image_is_void_before_the_first_byte_of_what_is_booted_and_again_before_it_is_used() {
    let image = |device: &Trusting| device.world.0.borrow().image;
    let mut device = Trusting::new();
    device.world.0.borrow_mut().image.valid = true;
    device.install(&application(2)).unwrap();
    assert!(image(&device).valid && image(&device).told == 0, "an application is not in the way");
    let bytes = signed(&parcel(&IMAGES, 3), 2);
    device.engine.begin(&bytes, DRY_RUN, caller(), NOW).unwrap();
    assert!(image(&device).valid, "checking changes nothing");
    device.install(&parcel(&IMAGES, 3)).unwrap();
    assert!(!image(&device).valid && image(&device).told == 2);
    // What is mirrored is booted, too.
    let mut device = Trusting::new();
    device.world.0.borrow_mut().image.valid = true;
    device.install(&parcel(&[("boot", 9000)], 2)).unwrap();
    assert!(!image(&device).valid && image(&device).told == 2);
}

#[test]
fn nothing_is_written_under_an_image_that_can_not_be_made_void() {
    let mut device = Trusting::new();
    let stuck = super::world::Image { valid: true, stuck: true, told: 0 };
    device.world.0.borrow_mut().image = stuck;
    device.refused(&signed(&all(), 2));
    let failure = device.begin(&signed(&all(), 2)).unwrap_err();
    assert!(failure.code == Code::Failed && failure.text.contains("read-only"), "{failure}");
    device.install(&application(2)).unwrap();
    // It is not the end: the next one goes well when the engine does.
    device.world.0.borrow_mut().image.stuck = false;
    device.install(&parcel(&IMAGES, 3)).unwrap();
    assert!(!device.world.0.borrow().image.valid);
}

#[test]
fn a_transfer_that_is_taken_up_again_says_it_again() {
    let mut device = Trusting::new();
    for told in 1..=2 {
        device.world.0.borrow_mut().image.valid = true;
        let begun = device.engine.begin(&signed(&all(), 2), 0, caller(), NOW).unwrap();
        assert_eq!(device.world.0.borrow().image.told, told);
        device.engine.leave(begun.session);
    }
}
