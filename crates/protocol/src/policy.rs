//! Who may call, own and publish what: rules, and how they are judged. The registry reads them from files and pushes
//! them; every endpoint judges each call by them itself.
//!
//! Deny wins. What no rule speaks of is open to root and to the endpoint's own user, and to nobody else. A condition
//! that can't be decided yet, because it asks for more than the kernel tells at once, is never taken for met.

use serde::{Deserialize, Serialize};

/// Longest pattern, in bytes.
pub const PATTERN_MAX: usize = 256;
/// Most rules of one policy.
pub const RULES_MAX: usize = 4096;

/// What a rule is about.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// Call a method of an object.
    Call,
    /// Register an object under a name.
    Own,
    /// Publish an event under a topic.
    Publish,
}

/// What a rule says.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Allow,
    Deny,
}

/// One rule.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Rule {
    pub verdict: Verdict,
    pub verb: Verb,
    /// The object's name, or the topic; see [`matches`].
    pub what: String,
    /// Patterns of methods; none is all. Only [`Verb::Call`] has methods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    pub who: Who,
    /// Where it stands: `camera.toml:7`, or `built in`.
    pub source: String,
}

/// Whom a rule means: every list that isn't empty must hold the caller. All empty is nobody, unless `anyone` is set.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Who {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub anyone: bool,
    /// SAMGR's FIXED.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<u32>,
    /// SAMGR's RANGE: first and last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<(u32, u32)>,
    /// Primary or supplementary.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<u32>,
    /// The supervisor says that the caller belongs to one of these services.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<String>,
    /// The caller runs this file, and its user can't write it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub executable: Option<Executable>,
}

/// A program.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Executable {
    /// Absolute, without symbolic links.
    pub path: String,
    /// SHA-256 in hexadecimal digits; without it the path is enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// What the kernel says of a caller at once.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups (SO_PEERGROUPS).
    pub groups: &'a [u32],
    /// Root, or the user that the judging process runs as: what no rule speaks of is open to it.
    pub trusted: bool,
    /// What was found out about the process; without it rules on services and executables are undecided.
    pub identity: Option<&'a Identity>,
}

/// What the supervisor says of a process. All absent: it is known to be nothing special.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Identity {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub executable: Option<Running>,
}

/// The program that a process runs.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Running {
    pub path: String,
    pub sha256: String,
    /// Whether the process's own user can write the file or replace it: then it proves nothing.
    pub writable: bool,
}

/// The outcome.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Judgement<'a> {
    Allowed,
    /// By this rule; `None`: no rule allows it.
    Denied(Option<&'a Rule>),
    /// [`Facts::identity`] decides.
    Undecided,
}

/// How one rule's conditions stand.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Holds {
    Yes,
    No,
    Unknown,
}

/// Judges `verb` on `what` (with `method`, for a call).
#[must_use]
pub fn judge<'a>(
    rules: impl IntoIterator<Item = &'a Rule>,
    verb: Verb,
    what: &str,
    method: Option<&str>,
    facts: &Facts<'_>,
) -> Judgement<'a> {
    let mut allowed = facts.trusted;
    let (mut maybe_allowed, mut maybe_denied) = (false, false);
    for rule in rules {
        if !rule.is_about(verb, what, method) {
            continue;
        }
        match (rule.who.holds(facts), rule.verdict) {
            (Holds::Yes, Verdict::Deny) => return Judgement::Denied(Some(rule)),
            (Holds::Yes, Verdict::Allow) => allowed = true,
            (Holds::Unknown, Verdict::Deny) => maybe_denied = true,
            (Holds::Unknown, Verdict::Allow) => maybe_allowed = true,
            (Holds::No, _) => {}
        }
    }
    match (maybe_denied, allowed, maybe_allowed) {
        (true, true, _) | (_, false, true) => Judgement::Undecided,
        // Whoever is allowed anyway need not be asked who he is.
        (false, true, _) => Judgement::Allowed,
        (_, false, false) => Judgement::Denied(None),
    }
}

impl Rule {
    /// Whether the rule speaks of this at all.
    #[must_use]
    pub fn is_about(&self, verb: Verb, what: &str, method: Option<&str>) -> bool {
        self.verb == verb
            && matches(&self.what, what)
            && (self.methods.is_empty()
                || method.is_some_and(|method| self.methods.iter().any(|m| matches(m, method))))
    }
}

impl Who {
    /// The kernel's words are not enough to decide it.
    fn needs_identity(&self) -> bool {
        !self.services.is_empty() || self.executable.is_some()
    }

    fn holds(&self, facts: &Facts<'_>) -> Holds {
        let is = |listed: bool| if listed { Holds::Yes } else { Holds::No };
        let users = !self.users.is_empty() || !self.ranges.is_empty();
        let of_users = self.users.contains(&facts.uid)
            || self.ranges.iter().any(|(first, last)| (*first..=*last).contains(&facts.uid));
        if users && !of_users {
            return Holds::No;
        }
        let in_groups = || self.groups.iter().any(|g| *g == facts.gid || facts.groups.contains(g));
        if !self.groups.is_empty() && !in_groups() {
            return Holds::No;
        }
        if !self.needs_identity() {
            return is(users || !self.groups.is_empty() || self.anyone);
        }
        let Some(identity) = facts.identity else { return Holds::Unknown };
        let service = self.services.is_empty()
            || identity.service.as_ref().is_some_and(|service| self.services.contains(service));
        let executable = self.executable.as_ref().is_none_or(|wanted| {
            identity.executable.as_ref().is_some_and(|running| {
                !running.writable
                    && running.path == wanted.path
                    && wanted.sha256.as_ref().is_none_or(|sha256| *sha256 == running.sha256)
            })
        });
        is(service && executable)
    }
}

/// Whether a pattern holds a name: `*` stands for any number of characters, everything else for itself.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    // Where the last star stands, and how much of the name it has swallowed.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, n));
            p += 1;
        } else if pattern.get(p) == Some(&name[n]) {
            p += 1;
            n += 1;
        } else if let Some((at, swallowed)) = star {
            star = Some((at, swallowed + 1));
            p = at + 1;
            n = swallowed + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|rest| *rest == b'*')
}

/// What holds without any file: what the suite's own daemons must be able to ask of each other, and what is no secret.
#[must_use]
pub fn built_in() -> Vec<Rule> {
    let service = |name: &str| Who { services: vec![name.to_owned()], ..Who::default() };
    let anyone = || Who { anyone: true, ..Who::default() };
    let call = |who: Who, what: &str, methods: &[&str]| Rule {
        verdict: Verdict::Allow,
        verb: Verb::Call,
        what: what.to_owned(),
        methods: methods.iter().map(|method| (*method).to_owned()).collect(),
        who,
        source: "built in".to_owned(),
    };
    vec![
        // Everybody may find, serve and hear; what a name, a topic or an object allows is judged by itself.
        call(
            anyone(),
            "registry",
            &[
                "register",
                "offer",
                "withdraw",
                "applied",
                "usage",
                "lookup",
                "list",
                "watch",
                "wait",
                "publish",
                "subscribe",
                "unsubscribe",
            ],
        ),
        // Who is asked about is the caller's business, and the answer no secret: /proc says the same.
        call(anyone(), "service", &["identify"]),
        call(service("registry"), "service", &["activate", "release", "list"]),
        call(service("heartbeat"), "service", &["missed"]),
        call(service("config"), "service", &["event", "validate"]),
        call(service("upgrade"), "service", &["start", "stop", "state", "list"]),
        call(service("upgrade"), "heartbeat", &["list"]),
        call(service("upgrade"), "system", &["reboot"]),
        call(service("upgrade"), "autorun", &["invalidate"]),
        // How an upgrade stands is shown to all, and so is whom a host pins.
        call(anyone(), "upgrade", &["status", "slots", "history", "identity"]),
        // Where a driver is, and what serves there. Who may call it is each driver's matter; other code comes from root alone.
        call(anyone(), "driver", &["list", "open", "settled"]),
        call(service("log"), "service", &["pipes", "ring", "list"]),
        // Whoever prints may also say it this way.
        call(anyone(), "log", &["write"]),
    ]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(verdict: Verdict, what: &str, who: Who) -> Rule {
        let (methods, source) = (Vec::new(), "test".to_owned());
        Rule { verdict, verb: Verb::Call, what: what.to_owned(), methods, who, source }
    }

    fn users(users: &[u32]) -> Who {
        Who { users: users.to_vec(), ..Who::default() }
    }

    fn facts(uid: u32) -> Facts<'static> {
        Facts { uid, gid: uid, groups: &[], trusted: false, identity: None }
    }

    fn call<'a>(rules: &'a [Rule], facts: &Facts<'_>) -> Judgement<'a> {
        judge(rules, Verb::Call, "camera", Some("open"), facts)
    }

    #[test]
    fn a_list_of_users_admits_nobody_who_is_not_in_it_root_least_of_all() {
        let rules = [rule(Verdict::Allow, "camera", users(&[1000]))];
        assert_eq!(call(&rules, &facts(1000)), Judgement::Allowed);
        for uid in [0, 999, 1001] {
            assert_eq!(call(&rules, &facts(uid)), Judgement::Denied(None), "{uid}");
        }
    }

    #[test]
    fn a_rule_without_conditions_means_nobody() {
        let rules = [rule(Verdict::Allow, "camera", Who::default())];
        assert_eq!(call(&rules, &facts(0)), Judgement::Denied(None));
    }

    #[test]
    fn deny_wins_over_every_allow_and_over_trust() {
        let rules = [
            rule(Verdict::Allow, "*", Who { anyone: true, ..Who::default() }),
            rule(Verdict::Deny, "cam*", users(&[7])),
        ];
        let trusted = Facts { trusted: true, ..facts(7) };
        assert_eq!(call(&rules, &trusted), Judgement::Denied(Some(&rules[1])));
        assert_eq!(call(&rules, &facts(8)), Judgement::Allowed);
    }

    #[test]
    fn what_needs_the_supervisors_word_is_undecided_until_it_is_there() {
        let service = Who { services: vec!["web".to_owned()], ..Who::default() };
        let rules = [rule(Verdict::Allow, "camera", service)];
        assert_eq!(call(&rules, &facts(5)), Judgement::Undecided);
        for (name, expected) in [("web", Judgement::Allowed), ("ftp", Judgement::Denied(None))] {
            let identity = Identity { service: Some(name.to_owned()), ..Identity::default() };
            let known = Facts { identity: Some(&identity), ..facts(5) };
            assert_eq!(call(&rules, &known), expected);
        }
        let nothing = Identity::default();
        let known = Facts { identity: Some(&nothing), ..facts(5) };
        assert_eq!(call(&rules, &known), Judgement::Denied(None));
    }

    #[test]
    fn an_undecided_deny_is_never_taken_for_an_allow() {
        let service = Who { services: vec!["web".to_owned()], ..Who::default() };
        let rules =
            [rule(Verdict::Deny, "camera", service), rule(Verdict::Allow, "camera", users(&[5]))];
        assert_eq!(call(&rules, &facts(5)), Judgement::Undecided);
    }

    #[test]
    fn whoever_is_allowed_anyway_is_not_asked_who_he_is() {
        let service = Who { services: vec!["web".to_owned()], ..Who::default() };
        let rules =
            [rule(Verdict::Allow, "camera", users(&[5])), rule(Verdict::Allow, "camera", service)];
        assert_eq!(call(&rules, &facts(5)), Judgement::Allowed);
        let swapped = [rules[1].clone(), rules[0].clone()];
        assert_eq!(call(&swapped, &facts(5)), Judgement::Allowed);
    }

    #[test]
    fn a_program_its_own_user_can_write_proves_nothing() {
        let wanted = Executable { path: "/usr/bin/web".into(), sha256: Some("ab".into()) };
        let who = Who { executable: Some(wanted), ..users(&[5]) };
        let rules = [rule(Verdict::Allow, "camera", who)];
        let judged = |path: &str, sha256: &str, writable| {
            let (path, sha256) = (path.to_owned(), sha256.to_owned());
            let executable = Some(Running { path, sha256, writable });
            let identity = Identity { executable, ..Identity::default() };
            call(&rules, &Facts { identity: Some(&identity), ..facts(5) }) == Judgement::Allowed
        };
        assert!(judged("/usr/bin/web", "ab", false));
        assert!(!judged("/usr/bin/web", "ab", true));
        assert!(!judged("/usr/bin/web", "cd", false));
        assert!(!judged("/tmp/web", "ab", false));
    }

    #[test]
    fn patterns_hold_what_their_stars_allow() {
        for (pattern, name, expected) in [
            ("service.exit", "service.exit", true),
            ("service.*", "service.exit", true),
            ("*", "", true),
            ("*.exit", "service.exit", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("service.*", "service", false),
            ("", "x", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    proptest! {
        #[test]
        fn a_name_matches_itself_and_any_prefix_with_a_star(name in "[a-z.*]{0,20}", cut in 0_usize..20) {
            let cut = cut.min(name.len());
            let pattern = format!("{}*", &name[..cut]);
            prop_assert!(matches(&name, &name));
            prop_assert!(matches(&pattern, &name));
        }
    }
}
