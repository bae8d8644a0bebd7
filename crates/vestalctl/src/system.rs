//! `vestalctl system ...`: from the command line to calls of the object `system`.

use std::{path::Path, time::Duration};

use protocol::system::{Info, Shutdown, Space, Sysupgrade, Validation};
use serde_json::{Value, json};

use crate::{
    bus::{Bus, How},
    cli::{Ending, SystemCommand, Watchdog},
    error::Error,
    output::{Output, tree},
    table::clean,
    units,
};

/// The supervisor looks at a bundle for up to a minute, and once more where it is forced.
const LOOK: How = How { within: Duration::from_secs(150), safe: false };

pub(crate) async fn run(bus: &Bus, out: Output, command: SystemCommand) -> Result<(), Error> {
    let ask =
        async |method: &str, args: Value, how: How| bus.call("system", method, &args, how).await;
    match command {
        SystemCommand::Board => out.answer(&ask("board", json!({}), How::READ).await?),
        SystemCommand::Info => {
            let answer = ask("info", json!({}), How::READ).await?;
            if out.json { Output::json(&answer) } else { Output::text(&info(answer)) }
        }
        SystemCommand::Watchdog(given) => {
            out.answer(&ask("watchdog", watchdog(&given), How::ONCE).await?)
        }
        SystemCommand::Signal { pid, signal } => {
            let args = json!({ "pid": pid, "signum": signal });
            out.answer(&ask("signal", args, How::ONCE).await?)
        }
        SystemCommand::Reboot(given) => said(out, &end(bus, "reboot", given).await?),
        SystemCommand::Poweroff(given) => said(out, &end(bus, "poweroff", given).await?),
        SystemCommand::Halt(given) => said(out, &end(bus, "halt", given).await?),
        SystemCommand::Validate { bundle } => {
            let args = json!({ "path": absolute(&bundle)? });
            validation(out, &ask("validate_firmware_image", args, LOOK).await?)
        }
        SystemCommand::Sysupgrade { bundle, force } => {
            let args = Sysupgrade { path: absolute(&bundle)?, force, ..Sysupgrade::default() };
            said(out, &ask("sysupgrade", json!(args), LOOK).await?)
        }
    }
}

async fn end(bus: &Bus, method: &str, given: Ending) -> Result<Value, Error> {
    let args = json!(Shutdown { reason: given.reason });
    Ok(bus.call("system", method, &args, How::ONCE).await?)
}

/// As the supervisor finds it, whose working folder is another one.
fn absolute(path: &Path) -> Result<String, Error> {
    let wrong = |why: &str| Error::usage(format!("{}: {why}", path.display()));
    let absolute = std::path::absolute(path).map_err(|error| wrong(&error.to_string()))?;
    let text = absolute.to_str().ok_or_else(|| wrong("the path is no UTF-8; rename the file"))?;
    Ok(text.to_owned())
}

/// A bundle that isn't valid is exit code 1.
fn validation(out: Output, answer: &Value) -> Result<(), Error> {
    if out.json {
        Output::json(answer)?;
    }
    match serde_json::from_value::<Validation>(answer.clone()) {
        Ok(found) if !found.valid => {
            let hint = if found.forceable { "; --force installs it all the same" } else { "" };
            let text = found.text.as_deref().unwrap_or("it is not valid");
            Err(Error::failed(format!("{text}{hint}")))
        }
        _ if out.json => Ok(()),
        Ok(_) => Output::text("the device would take it\n"),
        Err(_) => Output::text(&tree(answer)),
    }
}

/// What will happen, in the supervisor's words.
fn said(out: Output, answer: &Value) -> Result<(), Error> {
    match answer["text"].as_str().filter(|_| !out.json) {
        Some(text) => Output::text(&format!("{}\n", clean(text))),
        None => out.answer(answer),
    }
}

/// What is given is changed, what is absent stays.
fn watchdog(given: &Watchdog) -> Value {
    let stop = (given.stop || given.start).then_some(given.stop);
    let args = protocol::system::Watchdog {
        frequency: given.frequency,
        timeout: given.timeout,
        magicclose: given.magic_close,
        stop,
    };
    json!(args)
}

/// The numbers with their units; what is not procd's shape is shown as it came.
fn info(answer: Value) -> String {
    let Ok(info) = serde_json::from_value::<Info>(answer.clone()) else { return tree(&answer) };
    let kibibytes = |number: u64| units::size(number.saturating_mul(1024));
    let space = |space: Space| {
        let [total, used, free] = [space.total, space.used, space.avail].map(kibibytes);
        format!("{total}, {used} used, {free} available")
    };
    let load = info.load.map(|load| format!("{}.{:02}", load >> 16, ((load & 0xffff) * 100) >> 16));
    let memory = [info.memory.total, info.memory.available, info.memory.cached].map(units::size);
    let lines = [
        ("time", units::date(info.localtime)),
        ("uptime", units::duration(Duration::from_secs(info.uptime))),
        ("load", load.join(" ")),
        ("memory", format!("{}, {} available, {} cached", memory[0], memory[1], memory[2])),
        ("root", space(info.root)),
        ("tmp", space(info.tmp)),
        ("swap", format!("{}, {} free", units::size(info.swap.total), units::size(info.swap.free))),
    ];
    lines.iter().map(|(name, text)| format!("{name:<8}{text}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_is_shown_with_units() {
        let answer = json!({
            "localtime": 0, "uptime": 7500, "load": [65536, 98304, 0],
            "memory": {"total": 64 << 20, "free": 0, "shared": 0, "buffered": 0, "available": 1 << 20, "cached": 0},
            "root": {"total": 1024, "free": 1, "used": 512, "avail": 512},
            "tmp": {"total": 0, "free": 0, "used": 0, "avail": 0}, "swap": {"total": 0, "free": 0},
        });
        let text = info(answer);
        assert!(text.contains("uptime  2h05m\nload    1.00 1.50 0.00\n"), "{text}");
        assert!(text.contains("memory  64 MiB, 1.0 MiB available, 0 B cached\n"), "{text}");
        assert!(text.contains("root    1.0 MiB, 512 KiB used, 512 KiB available\n"), "{text}");
    }

    #[test]
    fn an_answer_of_another_shape_is_shown_as_it_came() {
        assert_eq!(info(json!({"uptime": 3})), "uptime: 3\n");
    }

    #[test]
    fn a_bundle_that_is_not_valid_is_an_error_with_its_reason() {
        let out = Output::new(false);
        let forceable = json!({
            "tests": {}, "valid": false, "forceable": true, "allow_backup": true,
            "text": "nobody has signed it (unsigned)",
        });
        let error = validation(out, &forceable).unwrap_err();
        let text = "nobody has signed it (unsigned); --force installs it all the same";
        assert_eq!((error.exit, &*error.text), (crate::error::Exit::Failed, text));
        let good = json!({ "tests": {}, "valid": true, "forceable": false, "allow_backup": true });
        assert!(validation(out, &good).is_ok());
    }

    #[test]
    fn the_supervisor_gets_a_path_from_the_root_folder_on() {
        assert_eq!(absolute(Path::new("/tmp/a")).unwrap(), "/tmp/a");
        let here = std::env::current_dir().unwrap().join("a");
        assert_eq!(absolute(Path::new("a")).unwrap(), here.to_str().unwrap());
        assert!(absolute(Path::new("")).is_err());
    }

    #[test]
    fn only_what_is_given_is_changed() {
        assert_eq!(watchdog(&Watchdog::default()), json!({}));
        let start = Watchdog { start: true, timeout: Some(60), ..Watchdog::default() };
        assert_eq!(watchdog(&start), json!({"timeout": 60, "stop": false}));
    }
}
