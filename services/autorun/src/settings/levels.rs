//! Who comes after whom: phases first, `after` inside them. Refuses circles with their path.

use std::collections::HashMap;

use protocol::name::Name;

use super::{Phase, Target, target::Written};

/// The targets with their levels and with `after` as places.
///
/// # Errors
/// What `after` names and isn't there, isn't before it, or goes round in a circle.
pub(super) fn order(written: Vec<Written>) -> Result<Vec<Target>, Vec<String>> {
    let places: HashMap<Name, usize> = written
        .iter()
        .enumerate()
        .map(|(place, written)| (written.target.name.clone(), place))
        .collect();
    let phases: Vec<Phase> = written.iter().map(|written| written.target.phase).collect();
    let mut problems = Vec::new();
    let mut targets = Vec::new();
    for Written { mut target, after } in written {
        for name in after {
            let file = format!("autorun.d/{}.toml: after", target.name);
            match places.get(&name) {
                Some(place) if phases[*place] > target.phase => problems.push(format!(
                    "{file}: {name} runs in the later phase {:?}; move one of them",
                    phases[*place]
                )),
                Some(place) if target.after.contains(place) => {}
                Some(place) => target.after.push(*place),
                None => problems.push(format!("{file}: there is no autorun.d/{name}.toml")),
            }
        }
        targets.push(target);
    }
    if problems.is_empty() {
        match depths(&targets) {
            Ok(depths) => set_levels(&mut targets, &depths),
            Err(circle) => problems.push(circle),
        }
    }
    if problems.is_empty() { Ok(targets) } else { Err(problems) }
}

/// How many are before each one in its own phase.
fn depths(targets: &[Target]) -> Result<Vec<usize>, String> {
    let mut depths = vec![None; targets.len()];
    for first in 0..targets.len() {
        // The way from `first` to here, each with the next of its `after` to look at.
        let mut path = vec![(first, 0)];
        while let Some((at, next)) = path.last().copied() {
            let target = &targets[at];
            let Some(before) = target.after.get(next).copied().filter(|_| depths[at].is_none())
            else {
                let below = |before: &&usize| targets[**before].phase == target.phase;
                let deepest = target.after.iter().filter(below).filter_map(|at| depths[*at]).max();
                depths[at] = depths[at].or(Some(deepest.map_or(0, |depth: usize| depth + 1)));
                path.pop();
                continue;
            };
            if let Some((_, next)) = path.last_mut() {
                *next += 1;
            }
            if let Some(start) = path.iter().position(|(on, _)| *on == before) {
                let names = path[start..].iter().map(|(on, _)| *on).chain([before]);
                let names: Vec<&str> = names.map(|on| targets[on].name.as_str()).collect();
                return Err(format!(
                    "autorun.d: {} go round in a circle; take one after out",
                    names.join(" after ")
                ));
            }
            if depths[before].is_none() {
                path.push((before, 0));
            }
        }
    }
    Ok(depths.into_iter().map(Option::unwrap_or_default).collect())
}

fn set_levels(targets: &mut [Target], depths: &[usize]) {
    let mut first = 0;
    for phase in [Phase::Early, Phase::Ui, Phase::Late] {
        let mut next = first;
        for (target, depth) in targets.iter_mut().zip(depths) {
            if target.phase == phase {
                target.level = first + depth;
                next = next.max(target.level + 1);
            }
        }
        first = next;
    }
}
