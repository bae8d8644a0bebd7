//! `vestalctl service ...`: from the command line to calls of the object `service`.

use std::{
    env,
    ffi::OsString,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process,
};

use protocol::{name::Name, service::Frozen};
use serde_json::{Map, Value, json};

use crate::{
    bus::{Bus, How},
    cli::{Common, Freeze, Order, ServiceCommand},
    definition,
    error::{Error, Exit},
    import,
    output::Output,
    replace, signal,
    table::{Cell, Table, clean},
};

/// The program that reads definition files.
const SUPERVISOR: &str = "vestal-supervisor";

pub(crate) async fn run(
    common: &Common,
    out: Output,
    command: ServiceCommand,
) -> Result<(), Error> {
    // Checking files needs no device.
    if let ServiceCommand::Check { files } = &command {
        return check(common, out, files);
    }
    if let ServiceCommand::Import(given) = &command {
        return import::import(out, given);
    }
    let bus = &Bus::new(common)?;
    let (method, args) = match command {
        ServiceCommand::Check { .. } | ServiceCommand::Import(_) => return Ok(()),
        ServiceCommand::List { name, verbose } => {
            return list(bus, out, name.as_deref(), verbose).await;
        }
        ServiceCommand::Start(given) => return order(bus, out, "start", &given).await,
        ServiceCommand::Stop(given) => return order(bus, out, "stop", &given).await,
        ServiceCommand::Restart(given) => return order(bus, out, "restart", &given).await,
        ServiceCommand::Reload(given) => return order(bus, out, "reload", &given).await,
        ServiceCommand::Delete(given) => return order(bus, out, "delete", &given).await,
        ServiceCommand::Freeze(given) => return freeze(bus, out, &given).await,
        ServiceCommand::Thaw { name, instance } => {
            ("thaw", target(Some(&name), instance.as_deref()))
        }
        ServiceCommand::Set(define) => ("set", definition::message(&define)?),
        ServiceCommand::Add(define) => ("add", definition::message(&define)?),
        ServiceCommand::Signal { name, target } => ("signal", signalled(&name, &target)?),
        ServiceCommand::State { name, spawn } => ("state", json!({ "name": name, "spawn": spawn })),
        ServiceCommand::GetData { name } => ("get_data", target(name.as_deref(), None)),
        ServiceCommand::Replace { name, instance, timeout } => {
            return replace::replace(bus, out, &name, instance.as_deref(), timeout).await;
        }
        ServiceCommand::Reread => return reread(bus, out).await,
        ServiceCommand::UpdateStart { name } => ("update_start", json!({ "name": name })),
        ServiceCommand::UpdateComplete { name } => ("update_complete", json!({ "name": name })),
    };
    let how = if method == "get_data" { How::READ } else { How::ONCE };
    let answer = bus.call("service", method, &args, how).await?;
    out.answer(&answer)
}

/// Arguments that name a service, and perhaps an instance.
fn target(name: Option<&str>, instance: Option<&str>) -> Value {
    let members = [("name", name), ("instance", instance)];
    let given = members.into_iter().filter_map(|(key, text)| Some((key.to_owned(), text?.into())));
    Value::Object(given.collect::<Map<_, _>>())
}

/// `NAME [INSTANCE] SIGNAL`: the last word is the signal.
fn signalled(name: &str, words: &[String]) -> Result<Value, Error> {
    let (instance, signal) = match words {
        [signal] => (None, signal),
        [instance, signal] => (Some(instance.as_str()), signal),
        _ => return Err(Error::usage("give one service, at most one instance, and one signal")),
    };
    let mut args = target(Some(name), instance);
    args["signal"] = signal::parse(signal).map_err(Error::usage)?.into();
    Ok(args)
}

/// `start`, `stop`, `restart`, `reload`, `delete`.
async fn order(bus: &Bus, out: Output, method: &str, order: &Order) -> Result<(), Error> {
    let mut args = target(Some(&order.name), order.instance.as_deref());
    args["wait"] = order.waits().into();
    let how = How { within: order.within.timeout, safe: false };
    let answer = bus.call("service", method, &args, how).await.map_err(|error| {
        let mut error = Error::from(error);
        if error.exit == Exit::TimedOut && order.waits() {
            error.text = format!(
                "{method} of {} took longer than {:?} and goes on; see `vestalctl status {}`, or give a longer --timeout",
                order.name, order.within.timeout, order.name
            );
        }
        error
    })?;
    out.answer(&answer)
}

/// Says by what it is frozen: signals don't reach everything.
async fn freeze(bus: &Bus, out: Output, given: &Freeze) -> Result<(), Error> {
    let mut args = target(Some(&given.name), given.instance.as_deref());
    args["timeout_ms"] = u64::try_from(given.timeout.as_millis()).unwrap_or(u64::MAX).into();
    // The supervisor gives up by itself.
    let how = How { within: given.timeout.max(How::ONCE.within), safe: false };
    let frozen: Frozen = bus.ask("service", "freeze", &args, how).await?;
    if out.json {
        return Output::json(&frozen);
    }
    let names: Vec<&str> = frozen.instances.iter().map(Name::as_str).collect();
    let (names, means) = (names.join(", "), clean(&frozen.means));
    Output::text(&format!("{} is frozen by {means}: {names}\n", clean(&given.name)))
}

async fn reread(bus: &Bus, out: Output) -> Result<(), Error> {
    let answer = bus.call("service", "reread", &json!({}), How::ONCE).await?;
    if out.json {
        return Output::json(&answer);
    }
    let problems = answer["problems"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let lines: Vec<_> = problems.map(|problem| format!("{}\n", clean(problem))).collect();
    Output::text(&lines.concat())
}

/// procd answers an empty table for an unknown name, and so does this.
async fn list(bus: &Bus, out: Output, name: Option<&str>, verbose: bool) -> Result<(), Error> {
    let mut args = target(name, None);
    args["verbose"] = verbose.into();
    let listed = bus.call("service", "list", &args, How::READ).await?;
    if out.json || verbose {
        return out.answer(&listed);
    }
    let mut table = Table::new(&["SERVICE", "INSTANCE", "RUNNING", ">PID", "COMMAND"]);
    for (service, listed) in listed.as_object().into_iter().flatten() {
        let instances = listed["instances"].as_object();
        if instances.is_none_or(Map::is_empty) {
            table.row([Cell::from(service), "-".into(), "-".into(), "-".into(), "".into()]);
        }
        for (instance, listed) in instances.into_iter().flatten() {
            let words =
                listed["command"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let pid = listed["pid"].as_u64().map_or_else(|| "-".to_owned(), |pid| pid.to_string());
            let running = if listed["running"] == true { "yes" } else { "no" };
            let command = words.collect::<Vec<_>>().join(" ");
            let cells = [service.as_str(), instance, running, &pid, &command];
            table.row(cells.map(Cell::from));
        }
    }
    out.table(&table)
}

/// Becomes the supervisor's own check, so that both always agree; with --json its lines are wrapped.
fn check(common: &Common, out: Output, files: &[PathBuf]) -> Result<(), Error> {
    let program = supervisor();
    let mut command = process::Command::new(&program);
    let places = [
        ("--run-dir", &common.run_dir),
        ("--config-dir", &common.config_dir),
        ("--state-dir", &common.state_dir),
        ("--uci-dir", &common.uci_dir),
    ];
    for (option, place) in places {
        if let Some(place) = place {
            command.arg(option).arg(place);
        }
    }
    command.arg("--check");
    for file in files {
        // A file's name must not be taken for an option.
        let dashed = file.as_os_str().as_encoded_bytes().starts_with(b"-");
        command.arg(if dashed { Path::new(".").join(file) } else { file.clone() });
    }
    let failed = |error| {
        let program = program.to_string_lossy();
        let text = format!("run {program}: {error}; install it beside vestalctl or in PATH");
        Error::failed(text)
    };
    if !out.json {
        return Err(failed(command.exec()));
    }
    let done = command.output().map_err(failed)?;
    let lines = |bytes: &[u8]| -> Vec<String> {
        String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect()
    };
    Output::json(&json!({
        "ok": done.status.success(),
        "lines": lines(&done.stdout),
        "errors": lines(&done.stderr),
    }))?;
    // What it said is printed already; only its exit code is left to pass on.
    process::exit(done.status.code().unwrap_or(Exit::Failed as i32));
}

/// The supervisor beside this program, else the one in PATH.
fn supervisor() -> OsString {
    let beside = env::current_exe().ok().map(|own| own.with_file_name(SUPERVISOR));
    beside.filter(|path| path.is_file()).map_or_else(|| SUPERVISOR.into(), PathBuf::into_os_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_is_the_signal() {
        let words =
            |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            signalled("web", &words(&["HUP"])).unwrap(),
            json!({"name": "web", "signal": 1})
        );
        let one = json!({"name": "web", "instance": "a", "signal": 15});
        assert_eq!(signalled("web", &words(&["a", "SIGTERM"])).unwrap(), one);
        assert_eq!(signalled("web", &words(&["TERM", "a"])).unwrap_err().exit, Exit::Usage);
    }
}
