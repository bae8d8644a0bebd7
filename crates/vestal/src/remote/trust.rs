//! `vestal trust ...`: the keys by which devices are known.

use std::{
    fmt::Write as _,
    io::{self, BufRead as _, IsTerminal as _, Write as _},
};

use bundle::{PublicKey, hex};
use serde::Serialize;

use super::{
    cli::{TrustAdd, TrustCommand},
    device::{Address, shown_key},
    known::{Known, Pinned},
};
use crate::{
    error::{Error, Exit},
    output::Output,
};

#[derive(Debug, Serialize)]
struct Row {
    device: String,
    fingerprint: String,
    key: PublicKey,
}

pub(super) async fn run(out: Output, command: TrustCommand) -> Result<(), Error> {
    match command {
        TrustCommand::Add(given) => add(out, &given).await,
        TrustCommand::List => list(out),
        TrustCommand::Remove { device } => remove(out, &device),
    }
}

async fn add(out: Output, given: &TrustAdd) -> Result<(), Error> {
    let address = Address::parse(&given.device)?;
    let name = address.to_string();
    let mut known = Known::load()?;
    let key = shown_key(&address).await?;
    let fingerprint = hex::encode(&key.fingerprint());
    if let Some(before) = known.devices.get(&name)
        && before.key != key
    {
        return Err(Error::failed(format!(
            "{name} shows another key, {fingerprint}, than the one that is known; if the device was given a new one: vestal trust remove {name}"
        )));
    }
    match &given.fingerprint {
        Some(expected) if is_same(expected, &fingerprint) => {}
        Some(_) => {
            let text = format!(
                "{name} shows the key {fingerprint}, which is not the one that you gave: it is not trusted"
            );
            return Err(Error::failed(text));
        }
        None => ask(&name, &fingerprint)?,
    }
    known.devices.insert(name.clone(), Pinned { key });
    known.save()?;
    let row = Row { device: name, fingerprint, key };
    out.either(&row, || format!("{} is known by {}\n", row.device, row.fingerprint))
}

/// People write it in groups, and in any case.
fn is_same(given: &str, fingerprint: &str) -> bool {
    let digits = given.chars().filter(|letter| !letter.is_whitespace() && *letter != ':');
    digits.map(|letter| letter.to_ascii_lowercase()).eq(fingerprint.chars())
}

fn ask(name: &str, fingerprint: &str) -> Result<(), Error> {
    let refused = |text: &str| Err(Error::failed(format!("{name} is not trusted: {text}")));
    if !io::stdin().is_terminal() {
        return refused(&format!(
            "nobody can be asked; if the device shows {fingerprint} by vestalctl upgrade identity, pass --fingerprint {fingerprint}"
        ));
    }
    let shown = fingerprint.as_bytes().chunks(4).map(String::from_utf8_lossy).collect::<Vec<_>>();
    eprintln!("{name} shows the key\n  {}", shown.join(" "));
    eprint!("Does vestalctl upgrade identity show the same on the device? [y/N] ");
    // A prompt that can't be seen is answered with no.
    let _ = io::stderr().flush();
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    match read {
        Ok(_) if matches!(answer.trim(), "y" | "Y" | "yes") => Ok(()),
        _ => refused("you said so"),
    }
}

fn list(out: Output) -> Result<(), Error> {
    let known = Known::load()?;
    let rows: Vec<Row> = known
        .devices
        .into_iter()
        .map(|(device, Pinned { key })| Row {
            device,
            fingerprint: hex::encode(&key.fingerprint()),
            key,
        })
        .collect();
    out.either(&rows, || {
        rows.iter().fold(String::new(), |mut text, row| {
            let _ = writeln!(text, "{:<24} {}", row.device, row.fingerprint);
            text
        })
    })
}

fn remove(out: Output, device: &str) -> Result<(), Error> {
    let name = Address::parse(device)?.to_string();
    let mut known = Known::load()?;
    if known.devices.remove(&name).is_none() {
        let text = format!("{name} is not known; vestal trust list shows all that are");
        return Err(Error::new(Exit::NotFound, text));
    }
    known.save()?;
    out.either(&serde_json::json!({ "removed": name }), || format!("{name} is forgotten\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_may_be_written_in_groups() {
        assert!(is_same("AB:cd 01", "abcd01"));
        assert!(!is_same("abcd", "abcd01"));
        assert!(!is_same("", "abcd01"));
    }
}
