//! Reads a definition that is to be sent: procd's message as it is, TOML as a text with the name it is for.
//! What is inside is the supervisor's to judge.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use protocol::frame::PAYLOAD_MAX;
use serde_json::{Value, json};

use crate::{
    cli::Define,
    error::{Error, Exit},
};

/// The arguments of `service.set` and `service.add`.
pub(crate) fn message(define: &Define) -> Result<Value, Error> {
    let stdin = define.file == Path::new("-");
    let (text, shown) = if stdin {
        (read(io::stdin().lock(), "standard input")?, "standard input".to_owned())
    } else {
        let shown = define.file.display().to_string();
        let file = File::open(&define.file).map_err(|error| {
            let exit = match error.kind() {
                io::ErrorKind::NotFound => Exit::NotFound,
                _ => Exit::Failed,
            };
            Error::new(exit, format!("open {shown}: {error}"))
        })?;
        (read(file, &shown)?, shown)
    };
    let extension = define.file.extension().and_then(|extension| extension.to_str());
    let is_json = match extension {
        Some("json") => true,
        Some("toml") => false,
        _ => text.trim_start().starts_with('{'),
    };
    let name = define.name.as_deref();
    if is_json {
        return from_json(&text, &shown, name);
    }
    let stem = define.file.file_stem().and_then(|stem| stem.to_str()).filter(|_| !stdin);
    let Some(name) = name.or(stem) else {
        let text = "a TOML definition on standard input has no name; give --name";
        return Err(Error::usage(text));
    };
    let file = std::path::absolute(&define.file).ok().filter(|_| !stdin);
    let file = file.map_or_else(|| "-".to_owned(), |file| file.to_string_lossy().into_owned());
    Ok(json!({ "name": name, "toml": text, "file": file }))
}

fn from_json(text: &str, shown: &str, name: Option<&str>) -> Result<Value, Error> {
    let mut message: Value = serde_json::from_str(text)
        .map_err(|error| Error::failed(format!("{shown} is no JSON: {error}")))?;
    let Value::Object(members) = &mut message else {
        return Err(Error::failed(format!(
            "{shown} holds no JSON object, which procd's message is"
        )));
    };
    if let Some(name) = name {
        members.insert("name".to_owned(), name.into());
    }
    Ok(message)
}

/// Everything, up to what fits into a call.
fn read(from: impl io::Read, shown: &str) -> Result<String, Error> {
    let mut bytes = Vec::new();
    from.take(PAYLOAD_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::failed(format!("read {shown}: {error}")))?;
    if bytes.len() > PAYLOAD_MAX {
        let text = format!("{shown} exceeds the limit of {PAYLOAD_MAX} bytes for one definition");
        return Err(Error::failed(text));
    }
    String::from_utf8(bytes)
        .map_err(|error| Error::failed(format!("{shown} is no UTF-8 text: {}", error.utf8_error())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(name: &str, text: &str, given: Option<&str>) -> Result<Value, Error> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        message(&Define { file, name: given.map(str::to_owned) })
    }

    #[test]
    fn toml_is_sent_as_text_under_the_name_of_its_file() {
        let sent = written("web.toml", "command = [\"x\"]", None).unwrap();
        assert_eq!((&sent["name"], &sent["toml"]), (&json!("web"), &json!("command = [\"x\"]")));
        assert!(sent["file"].as_str().unwrap().ends_with("/web.toml"));
        assert_eq!(written("web.toml", "", Some("other")).unwrap()["name"], "other");
    }

    #[test]
    fn procds_message_is_sent_as_it_is() {
        let sent = written("m", " {\"name\": \"web\", \"instances\": {}}", None).unwrap();
        assert_eq!(sent, json!({"name": "web", "instances": {}}));
        assert_eq!(written("m.json", "{}", Some("web")).unwrap(), json!({"name": "web"}));
    }

    #[test]
    fn broken_definitions_say_where() {
        assert!(written("m.json", "{", None).unwrap_err().text.contains("line 1 column 1"));
        assert!(written("m.json", "[]", None).unwrap_err().text.contains("no JSON object"));
        let missing = Define { file: "/nonexistent/x.toml".into(), name: None };
        assert_eq!(message(&missing).unwrap_err().exit, Exit::NotFound);
    }
}
