//! Files as people write them, right and wrong.

use std::{fs, os::unix::fs::PermissionsExt as _};

use protocol::policy::{Executable, Facts, Judgement, Verb, Who, judge};
use tempfile::TempDir;

use super::*;

struct Folder {
    folder: TempDir,
    policies: Policies,
}

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("policy.d")).unwrap();
        fs::write(folder.path().join("passwd"), "cam:x:1001:44::/:\n").unwrap();
        fs::write(folder.path().join("group"), "video:x:44:\n").unwrap();
        let mut policies = Policies::new(Some(folder.path()));
        policies.passwd = folder.path().join("passwd");
        policies.group = folder.path().join("group");
        Self { folder, policies }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join("policy.d").join(name), text).unwrap();
    }

    /// Rules of files only, and the problems.
    fn read(&mut self) -> Rules {
        let (mut rules, problems) = self.policies.read();
        rules.retain(|rule| rule.source != "built in");
        (rules, problems)
    }

    fn problem(text: &str) -> String {
        let mut folder = Self::new();
        folder.write("a.toml", text);
        let (rules, problems) = folder.read();
        assert!(rules.is_empty(), "{rules:?}");
        assert!(problems.len() >= 2, "{problems:?}");
        problems[0].clone()
    }
}

fn allows(rules: &[Rule], uid: u32, object: &str) -> bool {
    let facts = Facts { uid, gid: uid, groups: &[], trusted: false, identity: None };
    judge(rules, Verb::Call, object, Some("open"), &facts) == Judgement::Allowed
}

#[test]
fn every_kind_of_rule_is_read_in_the_order_of_the_file() {
    let mut folder = Folder::new();
    folder.write(
        "camera.toml",
        r#"
[[allow]]
object = "camera*"
methods = ["open", "re*"]
users = ["cam", 7]
uid-range = "1000-1999"
group = "video"

[[deny]]
verb = "own"
object = "camera"
service = "web"

[[allow]]
verb = "publish"
topic = "camera.*"
user = 5
executable = { path = "/nowhere/camera", sha256 = "AA00000000000000000000000000000000000000000000000000000000000000" }

[[allow]]
object = "clock"
anyone = true
"#,
    );
    let (rules, problems) = folder.read();
    assert_eq!(problems, Vec::<String>::new());
    let sources: Vec<&str> = rules.iter().map(|rule| rule.source.as_str()).collect();
    assert_eq!(sources, ["camera.toml:2", "camera.toml:9", "camera.toml:14", "camera.toml:20"]);
    let first = Who {
        users: vec![1001, 7],
        ranges: vec![(1000, 1999)],
        groups: vec![44],
        ..Who::default()
    };
    assert_eq!(rules[0].who, first);
    assert_eq!(rules[0].methods, ["open", "re*"]);
    assert_eq!((rules[1].verdict, rules[1].verb), (Verdict::Deny, Verb::Own));
    let sha256 = Some(format!("aa{}", "0".repeat(62)));
    let executable = Executable { path: "/nowhere/camera".into(), sha256 };
    assert_eq!(rules[2].who.executable, Some(executable));
    assert!(rules[3].who.anyone && rules[3].who.users.is_empty());
}

#[test]
fn each_mistake_is_told_with_file_line_key_and_cure() {
    for (text, expected) in [
        ("[[allow]]\nobject = \"c\"\n", "a.toml:1: the rule means nobody; add user"),
        ("[[allow]]\nanyone = true\n", "a.toml:1: object is missing"),
        (
            "[[allow]]\nobject = \"c\"\nusr = 5\n",
            "a.toml:3: unknown key \"usr\", did you mean \"user\"?",
        ),
        (
            "[[alow]]\nobject = \"c\"\n",
            "a.toml:1: unknown key \"alow\"; a rule is [[allow]] or [[deny]]",
        ),
        ("[allow]\nobject = \"c\"\n", "a.toml:1: write [[allow]] with two brackets"),
        (
            "[[allow]]\nobject = \"c\"\nuser = \"nobody-here\"\n",
            "a.toml:3: user: user \"nobody-here\" is not in /etc/passwd",
        ),
        (
            "[[allow]]\nobject = \"c\"\ngroup = \"x\"\n",
            "a.toml:3: group: group \"x\" is not in /etc/group",
        ),
        (
            "[[allow]]\nobject = \"c\"\nuid-range = \"9-1\"\n",
            "a.toml:3: uid-range: \"9-1\" is no range; write it as",
        ),
        ("[[allow]]\nobject = \"c\"\nusers = []\n", "a.toml:3: users: 0 items"),
        ("[[allow]]\nobject = 5\nuser = 5\n", "a.toml:2: object: a integer is not allowed here"),
        (
            "[[allow]]\nverb = \"see\"\nobject = \"c\"\nuser = 5\n",
            "a.toml:2: verb: \"see\" is not known; allowed are",
        ),
        (
            "[[allow]]\nverb = \"own\"\nobject = \"c\"\nuser = 5\nmethods = [\"m\"]\n",
            "a.toml:5: methods: only verb",
        ),
        ("[[allow]]\nverb = \"publish\"\nobject = \"c\"\nuser = 5\n", "a.toml:1: topic is missing"),
        (
            "[[allow]]\nobject = \"c\"\nanyone = true\nuser = 5\n",
            "a.toml:1: anyone = true beside another condition",
        ),
        (
            "[[allow]]\nobject = \"c\"\nexecutable = { path = \"/x\" }\n",
            "a.toml:1: executable: a program proves nothing by itself",
        ),
        (
            "[[allow]]\nobject = \"c\"\nuser = 5\nexecutable = { path = \"x\" }\n",
            "a.toml:4: executable.path: \"x\" is not an absolute path",
        ),
        (
            "[[allow]]\nobject = \"c\"\nuser = 5\nexecutable = { path = \"/x\", sha256 = \"ab\" }\n",
            "a.toml:4: executable.sha256: write the 64 digits",
        ),
        ("[[allow]\n", "a.toml:1: "),
    ] {
        let problem = Folder::problem(text);
        assert!(problem.starts_with(expected), "{text}\n{problem}");
    }
}

#[test]
fn a_program_that_its_user_can_replace_is_refused() {
    let own = rustix::process::geteuid().as_raw();
    let scratch = tempfile::tempdir().unwrap();
    let path = fs::canonicalize(scratch.path()).unwrap().join("program");
    fs::write(&path, "").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    let rule = format!(
        "[[allow]]\nobject = \"c\"\nuser = {own}\nexecutable = {{ path = \"{}\" }}\n",
        path.display()
    );
    let problem = Folder::problem(&rule);
    assert!(problem.contains("who can replace it") || problem.contains("can write"), "{problem}");
}

#[test]
fn a_program_that_belongs_to_its_user_is_refused_though_its_mode_says_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let path = fs::canonicalize(scratch.path()).unwrap().join("program");
    fs::write(&path, "").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o555)).unwrap();
    let own = rustix::process::geteuid();
    let owner = if own.is_root() { 4242 } else { own.as_raw() };
    if own.is_root() {
        std::os::unix::fs::chown(&path, Some(owner), None).unwrap();
    }
    let why = files::replaceable_by(&path, |uid| uid == owner).unwrap();
    assert!(why.contains(&format!("belongs to user {owner}")), "{why}");
    assert_eq!(files::replaceable_by(&path, |uid| uid == 77), None);
}

#[test]
fn a_file_with_an_error_keeps_its_old_rules_and_the_error_is_shown() {
    let mut folder = Folder::new();
    folder.write("a.toml", "[[allow]]\nobject = \"camera\"\nuser = 7\n");
    folder.write("b.toml", "[[allow]]\nobject = \"clock\"\nuser = 7\n");
    let (rules, _) = folder.read();
    assert!(allows(&rules, 7, "camera") && allows(&rules, 7, "clock"));
    folder.write("a.toml", "[[allow]]\nobject = \"camera\"\nuser = 8\nuzer = 9\n");
    let (rules, problems) = folder.read();
    assert!(allows(&rules, 7, "camera") && !allows(&rules, 8, "camera"));
    assert!(allows(&rules, 7, "clock"));
    assert_eq!(problems.len(), 1, "{problems:?}");
    folder.write("a.toml", "[[allow]]\nobject = \"camera\"\nuser = 8\n");
    let (rules, problems) = folder.read();
    assert!(!allows(&rules, 7, "camera") && allows(&rules, 8, "camera"));
    assert!(problems.is_empty());
    fs::remove_file(folder.folder.path().join("policy.d/a.toml")).unwrap();
    assert!(!allows(&folder.read().0, 8, "camera"));
}

#[test]
fn while_a_file_was_never_readable_no_file_allows_anything() {
    let mut folder = Folder::new();
    folder.write(
        "allow.toml",
        "[[allow]]\nobject = \"*\"\nuser = 7\n[[deny]]\nobject = \"a\"\nuser = 8\n",
    );
    // Would have denied what the other one allows.
    folder.write("deny.toml", "[[deny]]\nobject = \"camera\"\nuzer = 7\n");
    let (rules, problems) = folder.read();
    assert!(!allows(&rules, 7, "camera"));
    assert_eq!(rules.len(), 1, "what is forbidden stays: {rules:?}");
    assert!(
        problems[1].contains("deny.toml could not be read since the registry started"),
        "{problems:?}"
    );
    folder.write("deny.toml", "[[deny]]\nobject = \"camera\"\nuser = 7\n");
    let (rules, problems) = folder.read();
    assert!(problems.is_empty() && !allows(&rules, 7, "camera") && allows(&rules, 7, "clock"));
}

#[test]
fn what_is_no_bounded_private_file_is_refused() {
    let mut folder = Folder::new();
    let place = folder.folder.path().join("policy.d");
    folder.write("big.toml", &"#".repeat(70_000));
    folder.write("open.toml", "");
    fs::set_permissions(place.join("open.toml"), fs::Permissions::from_mode(0o666)).unwrap();
    fs::create_dir(place.join("folder.toml")).unwrap();
    fs::write(place.join("latin.toml"), b"# \xff").unwrap();
    fs::write(place.join("notes.txt"), "no rules").unwrap();
    let (_, problems) = folder.read();
    let told =
        |name: &str, why: &str| problems.iter().any(|p| p.starts_with(name) && p.contains(why));
    assert!(told("big.toml", "longer than 65536 bytes"), "{problems:?}");
    assert!(told("open.toml", "everybody can write it"), "{problems:?}");
    assert!(told("folder.toml", "not a plain file"), "{problems:?}");
    assert!(told("latin.toml", ""), "{problems:?}");
    assert!(!told("notes.txt", ""), "{problems:?}");
}

#[test]
fn more_files_or_rules_than_allowed_are_refused_by_name() {
    let mut folder = Folder::new();
    for at in 0..=FILES_MAX {
        folder.write(&format!("{at:03}.toml"), "");
    }
    let (_, problems) = folder.read();
    assert!(problems[0].starts_with("064.toml: more than 64 files"), "{problems:?}");

    let mut folder = Folder::new();
    let many = "[[allow]]\nobject=\"c\"\nuser=1\n".repeat(2_000);
    for name in ["a.toml", "b.toml", "c.toml"] {
        folder.write(name, &many);
    }
    let (_, problems) = folder.read();
    assert!(
        problems[0].starts_with("c.toml: ") && problems[0].contains("at most 4096"),
        "{problems:?}"
    );
}

#[test]
fn the_shipped_examples_are_read_without_a_problem() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let (rules, problems) = Policies::new(Some(&shipped)).read();
    assert_eq!(problems, Vec::<String>::new());
    assert!(rules.len() > built_in().len());
}

#[test]
fn no_folder_is_no_rule_and_no_problem() {
    assert_eq!(Policies::new(None).read(), (built_in(), Vec::new()));
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(Policies::new(Some(empty.path())).read(), (built_in(), Vec::new()));
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(64))]
    #[test]
    fn no_file_makes_the_reader_panic(text in "(\\[\\[(allow|deny)\\]\\]\n|(verb|object|user|users|executable|anyone|methods|uid-range) *= *(\"[a-z*0-9-]{0,5}\"|[0-9]{1,12}|true|\\[\\]|\\[1, \"a\"\\]|\\{ path = \"/a\" \\})\n|\\PC{0,10}){0,8}") {
        let _ = file::read("x.toml", &text, &Users::default());
    }
}
