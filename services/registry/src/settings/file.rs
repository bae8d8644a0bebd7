//! One policy file: text in, rules out, or everything that is wrong with it by line. Strict: an unknown key is an error,
//! because a rule that is read as less than it says may open what it was to close.

use std::{borrow::Cow, ops::Range, path::Path};

use daemon::accounts::number;
use protocol::{
    message::METHOD_MAX,
    objects::nearest,
    policy::{Executable, PATTERN_MAX, Rule, Verb, Verdict, Who},
};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{files, users::Users};

/// Most problems of one file that are told.
const PROBLEMS_MAX: usize = 20;
/// Keys that say whom a rule means.
const CONDITIONS: [&str; 8] =
    ["user", "users", "uid-range", "group", "groups", "service", "services", "executable"];
/// Most items of one list.
const ITEMS_MAX: usize = 256;
const KEYS: [&str; 13] = [
    "verb",
    "object",
    "topic",
    "methods",
    "user",
    "users",
    "uid-range",
    "group",
    "groups",
    "service",
    "services",
    "executable",
    "anyone",
];

type Value<'d> = Spanned<DeValue<'d>>;
type Table<'d> = DeTable<'d>;

/// Reads a file; `name` is what its rules and problems are told by.
///
/// # Errors
/// Every problem, as `camera.toml:7: user: ...`.
pub(crate) fn read(name: &str, text: &str, users: &Users) -> Result<Vec<Rule>, Vec<String>> {
    let mut reader = Reader { name, text, users, problems: Vec::new() };
    let rules = reader.file();
    if reader.problems.is_empty() {
        return Ok(rules);
    }
    reader.problems.sort_by_key(|(line, _)| *line);
    let problems = reader.problems.into_iter().take(PROBLEMS_MAX);
    Err(problems.map(|(line, text)| format!("{name}:{line}: {text}")).collect())
}

struct Reader<'d> {
    name: &'d str,
    text: &'d str,
    users: &'d Users,
    problems: Vec<(usize, String)>,
}

impl Reader<'_> {
    fn file(&mut self) -> Vec<Rule> {
        let top = match DeTable::parse(self.text) {
            Ok(top) => top,
            Err(error) => {
                self.wrong(&error.span().unwrap_or(0..0), error.message().to_owned());
                return Vec::new();
            }
        };
        let mut rules = Vec::new();
        for (key, value) in top.get_ref() {
            let verdict = match key.get_ref().as_ref() {
                "allow" => Verdict::Allow,
                "deny" => Verdict::Deny,
                other => {
                    let text = format!("unknown key {other:?}; a rule is [[allow]] or [[deny]]");
                    self.wrong(&key.span(), text);
                    continue;
                }
            };
            let word = key.get_ref();
            let Some(tables) = value.get_ref().as_array() else {
                self.wrong(&key.span(), format!("write [[{word}]] with two brackets for a rule"));
                continue;
            };
            for table in tables.iter() {
                match table.get_ref().as_table() {
                    Some(one) => rules.extend(self.rule(verdict, one, &table.span())),
                    None => self.wrong(&table.span(), format!("{word} is not a table")),
                }
            }
        }
        // The order of the file, for whoever reads the list of rules.
        rules.sort_by_key(|(line, _)| *line);
        rules.into_iter().map(|(_, rule)| rule).collect()
    }

    fn rule(
        &mut self,
        verdict: Verdict,
        table: &Table<'_>,
        span: &Range<usize>,
    ) -> Option<(usize, Rule)> {
        let before = self.problems.len();
        for key in table.keys() {
            let word = key.get_ref().as_ref();
            if !KEYS.contains(&word) {
                let hint = match nearest(word, KEYS) {
                    Some(near) => format!("did you mean {near:?}?"),
                    None => format!("known are {}", KEYS.join(", ")),
                };
                self.wrong(&key.span(), format!("unknown key {word:?}, {hint}"));
            }
        }
        let verb = self.verb(table)?;
        let what = self.what(verb, table, span)?;
        let methods = self.methods(verb, table);
        let who = self.who(table);
        if self.problems.len() == before {
            self.check_who(&who, table, span);
        }
        if self.problems.len() > before {
            return None;
        }
        let line = self.line(span);
        let source = format!("{}:{line}", self.name);
        Some((line, Rule { verdict, verb, what, methods, who, source }))
    }

    fn verb(&mut self, table: &Table<'_>) -> Option<Verb> {
        let Some(value) = table.get("verb") else { return Some(Verb::Call) };
        match &*self.string("verb", value)? {
            "call" => Some(Verb::Call),
            "own" => Some(Verb::Own),
            "publish" => Some(Verb::Publish),
            other => {
                let text = format!("verb: {other:?} is not known; allowed are call, own, publish");
                self.wrong(&value.span(), text);
                None
            }
        }
    }

    /// The pattern of objects or topics.
    fn what(&mut self, verb: Verb, table: &Table<'_>, span: &Range<usize>) -> Option<String> {
        let (key, other) = match verb {
            Verb::Publish => ("topic", "object"),
            Verb::Call | Verb::Own => ("object", "topic"),
        };
        if let Some(wrong) = table.get(other) {
            let text = format!("{other}: a rule of this verb has {key:?} instead");
            self.wrong(&wrong.span(), text);
        }
        let Some(value) = table.get(key) else {
            self.wrong(
                span,
                format!("{key} is missing; write {key} = \"NAME\", or a pattern with *"),
            );
            return None;
        };
        self.pattern(key, value, PATTERN_MAX)
    }

    fn pattern(&mut self, key: &str, value: &Value<'_>, max: usize) -> Option<String> {
        let text = self.string(key, value)?;
        if text.is_empty() || text.len() > max || text.chars().any(|c| !c.is_ascii_graphic()) {
            let problem = format!(
                "{key}: {text:.80?} is not a pattern of 1 to {max} printable ASCII letters"
            );
            self.wrong(&value.span(), problem);
            return None;
        }
        Some(text.into_owned())
    }

    fn methods(&mut self, verb: Verb, table: &Table<'_>) -> Vec<String> {
        let Some(value) = table.get("methods") else { return Vec::new() };
        if verb != Verb::Call {
            self.wrong(&value.span(), "methods: only verb = \"call\" has methods".to_owned());
            return Vec::new();
        }
        let items = self.list("methods", value);
        items.into_iter().filter_map(|item| self.pattern("methods", item, METHOD_MAX)).collect()
    }

    fn who(&mut self, table: &Table<'_>) -> Who {
        let mut who = Who::default();
        for key in ["user", "users"] {
            for item in self.items(table, key) {
                let users = self.users;
                who.users.extend(self.account(key, item, |name| users.user(name)));
            }
        }
        for item in self.items(table, "uid-range") {
            who.ranges.extend(self.range(item));
        }
        for key in ["group", "groups"] {
            for item in self.items(table, key) {
                let users = self.users;
                who.groups.extend(self.account(key, item, |name| users.group(name)));
            }
        }
        for key in ["service", "services"] {
            for item in self.items(table, key) {
                who.services.extend(self.pattern(key, item, PATTERN_MAX));
            }
        }
        if let Some(value) = table.get("executable") {
            who.executable = self.executable(value);
        }
        if let Some(value) = table.get("anyone") {
            match value.get_ref().as_bool() {
                Some(anyone) => who.anyone = anyone,
                None => self.wrong(&value.span(), "anyone: write true or false".to_owned()),
            }
        }
        who
    }

    fn check_who(&mut self, who: &Who, table: &Table<'_>, span: &Range<usize>) {
        let named = CONDITIONS.iter().any(|key| table.contains_key(*key));
        if who.anyone && named {
            let text = "anyone = true beside another condition; keep one of them";
            self.wrong(span, text.to_owned());
        }
        if !who.anyone && !named {
            let text = "the rule means nobody; add user, uid-range, group, service, executable with user, or anyone = true";
            self.wrong(span, text.to_owned());
        }
        let Some(executable) = &who.executable else { return };
        if who.users.is_empty() && who.ranges.is_empty() {
            let text = "executable: a program proves nothing by itself; name the user, or the uid-range, that runs it";
            return self.wrong(span, text.to_owned());
        }
        let is_named = |uid: u32| {
            who.users.contains(&uid)
                || who.ranges.iter().any(|(first, last)| (*first..=*last).contains(&uid))
        };
        if let Some(why) = files::replaceable_by(Path::new(&executable.path), is_named) {
            self.wrong(span, format!("executable: {why}"));
        }
    }

    fn account(
        &mut self,
        key: &str,
        value: &Value<'_>,
        find: impl Fn(&str) -> Result<u32, String>,
    ) -> Option<u32> {
        let found = match value.get_ref() {
            DeValue::String(name) => find(name),
            DeValue::Integer(number) if number.radix() == 10 => find(number.as_str()),
            _ => Err("write a name in quotes, or a number".to_owned()),
        };
        match found {
            Ok(number) => Some(number),
            Err(why) => {
                self.wrong(&value.span(), format!("{key}: {why}"));
                None
            }
        }
    }

    fn range(&mut self, value: &Value<'_>) -> Option<(u32, u32)> {
        let text = self.string("uid-range", value)?;
        let range = text.split_once('-').and_then(|(first, last)| {
            let range = (number(first)?, number(last)?);
            (range.0 <= range.1).then_some(range)
        });
        if range.is_none() {
            let problem = format!("uid-range: {text:.40?} is no range; write it as \"1000-1999\"");
            self.wrong(&value.span(), problem);
        }
        range
    }

    fn executable(&mut self, value: &Value<'_>) -> Option<Executable> {
        const FORM: &str = "executable: write { path = \"/usr/bin/NAME\", sha256 = \"...\" }";

        let Some(table) = value.get_ref().as_table() else {
            self.wrong(&value.span(), FORM.to_owned());
            return None;
        };
        for key in table.keys().filter(|key| !matches!(key.get_ref().as_ref(), "path" | "sha256")) {
            let text =
                format!("unknown key \"executable.{}\", known are path, sha256", key.get_ref());
            self.wrong(&key.span(), text);
        }
        let Some(path) = table.get("path") else {
            self.wrong(&value.span(), FORM.to_owned());
            return None;
        };
        let text = self.string("executable.path", path)?;
        let normal = text.starts_with('/')
            && !text.split('/').skip(1).any(|part| matches!(part, "" | "." | ".."));
        if !normal {
            let problem = format!("executable.path: {text:.120?} is not an absolute path");
            self.wrong(&path.span(), problem);
            return None;
        }
        let sha256 = match table.get("sha256") {
            Some(value) => Some(self.digest(value)?),
            None => None,
        };
        Some(Executable { path: text.into_owned(), sha256 })
    }

    fn digest(&mut self, value: &Value<'_>) -> Option<String> {
        let text = self.string("executable.sha256", value)?;
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let problem = "executable.sha256: write the 64 digits that sha256sum prints";
            self.wrong(&value.span(), problem.to_owned());
            return None;
        }
        Some(text.to_ascii_lowercase())
    }

    /// One value, or a list of them; none where the key is missing. An empty list would mean nobody, or anybody: an error.
    fn items<'t, 'd>(&mut self, table: &'t Table<'d>, key: &str) -> Vec<&'t Value<'d>> {
        let Some(value) = table.get(key) else { return Vec::new() };
        if value.get_ref().is_array() { self.list(key, value) } else { vec![value] }
    }

    fn list<'t, 'd>(&mut self, key: &str, value: &'t Value<'d>) -> Vec<&'t Value<'d>> {
        let Some(items) = value.get_ref().as_array() else {
            self.wrong(&value.span(), format!("{key}: write a list in [ ]"));
            return Vec::new();
        };
        let items: Vec<&Value<'_>> = items.iter().collect();
        if items.is_empty() || items.len() > ITEMS_MAX {
            let text = format!("{key}: {} items, allowed are 1 to {ITEMS_MAX}", items.len());
            self.wrong(&value.span(), text);
            return Vec::new();
        }
        items
    }

    fn string<'v>(&mut self, key: &str, value: &'v Value<'_>) -> Option<Cow<'v, str>> {
        let text = value.get_ref().as_str();
        if text.is_none() {
            let found = value.get_ref().type_str();
            self.wrong(
                &value.span(),
                format!("{key}: a {found} is not allowed here; write a text in quotes"),
            );
        }
        text.map(Cow::Borrowed)
    }

    fn wrong(&mut self, span: &Range<usize>, text: String) {
        let problem = (self.line(span), text);
        if self.problems.len() < 8 * PROBLEMS_MAX && !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    /// Counted from 1.
    fn line(&self, span: &Range<usize>) -> usize {
        let before = self.text.as_bytes().iter().take(span.start);
        before.filter(|byte| **byte == b'\n').count() + 1
    }
}
