//! What can only be said of all services together: cycles, requirements that nobody meets, addresses taken twice.
//! Leaves out as little as possible, and says what and why.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use protocol::name::Name;

use super::{Listen, Service, Source, problem::Problem};

/// The services that can be run together. What is left out, or will disturb another one, is told in `problems`.
pub(super) fn consistent(services: Vec<Service>, problems: &mut Vec<Problem>) -> Vec<Service> {
    let mut set: BTreeMap<Name, Service> =
        services.into_iter().map(|service| (service.name.clone(), service)).collect();
    let mut left_out = BTreeSet::new();
    // Each turn leaves out at least one service, so there are no more turns than services.
    loop {
        let mut out = core_after_application(&set);
        if out.is_empty() {
            out = unmet(&set, &left_out);
        }
        if out.is_empty() {
            out = cycle(&set);
        }
        if out.is_empty() {
            out = applications_taken(&set);
        }
        if out.is_empty() {
            break;
        }
        for (name, why) in out {
            if let Some(service) = set.remove(&name) {
                problems.push(Problem::of_file(&origin(&service), why));
            }
            left_out.insert(name);
        }
    }
    let set: Vec<Service> = set.into_values().collect();
    taken_twice(&set, problems);
    demanded_twice(&set, problems);
    set
}

/// Where a problem of this service is to be mended.
pub(super) fn origin(service: &Service) -> PathBuf {
    match &service.source {
        Source::File(path) | Source::LastGood(path) => path.clone(),
        Source::BuiltIn => Path::new("built-in").join(format!("{}.toml", service.name)),
        Source::Message => PathBuf::from(service.name.as_str()),
    }
}

/// Names that this one waits for. Unknown ones don't count.
fn waits_for<'s>(
    set: &'s BTreeMap<Name, Service>,
    service: &'s Service,
) -> impl Iterator<Item = &'s Service> {
    let names = service.after.iter().chain(&service.requires).chain(&service.wants);
    names.filter_map(|name| set.get(name))
}

type LeftOut = Vec<(Name, String)>;

/// Applications wait for the suite's daemons, so none of those can wait for an application.
fn core_after_application(set: &BTreeMap<Name, Service>) -> LeftOut {
    let wrong = |service: &Service| {
        let application = waits_for(set, service).find(|other| !other.core)?;
        let text = format!(
            "left out: {} is a daemon of the suite and can't wait for the application {}, which waits for the suite",
            service.name, application.name
        );
        Some((service.name.clone(), text))
    };
    set.values().filter(|service| service.core).filter_map(wrong).collect()
}

fn unmet(set: &BTreeMap<Name, Service>, left_out: &BTreeSet<Name>) -> LeftOut {
    let unmet = |service: &Service| {
        let missing = service.requires.iter().find(|name| !set.contains_key(*name))?;
        let why = match left_out.contains(missing) {
            true => "was left out itself",
            false => "is not defined",
        };
        let text = format!(
            "left out: it requires {:?}, which {why}; define that service, or write wants instead of requires",
            missing.as_str()
        );
        Some((service.name.clone(), text))
    };
    set.values().filter_map(unmet).collect()
}

/// The members of one cycle.
fn cycle(set: &BTreeMap<Name, Service>) -> LeftOut {
    // What waits for nothing that is still here is in no cycle.
    let mut rest: BTreeMap<&Name, BTreeSet<&Name>> = set
        .values()
        .map(|service| (&service.name, waits_for(set, service).map(|other| &other.name).collect()))
        .collect();
    loop {
        let free: BTreeSet<&Name> =
            rest.iter().filter(|(_, waits)| waits.is_empty()).map(|(name, _)| *name).collect();
        if free.is_empty() {
            break;
        }
        rest.retain(|name, _| !free.contains(name));
        for waits in rest.values_mut() {
            waits.retain(|name| !free.contains(name));
        }
    }
    // Everybody here waits for somebody here: whoever follows comes back to where he was.
    let mut path: Vec<&Name> = rest.keys().next().copied().into_iter().collect();
    while let Some(next) = path.last().and_then(|last| rest[*last].first().copied()) {
        if let Some(start) = path.iter().position(|seen| *seen == next) {
            let ring: Vec<&str> =
                path[start..].iter().chain([&next]).map(|name| name.as_str()).collect();
            let text = format!(
                "left out: the services wait for each other in a circle: {}",
                ring.join(" -> ")
            );
            return path[start..].iter().map(|name| ((*name).clone(), text.clone())).collect();
        }
        path.push(next);
    }
    Vec::new()
}

/// The broker knows an application by its number alone: the first service by name has it.
fn applications_taken(set: &BTreeMap<Name, Service>) -> LeftOut {
    let mut owners: BTreeMap<i32, &Service> = BTreeMap::new();
    let mut out = LeftOut::new();
    for service in set.values() {
        let taken = service.applications().find_map(|(app_id, instance)| {
            owners.get(&app_id).map(|owner| (app_id, instance, *owner))
        });
        match taken {
            Some((app_id, instance, owner)) => {
                let text = format!(
                    "left out: instance {instance} has app-id {app_id}, as one of {} has ({}); give each its own",
                    owner.name,
                    origin(owner).display()
                );
                out.push((service.name.clone(), text));
            }
            None => owners.extend(service.applications().map(|(app_id, _)| (app_id, service))),
        }
    }
    out
}

/// Two services on one address: the second to start will not get it. Services that exclude each other may share one.
fn taken_twice(set: &[Service], problems: &mut Vec<Problem>) {
    let mut owners: Vec<(&Listen, &Service, &Name)> = Vec::new();
    for service in set {
        for (instance, definition) in &service.instances {
            for socket in &definition.process.sockets {
                let owner = owners.iter().find(|(listen, other, _)| {
                    **listen == socket.listen
                        && !service.conflicts.contains(&other.name)
                        && !other.conflicts.contains(&service.name)
                });
                if let Some((_, other, of)) = owner {
                    let text = format!(
                        "instance {instance} listens on {}, as instance {of} of {} does; the second to start will fail",
                        address(&socket.listen),
                        other.name
                    );
                    problems.push(Problem::of_file(&origin(service), text));
                }
                owners.push((&socket.listen, service, instance));
            }
        }
    }
}

/// The first by name is started for an object; the other one never is.
fn demanded_twice(set: &[Service], problems: &mut Vec<Problem>) {
    let mut owners: BTreeMap<&str, &Service> = BTreeMap::new();
    let objects = set.iter().flat_map(|service| {
        let objects = service.on_demand.iter().flat_map(|on_demand| &on_demand.objects);
        objects.map(move |object| (object, service))
    });
    for (object, service) in objects {
        match owners.get(object.as_str()) {
            Some(owner) if owner.name != service.name => {
                let text = format!(
                    "on-demand: {object} is an object of {} already, which is the one that is started",
                    owner.name
                );
                problems.push(Problem::of_file(&origin(service), text));
            }
            Some(_) => {}
            None => drop(owners.insert(object, service)),
        }
    }
}

fn address(listen: &Listen) -> String {
    match listen {
        Listen::Unix { path, .. } => path.display().to_string(),
        Listen::Tcp(address) => format!("tcp:{address}"),
        Listen::Udp(address) => format!("udp:{address}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::settings::{context::tests::device, toml};

    fn service(name: &str, keys: &str) -> Service {
        let text = format!("command = [\"/x\"]\n{keys}");
        let file = PathBuf::from(format!("{name}.toml"));
        let name = Name::new(name).unwrap();
        toml::read(&text, &file, &name, Source::File(file.clone()), &device(0)).unwrap().service
    }

    /// The names that stay, and what is told.
    fn checked(services: &[(&str, &str)]) -> (String, String) {
        let mut problems = Vec::new();
        let services = services.iter().map(|(name, keys)| service(name, keys)).collect();
        let stay = consistent(services, &mut problems);
        let names: Vec<&str> = stay.iter().map(|service| service.name.as_str()).collect();
        (names.join(" "), problems.iter().map(|problem| format!("{problem}\n")).collect())
    }

    #[test]
    fn a_cycle_leaves_out_its_members_only_and_is_printed() {
        let (stay, told) = checked(&[
            ("a", "after = [\"b\"]"),
            ("b", "wants = [\"c\"]"),
            ("c", "requires = [\"a\"]"),
            ("d", "after = [\"a\"]"),
            ("e", ""),
        ]);
        assert_eq!(stay, "d e");
        assert_eq!(told.lines().count(), 3);
        assert!(
            told.contains(
                "a.toml: left out: the services wait for each other in a circle: a -> b -> c -> a"
            ),
            "{told}"
        );
    }

    #[test]
    fn who_requires_something_left_out_is_left_out_too() {
        let (stay, told) = checked(&[
            ("a", "requires = [\"nowhere\"]"),
            ("b", "requires = [\"a\"]"),
            ("c", "wants = [\"nowhere\", \"a\"]\nafter = [\"b\"]"),
        ]);
        assert_eq!(stay, "c");
        assert!(
            told.contains("a.toml: left out: it requires \"nowhere\", which is not defined"),
            "{told}"
        );
        assert!(
            told.contains("b.toml: left out: it requires \"a\", which was left out itself"),
            "{told}"
        );
    }

    #[test]
    fn a_daemon_of_the_suite_cant_wait_for_an_application() {
        let (stay, told) = checked(&[
            ("log", "after = [\"web\"]"),
            ("web", "after = [\"registry\"]"),
            ("registry", "after = [\"config\"]"),
        ]);
        assert_eq!(stay, "registry web");
        assert!(told.starts_with("log.toml: left out"), "{told}");
    }

    #[test]
    fn an_object_demanded_of_two_services_is_told_and_the_first_by_name_serves_it() {
        let demand = "on-demand = { objects = [\"camera\"] }";
        let (stay, told) = checked(&[("b", demand), ("a", demand), ("c", "")]);
        assert_eq!(stay, "a b c");
        assert!(told.starts_with("b.toml: on-demand: camera is an object of a already"), "{told}");
    }

    #[test]
    fn an_application_number_taken_twice_leaves_out_the_second_service_and_names_both_files() {
        let heartbeat = "heartbeat = { app-id = 7, period = \"1s\" }";
        let (stay, told) = checked(&[("b", heartbeat), ("a", heartbeat), ("c", "")]);
        assert_eq!(stay, "a c");
        assert!(
            told.starts_with("b.toml: left out: instance instance1 has app-id 7")
                && told.contains("(a.toml)"),
            "{told}"
        );
    }

    #[test]
    fn an_address_taken_twice_is_told_and_both_stay() {
        let socket = "sockets = [{ listen = \"tcp:127.0.0.1:80\" }]";
        let (stay, told) = checked(&[("a", socket), ("b", socket)]);
        assert_eq!(stay, "a b");
        assert!(told.contains("b.toml: instance instance1 listens on tcp:127.0.0.1:80, as instance instance1 of a does"), "{told}");
        let instances = format!("{socket}\n[instances.x]\n[instances.y]");
        assert!(checked(&[("a", &instances)]).1.contains("instance y listens"));
        assert_eq!(
            checked(&[("a", socket), ("b", &format!("conflicts = [\"a\"]\n{socket}"))]).1,
            ""
        );
    }

    proptest! {
        #[test]
        fn whatever_waits_for_whatever_the_rest_has_neither_cycles_nor_unmet_requirements(
            edges in proptest::collection::vec((0_usize..6, 0_usize..7, 0_usize..3), 0..14),
        ) {
            let names = ["a", "b", "c", "d", "e", "f", "nowhere"];
            let mut services: Vec<Service> = names[..6].iter().map(|name| service(name, "")).collect();
            for (from, to, kind) in edges.into_iter().filter(|(from, to, _)| from != to) {
                let to = Name::new(names[to]).unwrap();
                match kind {
                    0 => services[from].after.push(to),
                    1 => services[from].requires.push(to),
                    _ => services[from].wants.push(to),
                }
            }
            let mut problems = Vec::new();
            let rest = consistent(services, &mut problems);
            prop_assert_eq!(problems.len() + rest.len(), 6);
            let set: BTreeMap<Name, Service> = rest.into_iter().map(|service| (service.name.clone(), service)).collect();
            prop_assert!(cycle(&set).is_empty() && unmet(&set, &BTreeSet::new()).is_empty());
        }
    }
}
