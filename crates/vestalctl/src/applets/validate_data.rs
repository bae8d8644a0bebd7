//! Called under the name `validate_data`: checks a value, or a section of a package, against the rules of a script.
//!
//! The language is `uci::datatype`'s; this file shows it files and packages.

use std::{
    cell::RefCell, collections::HashMap, ffi::OsString, fmt, fs, os::unix::fs::FileTypeExt as _,
    process::ExitCode, rc::Rc,
};

use uci::{
    Address, Package,
    datatype::{FileKind, Mode, Report, World, registration, section_report, value_report},
};

use super::{complain, uci::Store};
use crate::output::Output;

/// Exit code of the original where it can't begin.
const FAILED: u8 = 255;
/// Packages that rules may look into; what is beyond is as good as not there.
const PACKAGES_MAX: usize = 64;

const USAGE: &str = "\
validate_data <datatype> <value>\t- validate a value against a type
validate_data <package> <section_type> <section_name> 'option:datatype:default' 'option:datatype:default' ...";

pub(super) fn run(args: &[OsString]) -> ExitCode {
    let Some(words) = args.iter().map(|word| word.to_str()).collect::<Option<Vec<_>>>() else {
        complain("an argument is no UTF-8 text");
        return ExitCode::from(FAILED);
    };
    let device = Device::default();
    let report = match &*words {
        [rule, value] => Ok(value_report(rule, value, Mode::Compatible, &device)),
        [package, kind, "", rules @ ..] if !rules.is_empty() => {
            let commands = registration(package, kind, rules, Mode::Compatible);
            commands.map(|stdout| Report { stdout, stderr: String::new(), code: 0 })
        }
        [name, _, section, rules @ ..] if !rules.is_empty() => {
            let package = device.package(name);
            let package = (*name, package.as_deref());
            section_report(package, section, rules, Mode::Compatible, &device)
        }
        _ => {
            complain(USAGE);
            return ExitCode::from(FAILED);
        }
    };
    match report {
        Ok(report) => {
            if !report.stderr.is_empty() {
                complain(report.stderr.trim_end_matches('\n'));
            }
            match Output::text(&report.stdout) {
                Ok(()) => ExitCode::from(report.code),
                Err(_) => ExitCode::from(FAILED),
            }
        }
        Err(problem) => {
            complain(&format!("{problem}"));
            ExitCode::from(FAILED)
        }
    }
}

/// The files and packages of this device. A package is read once, when it is first asked for.
#[derive(Default)]
struct Device {
    store: Store,
    packages: RefCell<HashMap<String, Option<Rc<Package>>>>,
}

impl Device {
    fn package(&self, name: &str) -> Option<Rc<Package>> {
        if let Some(known) = self.packages.borrow().get(name) {
            return known.clone();
        }
        if self.packages.borrow().len() >= PACKAGES_MAX {
            return None;
        }
        let package = self.store.load(name).ok().map(|loaded| Rc::new(loaded.package));
        self.packages.borrow_mut().insert(name.to_owned(), package.clone());
        package
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").finish_non_exhaustive()
    }
}

impl World for Device {
    fn kind(&self, path: &str) -> Option<FileKind> {
        let found = fs::metadata(path).ok()?.file_type();
        Some(match () {
            () if found.is_file() => FileKind::Regular,
            () if found.is_dir() => FileKind::Directory,
            () if found.is_block_device() || found.is_char_device() => FileKind::Device,
            () => FileKind::Other,
        })
    }

    fn values(&self, package: &str, section: &str, option: &str) -> Vec<String> {
        let address = Address {
            package: package.to_owned(),
            section: Some(section.to_owned()),
            option: Some(option.to_owned()),
            value: None,
        };
        let Some(package) = self.package(package) else { return Vec::new() };
        let found = package.find(&address).ok().and_then(|found| found.option);
        found.map(|option| option.value.items().to_vec()).unwrap_or_default()
    }

    fn sections(&self, package: &str, kind: &str) -> Vec<String> {
        let Some(package) = self.package(package) else { return Vec::new() };
        let of_kind = package.sections.iter().filter(|section| section.kind == kind);
        of_kind.map(|section| section.name.clone()).collect()
    }
}
