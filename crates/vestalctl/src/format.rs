//! JSON as ubus prints it: a tab a level, or without any blank. Scripts compare this text.

use serde_json::Value;

/// ubus indents no deeper.
const DEEPEST: usize = 15;

/// A message; `simple` is one line without blanks.
pub(crate) fn message(value: &Value, simple: bool) -> String {
    let mut text = String::new();
    write(&mut text, value, (!simple).then_some(0));
    text
}

/// A text in quotes; as ubus escapes it, which has no `\f`.
pub(crate) fn string(value: &str) -> String {
    let mut text = String::with_capacity(value.len() + 2);
    text.push('"');
    for letter in value.chars() {
        match letter {
            '"' | '\\' => text.extend(['\\', letter]),
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            '\r' => text.push_str("\\r"),
            '\u{8}' => text.push_str("\\b"),
            '\0'..' ' => text.push_str(&format!("\\u{:04x}", u32::from(letter))),
            _ => text.push(letter),
        }
    }
    text.push('"');
    text
}

/// `depth` is `None` on one line.
fn write(text: &mut String, value: &Value, depth: Option<usize>) {
    let inner = depth.map(|depth| depth + 1);
    match value {
        Value::Object(members) => {
            text.push('{');
            line(text, inner);
            for (number, (key, member)) in members.iter().enumerate() {
                comma(text, number, inner);
                text.push_str(&string(key));
                text.push_str(if depth.is_some() { ": " } else { ":" });
                write(text, member, inner);
            }
            line(text, depth);
            text.push('}');
        }
        Value::Array(elements) => {
            text.push('[');
            line(text, inner);
            for (number, element) in elements.iter().enumerate() {
                comma(text, number, inner);
                write(text, element, inner);
            }
            line(text, depth);
            text.push(']');
        }
        Value::String(words) => text.push_str(&string(words)),
        Value::Number(number) if number.is_f64() => {
            text.push_str(&format!("{:.6}", number.as_f64().unwrap_or_default()));
        }
        other => text.push_str(&other.to_string()),
    }
}

fn comma(text: &mut String, number: usize, depth: Option<usize>) {
    if number > 0 {
        text.push(',');
        line(text, depth);
    }
}

fn line(text: &mut String, depth: Option<usize>) {
    if let Some(depth) = depth {
        text.push('\n');
        text.extend(std::iter::repeat_n('\t', depth.min(DEEPEST)));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn people_get_a_tab_a_level_and_scripts_no_blank() {
        let value = json!({"a": 1, "b": ["x", {}], "c": {"d": true, "e": null}});
        assert_eq!(
            message(&value, false),
            "{\n\t\"a\": 1,\n\t\"b\": [\n\t\t\"x\",\n\t\t{\n\t\t\t\n\t\t}\n\t],\n\t\"c\": {\n\t\t\"d\": true,\n\t\t\"e\": null\n\t}\n}"
        );
        assert_eq!(message(&value, true), r#"{"a":1,"b":["x",{}],"c":{"d":true,"e":null}}"#);
    }

    #[test]
    fn an_empty_message_has_an_indented_empty_line() {
        assert_eq!(message(&json!({}), false), "{\n\t\n}");
    }

    #[test]
    fn texts_are_escaped_and_stay_json() {
        let odd = "a\"\\/\u{1}\n\u{c}ü";
        assert_eq!(string(odd), "\"a\\\"\\\\/\\u0001\\n\\u000cü\"");
        assert_eq!(serde_json::from_str::<String>(&string(odd)).unwrap(), odd);
    }

    #[test]
    fn fractions_have_six_digits() {
        assert_eq!(message(&json!(1.5), true), "1.500000");
    }
}
