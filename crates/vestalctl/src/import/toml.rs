//! procd's message as the definition file that means the same. What no file can say is told in a comment. Pure.

use std::{fmt::Write as _, path::Path};

use serde_json::{Map, Value};

/// procd's numbers where a `respawn` leaves them out: threshold, timeout, retry.
const RESPAWN: [(&str, u32); 3] = [("threshold", 3600), ("timeout", 5), ("retry", 5)];

/// The text of `services.d/NAME.toml`.
pub(super) fn definition(message: &Value, script: &Path) -> String {
    let name = message["name"].as_str().unwrap_or_default();
    let mut file = File { text: String::new(), notes: Vec::new() };
    let _ = writeln!(
        file.text,
        "# {}.toml, from {}",
        comment(name),
        comment(&script.display().to_string())
    );
    if message["autostart"] == false {
        file.text.push_str("autostart = false\n");
    }
    if let Some(data) = message["data"].as_object().filter(|data| !data.is_empty()) {
        file.key("data", &inline_table(data, Dollars::Kept));
    }
    let none = Map::new();
    let instances = message["instances"].as_object().unwrap_or(&none);
    // A file without instances has one of this name.
    let single = instances.get("instance1").filter(|_| instances.len() == 1);
    if let Some(Value::Object(keys)) = single {
        file.instance("instance1", keys);
    }
    for trigger in elements(&message["triggers"]) {
        file.trigger(trigger, script);
    }
    for rules in elements(&message["validate"]) {
        file.rules(rules);
    }
    for (name, keys) in instances.iter().filter(|_| single.is_none()) {
        let _ = writeln!(file.text, "\n[instances.{}]", key(name));
        match keys {
            Value::Object(keys) => file.instance(name, keys),
            other => file.note(&format!("instances.{name}"), other),
        }
    }
    for note in &file.notes {
        let _ = writeln!(file.text, "# no key says this: {}", comment(note));
    }
    file.text
}

struct File {
    text: String,
    notes: Vec<String>,
}

impl File {
    fn key(&mut self, name: &str, value: &str) {
        let _ = writeln!(self.text, "{name} = {value}");
    }

    fn note(&mut self, place: &str, value: &Value) {
        self.notes.push(format!("{place} = {value}"));
    }

    /// The keys of an instance, in the order of the message, and what procd's defaults say where it is silent.
    fn instance(&mut self, name: &str, keys: &Map<String, Value>) {
        for (key, value) in keys {
            if !self.written(key, value) {
                self.note(&format!("instances.{name}.{key}"), value);
            }
        }
        if !keys.contains_key("respawn") {
            self.key("respawn", "\"never\"");
        }
        for stream in ["stdout", "stderr"] {
            if keys.get(stream) != Some(&Value::Bool(true)) {
                self.key(stream, "false");
            }
        }
    }

    /// Whether a file can say it.
    fn written(&mut self, key: &str, value: &Value) -> bool {
        let number = value.as_i64();
        match (key, value) {
            ("command" | "netdev", Value::Array(words)) => {
                let dollars = if key == "command" { Dollars::Doubled } else { Dollars::Kept };
                self.key(key, &inline_list(words, dollars));
            }
            ("file", Value::Array(paths)) => {
                self.key("files", &inline_list(paths, Dollars::Doubled))
            }
            ("env", Value::Object(table)) => {
                self.key("env", &inline_table(table, Dollars::Doubled))
            }
            ("data", Value::Object(table)) => self.key("data", &inline_table(table, Dollars::Kept)),
            ("limits", Value::Object(table)) => {
                let renamed = table.iter().map(|(name, value)| {
                    // procd's `cpu` is seconds of it; ours is a share.
                    let name = if name == "cpu" { "cpu-time" } else { name };
                    (name.to_owned(), value.clone())
                });
                self.key("limits", &inline_table(&renamed.collect(), Dollars::Kept));
            }
            ("respawn", Value::Array(numbers)) => self.key("respawn", &respawn(numbers)),
            ("user" | "group", Value::String(name)) => self.key(key, &text(name)),
            ("pidfile", Value::String(path)) => self.key(key, &text(&Dollars::Doubled.of(path))),
            ("nice", Value::Number(_)) => self.key(key, &value.to_string()),
            ("no_new_privs", Value::Bool(flag)) => self.key("no-new-privileges", &flag.to_string()),
            ("stdout" | "stderr", Value::Bool(true)) => self.key(key, "true"),
            ("stdout" | "stderr", Value::Bool(false)) => {}
            ("term_timeout", Value::Number(_)) if number.is_some_and(|seconds| seconds > 0) => {
                self.key("stop-timeout", &format!("\"{value}s\""));
            }
            ("reload_signal", Value::Number(_)) if number.is_some_and(|signal| signal > 0) => {
                self.key("reload", &format!("{{ signal = {value} }}"));
            }
            ("watchdog", Value::Array(words)) => return self.watchdog(words),
            _ => return false,
        }
        true
    }

    /// `[mode, seconds]`; mode 0 is off.
    fn watchdog(&mut self, words: &[Value]) -> bool {
        let number = |at: usize| words.get(at).and_then(as_number);
        if number(0).unwrap_or(0) > 0 {
            let seconds = number(1).filter(|seconds| *seconds > 0).unwrap_or(30);
            self.key("watchdog", &format!("\"{seconds}s\""));
        }
        true
    }

    /// `[EVENT, SCRIPT, MILLISECONDS]`, where the script is one that procd.sh writes.
    fn trigger(&mut self, trigger: &Value, script: &Path) {
        let (Some(event), Some(work)) = (trigger[0].as_str(), work(&trigger[1])) else {
            return self.note("triggers", trigger);
        };
        let _ = writeln!(self.text, "\n[[triggers]]\nevent = {}", text(event));
        if let Some((variable, wanted)) = work.compared {
            self.key(variable, &text(wanted));
        }
        let own = work.command.first().and_then(Value::as_str).map(Path::new);
        let own = own.is_some_and(|program| program.file_name() == script.file_name());
        match work.command.get(1).and_then(Value::as_str) {
            Some(action @ ("reload" | "restart")) if own && work.command.len() == 2 => {
                self.key("action", &text(action));
            }
            _ => self.key("run", &inline_list(work.command, Dollars::Kept)),
        }
        if let Some(delay) = trigger[2].as_u64().filter(|delay| *delay > 0) {
            self.key("delay", &format!("\"{delay}ms\""));
        }
    }

    fn rules(&mut self, rules: &Value) {
        let (Some(package), Some(kind), Some(options)) =
            (rules["package"].as_str(), rules["type"].as_str(), rules["data"].as_object())
        else {
            return self.note("validate", rules);
        };
        let options = inline_table(options, Dollars::Kept);
        let _ = writeln!(
            self.text,
            "\n[[validate]]\npackage = {}\ntype = {}\noptions = {options}",
            text(package),
            text(kind)
        );
    }
}

/// What a trigger does.
struct Work<'a> {
    /// A variable of the event that must have this value.
    compared: Option<(&'a str, &'a str)>,
    command: &'a [Value],
}

/// `["if", ["eq", "package", NAME], ["run_script", ...]]`, or the command alone.
fn work(script: &Value) -> Option<Work<'_>> {
    let words = script.as_array()?;
    match &**words {
        [single @ Value::Array(_)] => work(single),
        [name, command @ ..] if name == "run_script" && !command.is_empty() => {
            Some(Work { compared: None, command })
        }
        [name, condition, then] if name == "if" => {
            let variable = condition[1].as_str().filter(|_| condition[0] == "eq")?;
            let known = ["package", "interface"].contains(&variable);
            let wanted = condition[2].as_str().filter(|_| known)?;
            let inner = work(then).filter(|inner| inner.compared.is_none())?;
            Some(Work { compared: Some((variable, wanted)), ..inner })
        }
        _ => None,
    }
}

fn elements(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Numbers of a message are often texts; -1 is 32 bits of ones there.
fn as_number(value: &Value) -> Option<u32> {
    let number = value.as_i64().or_else(|| value.as_str()?.trim().parse().ok())?;
    u32::try_from(number & i64::from(u32::MAX)).ok()
}

fn respawn(numbers: &[Value]) -> String {
    let number = |(at, (name, usual)): (usize, &(&str, u32))| {
        let given = numbers.get(at).map(|given| as_number(given).unwrap_or(0));
        format!("{name} = {}", given.unwrap_or(*usual))
    };
    let parts: Vec<_> = RESPAWN.iter().enumerate().map(number).collect();
    format!("{{ {} }}", parts.join(", "))
}

/// Where a file fills in `${NAME}`, a dollar is written twice.
#[derive(Clone, Copy)]
enum Dollars {
    Kept,
    Doubled,
}

impl Dollars {
    fn of(self, text: &str) -> String {
        match self {
            Self::Kept => text.to_owned(),
            Self::Doubled => text.replace('$', "$$"),
        }
    }
}

fn inline(value: &Value, dollars: Dollars) -> String {
    match value {
        // A file knows no nothing.
        Value::Null => "\"\"".to_owned(),
        Value::String(words) => text(&dollars.of(words)),
        Value::Array(elements) => inline_list(elements, dollars),
        Value::Object(members) => inline_table(members, dollars),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

fn inline_list(elements: &[Value], dollars: Dollars) -> String {
    let elements: Vec<_> = elements.iter().map(|element| inline(element, dollars)).collect();
    format!("[{}]", elements.join(", "))
}

fn inline_table(members: &Map<String, Value>, dollars: Dollars) -> String {
    let member =
        |(name, value): (&String, &Value)| format!("{} = {}", key(name), inline(value, dollars));
    let members: Vec<_> = members.iter().map(member).collect();
    if members.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", members.join(", ")) }
}

fn key(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if !name.is_empty() && name.bytes().all(plain) { name.to_owned() } else { text(name) }
}

/// A text in quotes: JSON's escapes are TOML's, which wants one more.
fn text(words: &str) -> String {
    Value::from(words).to_string().replace('\u{7f}', "\\u007F")
}

/// What a comment may hold: one line without control characters.
fn comment(words: &str) -> String {
    words.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn written(message: &Value) -> String {
        definition(message, Path::new("/etc/init.d/hello"))
    }

    #[test]
    fn a_usual_message_becomes_a_usual_file() {
        let message = json!({
            "name": "hello", "script": "/etc/init.d/hello",
            "instances": { "instance1": {
                "command": ["/bin/hello", "-f", "a$b"], "respawn": [], "stderr": true,
                "limits": { "cpu": "unlimited", "core": "0 1" }, "term_timeout": 20,
                "jail": { "name": "hello" },
            } },
            "triggers": [
                ["config.change", ["if", ["eq", "package", "hello"], ["run_script", "/etc/init.d/hello", "reload"]], 1000],
                ["interface.*", [["run_script", "/bin/x", "y"]], 0],
                ["odd", ["case", "x", {}]],
            ],
            "validate": [{ "package": "hello", "type": "globe", "data": { "delay": "range(1,200)" } }],
        });
        let expected = "\
# hello.toml, from /etc/init.d/hello
command = [\"/bin/hello\", \"-f\", \"a$$b\"]
respawn = { threshold = 3600, timeout = 5, retry = 5 }
stderr = true
limits = { cpu-time = \"unlimited\", core = \"0 1\" }
stop-timeout = \"20s\"
stdout = false

[[triggers]]
event = \"config.change\"
package = \"hello\"
action = \"reload\"
delay = \"1000ms\"

[[triggers]]
event = \"interface.*\"
run = [\"/bin/x\", \"y\"]

[[validate]]
package = \"hello\"
type = \"globe\"
options = { delay = \"range(1,200)\" }
# no key says this: instances.instance1.jail = {\"name\":\"hello\"}
# no key says this: triggers = [\"odd\",[\"case\",\"x\",{}]]
";
        assert_eq!(written(&message), expected);
    }

    #[test]
    fn several_instances_have_tables_of_their_own() {
        let message = json!({ "name": "a\nb", "instances": {
            "x y": { "command": ["a"], "respawn": ["10", "-1", 0], "stdout": true, "stderr": true },
            "z": { "command": ["\u{7f}\""], "watchdog": ["1", "0"] },
        } });
        let expected = "\
# a b.toml, from /etc/init.d/hello

[instances.\"x y\"]
command = [\"a\"]
respawn = { threshold = 10, timeout = 4294967295, retry = 0 }
stdout = true
stderr = true

[instances.z]
command = [\"\\u007F\\\"\"]
watchdog = \"30s\"
respawn = \"never\"
stdout = false
stderr = false
";
        assert_eq!(written(&message), expected);
    }
}
