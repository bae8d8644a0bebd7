//! `vestalctl registry ...`: what the registry says of itself and of its rules.

use protocol::{
    policy::{Rule, Verb, Verdict, Who},
    registry::{PolicyOf, PolicyState, Status},
};
use serde_json::{Value, json};

use crate::{
    bus::{Bus, How},
    cli::RegistryCommand,
    error::Error,
    events::{counted, no_registry},
    output::Output,
    process,
    table::{Cell, Paint, Table, clean},
};

pub(crate) async fn run(bus: &Bus, out: Output, command: RegistryCommand) -> Result<(), Error> {
    let (method, args) = match command {
        RegistryCommand::Status => ("status", json!({})),
        RegistryCommand::Policy { object } => ("policy", json!(PolicyOf { object })),
    };
    let answer = bus.call("registry", method, &args, How::READ).await.map_err(no_registry)?;
    if out.json {
        return Output::json(&answer);
    }
    if method == "status" { status(out, answer) } else { policy(out, answer) }
}

fn status(out: Output, answer: Value) -> Result<(), Error> {
    let status: Status = understood(answer)?;
    let counts = [
        ("endpoints", status.endpoints),
        ("objects", status.objects),
        ("retained", status.retained),
        ("published", status.published),
        ("policy", status.epoch),
    ];
    let lines: String = counts.map(|(name, count)| format!("{name:<11}{count}\n")).concat();
    Output::text(&lines)?;
    if status.subscribers.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&[">PID", "PROGRAM", "USER", ">WAITING", ">LOST", "PATTERNS"]);
    for subscriber in &status.subscribers {
        let lost = if subscriber.lost > 0 { Paint::Bad } else { Paint::Plain };
        table.row([
            subscriber.pid.to_string().into(),
            process::name(subscriber.pid).into(),
            process::user(subscriber.uid).into(),
            subscriber.waiting.to_string().into(),
            Cell::painted(&subscriber.lost.to_string(), lost),
            subscriber.patterns.join(" ").into(),
        ]);
    }
    Output::text("\n")?;
    out.table(&table)
}

fn policy(out: Output, answer: Value) -> Result<(), Error> {
    let state: PolicyState = understood(answer)?;
    let mut table = Table::new(&["VERDICT", "VERB", "OBJECT OR TOPIC", "METHODS", "WHO", "SOURCE"]);
    for rule in &state.policy.rules {
        table.row(row(rule));
    }
    out.table(&table)?;
    Output::text(&footer(&state))
}

fn row(rule: &Rule) -> [Cell; 6] {
    let verdict = match rule.verdict {
        Verdict::Allow => Cell::painted("allow", Paint::Good),
        Verdict::Deny => Cell::painted("deny", Paint::Bad),
    };
    let verb = match rule.verb {
        Verb::Call => "call",
        Verb::Own => "own",
        Verb::Publish => "publish",
    };
    let methods = match rule.verb {
        Verb::Call if rule.methods.is_empty() => "all".to_owned(),
        _ => rule.methods.join(" "),
    };
    [
        verdict,
        verb.into(),
        (&rule.what).into(),
        methods.into(),
        who(&rule.who).into(),
        (&rule.source).into(),
    ]
}

/// The conditions, all of which must hold.
fn who(who: &Who) -> String {
    let mut parts = Vec::new();
    let mut listed = |what: &str, words: Vec<String>| {
        if !words.is_empty() {
            parts.push(format!("{what} {}", words.join(" or ")));
        }
    };
    let ranges = who.ranges.iter().map(|(first, last)| format!("{first} to {last}"));
    listed("user", who.users.iter().map(|user| process::user(*user)).chain(ranges).collect());
    listed("group", who.groups.iter().map(u32::to_string).collect());
    listed("service", who.services.clone());
    let program = who.executable.iter().map(|program| {
        let digest = program.sha256.as_deref().map(|digest| digest.get(..8).unwrap_or(digest));
        let digest = digest.map(|digest| format!(" ({digest}...)")).unwrap_or_default();
        format!("{}{digest}", program.path)
    });
    listed("program", program.collect());
    match parts.is_empty() {
        true if who.anyone => "anyone".to_owned(),
        true => "nobody".to_owned(),
        false => parts.join(", "),
    }
}

/// What is wrong, below the table.
fn footer(state: &PolicyState) -> String {
    let mut text = format!("\nepoch {}\n", state.policy.epoch);
    for problem in &state.problems {
        text.push_str(&format!("problem: {}\n", clean(problem)));
    }
    if !state.behind.is_empty() {
        let handles: Vec<_> = state.behind.iter().map(ToString::to_string).collect();
        let count = counted(handles.len() as u64, "endpoint");
        text.push_str(&format!("still by older rules: {count} ({})\n", handles.join(", ")));
    }
    text
}

fn understood<T: serde::de::DeserializeOwned>(answer: Value) -> Result<T, Error> {
    serde_json::from_value(answer).map_err(|error| {
        Error::failed(format!(
            "the registry's answer is not understood: {error}; is it newer than vestalctl?"
        ))
    })
}

#[cfg(test)]
mod tests {
    use protocol::{policy::Executable, registry::Handle};

    use super::*;

    #[test]
    fn conditions_are_told_in_words() {
        let all = Who {
            users: vec![u32::MAX],
            ranges: vec![(1000, 1999)],
            groups: vec![44],
            services: vec!["camera".into(), "web".into()],
            executable: Some(Executable {
                path: "/bin/x".into(),
                sha256: Some("0123456789".into()),
            }),
            ..Who::default()
        };
        assert_eq!(
            who(&all),
            "user 4294967295 or 1000 to 1999, group 44, service camera or web, program /bin/x (01234567...)"
        );
        assert_eq!(who(&Who::default()), "nobody");
        assert_eq!(who(&Who { anyone: true, ..Who::default() }), "anyone");
    }

    #[test]
    fn what_is_wrong_stands_below_the_rules() {
        let state = PolicyState {
            policy: protocol::registry::Policy { epoch: 4, rules: Vec::new() },
            problems: vec!["camera.toml:7: unknown key \"usr\"".into()],
            behind: vec![Handle { epoch: 3, number: 17 }],
        };
        assert_eq!(
            footer(&state),
            "\nepoch 4\nproblem: camera.toml:7: unknown key \"usr\"\nstill by older rules: 1 endpoint (3.17)\n"
        );
    }
}
