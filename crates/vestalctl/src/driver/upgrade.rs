//! `vestalctl driver upgrade`: a bundle goes the way of every upgrade; a bare object goes to the manager in a sealed memfd, so
//! that what was judged is what is loaded.

use std::{
    fs::File,
    io::{Seek as _, Write as _},
    os::fd::AsFd as _,
    path::Path,
    time::Duration,
};

use bundle::{hex, sha256};
use endpoint::CallOptions;
use protocol::driver::{Mode, Named, OBJECT_MAX, Outcome, Report, Settled, Upgrade};
use rustix::fs::{MemfdFlags, SealFlags};

use super::{explained, list, show, unknown};
use crate::{
    bus::{Bus, How},
    cli::{Common, DriverUpgrade, Install, Way},
    error::Error,
    output::Output,
    upgrade::{self, read},
};

/// Checks, canary, drain and state, until the new code serves.
const EXCHANGE: Duration = Duration::from_secs(120);
/// What a shared object begins with.
const ELF: &[u8] = b"\x7fELF";

pub(super) async fn run(
    bus: &Bus,
    common: &Common,
    out: Output,
    given: DriverUpgrade,
) -> Result<(), Error> {
    if given.dev {
        return bare(bus, out, &given).await;
    }
    if begins_as_object(&given.file)? {
        return Err(Error::usage(format!(
            "{} is a shared object, not a bundle: pack it with `vestal bundle create`, or give --dev where driver.toml says dev = true",
            given.file.display()
        )));
    }
    // A name that is mistyped is told before anything is sent.
    known(bus, &given.name).await?;
    let install = Install {
        bundle: given.file,
        allow_unsigned: false,
        dry_run: false,
        no_activate: false,
        wait: !given.no_wait,
        timeout: given.timeout,
    };
    upgrade::install(bus, common, out, &install).await
}

async fn bare(bus: &Bus, out: Output, given: &DriverUpgrade) -> Result<(), Error> {
    let object = read(&given.file, usize::try_from(OBJECT_MAX).unwrap_or(usize::MAX))?;
    if !object.starts_with(ELF) {
        return Err(Error::usage(format!(
            "{} is no shared object; without --dev a bundle is installed",
            given.file.display()
        )));
    }
    let now = known(bus, &given.name).await?;
    let hash = hex::encode(&sha256(&object));
    let wanted = Upgrade {
        name: given.name.clone(),
        version: given.version.clone().unwrap_or_default(),
        hash,
        // As new as what serves: the floor is the signed versions' own.
        rollback_index: now.version.rollback_index,
        mode: given.mode.map(|way| match way {
            Way::Table => Mode::Table,
            Way::Jump => Mode::Jump,
        }),
        dev: true,
        permitted: false,
    };
    let memory = sealed(&object).map_err(|error| {
        Error::failed(format!("copy {} to memory: {error}", given.file.display()))
    })?;
    let fds = [memory.as_fd()];
    let options = CallOptions { deadline: EXCHANGE, fds: &fds, ..CallOptions::default() };
    let answer = bus.client_of("driver").call("driver", "upgrade", &wanted, options).await;
    let answer = answer.map_err(|error| explained(error, Some(&given.name)))?;
    let report: Report = answer.parse().map_err(|error| {
        Error::failed(format!("the answer of driver.upgrade is not understood: {error}"))
    })?;
    if !out.json {
        Output::text(&show::report(&report))?;
    }
    if given.no_wait || report.probation_ms == 0 {
        return if out.json { Output::json(&report) } else { Ok(()) };
    }
    let settled = settled(bus, given).await?;
    if out.json {
        Output::json(&serde_json::json!({ "report": report, "settled": settled }))?;
    } else {
        Output::text(&format!("  {}\n", crate::table::clean(&show::settled(&settled))))?;
    }
    match settled.outcome {
        Outcome::RolledBack => Err(Error::failed(show::settled(&settled))),
        Outcome::Confirmed | Outcome::Unknown => Ok(()),
    }
}

/// Until it is known whether the new version is kept.
async fn settled(bus: &Bus, given: &DriverUpgrade) -> Result<Settled, Error> {
    let named = Named { name: given.name.clone() };
    let how = How { within: given.timeout, safe: true };
    bus.ask("driver", "settled", &named, how)
        .await
        .map_err(|error| explained(error, Some(&given.name)))
}

async fn known(bus: &Bus, name: &str) -> Result<protocol::driver::Status, Error> {
    list(bus).await?.into_iter().find(|status| status.name == name).ok_or_else(|| unknown(name))
}

fn begins_as_object(path: &Path) -> Result<bool, Error> {
    use std::io::Read as _;
    if path == Path::new("-") {
        return Ok(false);
    }
    let mut begin = Vec::new();
    daemon::files::open_plain(path)
        .and_then(|file| file.take(ELF.len() as u64).read_to_end(&mut begin))
        .map_err(|error| upgrade::file_error(path, &error))?;
    Ok(begin == ELF)
}

/// A memfd that nobody can change any more, us included.
fn sealed(bytes: &[u8]) -> std::io::Result<File> {
    let memory =
        rustix::fs::memfd_create("driver", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut memory = File::from(memory);
    memory.write_all(bytes)?;
    memory.rewind()?;
    let all = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&memory, all)?;
    Ok(memory)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn what_is_handed_over_cannot_be_changed() {
        let memory = sealed(b"object").unwrap();
        assert_eq!(memory.metadata().unwrap().len(), 6);
        assert!(memory.write_at(b"X", 0).is_err());
        assert!(memory.set_len(0).is_err());
        assert!(rustix::fs::fcntl_add_seals(&memory, SealFlags::WRITE).is_err());
    }
}
