//! What is thought of a bundle before a byte of it is written: signatures, fit, rollback floors, requirements, and which slots
//! it needs. Changes nothing.

use bundle::{Code, Keyring, Kind, Manifest, Permission, Refusal, Role, Running};
use protocol::{
    failure::{self, Failure},
    upgrade::{ALLOW_UNSIGNED, Transaction},
};

use super::{
    contract::{Activation, Caller, ComponentRules, Fact, Letter, Rules, Start},
    ledger::Ledger,
    plan::{Permitted, Plan, Planned},
};

/// What is known when a bundle is looked at.
pub(crate) struct Device<'d> {
    pub(crate) rules: &'d Rules,
    pub(crate) start: &'d Start,
    pub(crate) ledger: &'d Ledger,
    pub(crate) keyring: Option<&'d Keyring>,
    /// Permissions that were verified and not used.
    pub(crate) permissions: &'d [(Permission, String)],
    /// There is a boot loader to talk to.
    pub(crate) bootable: bool,
}

/// A bundle that may be taken.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    pub(crate) manifest: Manifest,
    /// Empty where everything that it carries is what runs.
    pub(crate) plan: Plan,
}

/// Goes through the order of trust.
///
/// # Errors
/// The first thing that is not in order, with its reason code in the details.
pub(crate) fn examine(
    device: &Device<'_>,
    bytes: &[u8],
    flags: u32,
    caller: &Caller,
    since: u64,
) -> Result<Offer, Failure> {
    let parts = bundle::split(bytes).map_err(refused)?;
    let (manifest, unsigned) = trusted(device, &parts, flags, caller)?;
    parts.header.check(&manifest).map_err(refused)?;
    let id = bundle::hex::encode(&bundle::sha256(parts.manifest));
    let rules = device.rules;
    manifest.check_fit(&rules.product, &rules.revision).map_err(refused)?;
    let permitted = device.check_floors(&manifest, &id).map_err(refused)?;
    let facts: Vec<(String, Fact)> = rules
        .components
        .iter()
        .filter_map(|component| Some((component.name.clone(), device.running(component)?)))
        .collect();
    let running = |name: &str| facts.iter().find(|(known, _)| known == name).map(|(_, fact)| fact);
    manifest.check_requires(|name| running(name).map(as_running)).map_err(refused)?;
    let components = device.place(&manifest)?;
    let named = components.iter().filter(|planned| planned.carried);
    let transaction = Transaction {
        id: id[..16].to_owned(),
        version: manifest.version.clone(),
        components: named.map(|planned| planned.component.clone()).collect(),
        since,
        who: caller.who.clone(),
    };
    let stable_ms = manifest.health.map_or(0, |health| health.stable_ms);
    let plan = Plan { id, transaction, unsigned, components, stable_ms, permitted };
    Ok(Offer { manifest, plan })
}

/// The manifest, and whether nobody signed for it.
fn trusted(
    device: &Device<'_>,
    parts: &bundle::Parts<'_>,
    flags: u32,
    caller: &Caller,
) -> Result<(Manifest, bool), Failure> {
    let allowed = flags & ALLOW_UNSIGNED != 0;
    if allowed && !caller.local_root {
        let text = "only root on the device itself may install a bundle without a valid signature";
        return Err(Failure::new(failure::Code::Denied, text));
    }
    let verified = match device.keyring {
        Some(keyring) => bundle::verify(parts.manifest, parts.signatures, keyring, Role::Bundle),
        None => Err(Refusal::new(
            Code::NoKeyring,
            "the device has no keyring, and so believes nobody: install a keyring, or as root pass --allow-unsigned",
        )),
    };
    match verified {
        Ok(verified) => Ok((verified.manifest, false)),
        Err(_) if allowed => Ok((Manifest::parse(parts.manifest).map_err(refused)?, true)),
        Err(refusal) => Err(refused(refusal)),
    }
}

impl Device<'_> {
    /// What runs of a component, as far as it is known.
    fn running(&self, component: &ComponentRules) -> Option<Fact> {
        let letter = in_use(self.ledger, self.start, component)?;
        let fact = self.ledger.slot(&component.name, letter).fact;
        if fact != Fact::default() {
            return Some(fact);
        }
        let mut factory = self.start.factory.iter();
        factory.find(|(name, _)| *name == component.name).map(|(_, fact)| fact.clone())
    }

    /// The lowest rollback index that is taken.
    fn floor(&self, name: &str) -> u64 {
        let own = self.start.floors.iter().filter(|(known, _)| known == name);
        own.map(|(_, floor)| *floor).max().unwrap_or(0).max(self.ledger.floor(name))
    }

    fn check_floors(&self, manifest: &Manifest, id: &str) -> Result<Vec<Permitted>, Refusal> {
        let mut used = Vec::new();
        for component in &manifest.components {
            let floor = self.floor(&component.id);
            if component.rollback_index >= floor {
                continue;
            }
            let permission = self.permissions.iter().find(|(permission, hash)| {
                permission.component == component.id
                    && bundle::hex::encode(&permission.manifest) == id
                    && permission.to_index <= component.rollback_index
                    && !self.ledger.is_used(hash)
            });
            let Some((permission, hash)) = permission else {
                let text = format!(
                    "{} has rollback index {}, but this device takes no less than {floor}: build it with a higher one, \
                     or get a permission signed by a recovery key",
                    component.id, component.rollback_index
                );
                return Err(Refusal::new(Code::Rollback, text));
            };
            used.push(Permitted {
                component: component.id.clone(),
                to_index: permission.to_index,
                permission: hash.clone(),
            });
        }
        Ok(used)
    }

    /// Which slots are written: those of what is carried and new, and all others of the set where one of them is in it.
    fn place(&self, manifest: &Manifest) -> Result<Vec<Planned>, Failure> {
        let mut planned = Vec::new();
        for component in &manifest.components {
            let Some((_, rules)) = self.rules.component(&component.id) else {
                let text = format!("this device has no component {:?}", component.id);
                return Err(refused(Refusal::new(Code::UnknownComponent, text)));
            };
            if rules.directory != (component.kind == Kind::Directory) {
                let text = format!(
                    "{}: a folder and an image can't take each other's place",
                    component.id
                );
                return Err(refused(Refusal::new(Code::UnknownComponent, text)));
            }
            if let Some(most) = rules.activation.image_max().filter(|most| component.size > *most) {
                let text = format!(
                    "{} has {} bytes; what is loaded into memory may have {most}",
                    component.id, component.size
                );
                return Err(Failure::new(failure::Code::Unsupported, text));
            }
            let hash = bundle::hex::encode(&component.image_hash);
            let current = self.running(rules).is_some_and(|fact| fact.hash == hash);
            if current {
                continue;
            }
            let fact = Fact {
                version: component.version.clone(),
                rollback_index: component.rollback_index,
                hash,
                size: component.size,
            };
            let letter = self.target(rules)?;
            planned.push(Planned { component: component.id.clone(), letter, carried: true, fact });
        }
        let of_set = |rules: &&ComponentRules| rules.activation == Activation::Reboot;
        let touched = self.rules.components.iter().filter(of_set);
        let touched =
            touched.clone().any(|rules| planned.iter().any(|one| one.component == rules.name));
        for rules in self.rules.components.iter().filter(of_set).filter(|_| touched) {
            if planned.iter().all(|one| one.component != rules.name) {
                let fact = self.running(rules).unwrap_or_default();
                let letter = self.target(rules)?;
                planned.push(Planned {
                    component: rules.name.clone(),
                    letter,
                    carried: false,
                    fact,
                });
            }
        }
        Ok(planned)
    }

    /// The slot that is written.
    fn target(&self, rules: &ComponentRules) -> Result<Letter, Failure> {
        if rules.activation == Activation::Reboot && !self.bootable {
            let text =
                format!("{}: upgrade.toml names no boot-control that could switch it", rules.name);
            return Err(Failure::new(failure::Code::Unsupported, text));
        }
        if rules.single {
            return Ok(Letter::A);
        }
        let letter = in_use(self.ledger, self.start, rules).ok_or_else(|| {
            let text = format!(
                "{}: the loader did not say which set runs, so none can be written: let it pass vestal.slot=A or B",
                rules.name
            );
            Failure::new(failure::Code::Unsupported, text)
        })?;
        Ok(letter.other())
    }
}

/// The slot of a component that is in use.
pub(crate) fn in_use(ledger: &Ledger, start: &Start, rules: &ComponentRules) -> Option<Letter> {
    match rules.activation {
        _ if rules.single => Some(Letter::A),
        Activation::Reboot => start.running,
        Activation::Mirror => Some(Letter::A),
        Activation::Restart | Activation::Driver | Activation::Livepatch => {
            Some(ledger.active(&rules.name, start.running))
        }
    }
}

fn as_running(fact: &Fact) -> Running<'_> {
    Running {
        version: &fact.version,
        rollback_index: fact.rollback_index,
        image_hash: bundle::hex::decode(&fact.hash),
    }
}

/// A refusal as a reply.
pub(crate) fn refused(refusal: Refusal) -> Failure {
    let details = serde_json::json!({ "reason": refusal.code.as_str() });
    Failure::new(failure::Code::Denied, refusal.text).with_details(details)
}
