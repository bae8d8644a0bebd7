//! The boot loader's record where it really is; opened for each use, since others may write to it in between. And the two
//! commands around our own record: the loader of an initramfs, and the first record of a device.

use std::{
    ffi::OsString,
    fs::OpenOptions,
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use daemon::{
    files,
    options::{self, Options, Parsed, Spec},
    places::Places,
};

use super::{devices::Plain, store::sync};
use crate::{
    boot::{
        Names,
        grub::Grub,
        own::{self, Own},
        uboot::{self, UBoot},
    },
    engine::{
        choice::Choice,
        contract::{BootControl, Letter},
    },
    settings::{self, BootKind},
};

/// Longest `fw_env.config`.
const CONFIG_MAX: u64 = 64 << 10;
const SELECT: &str = "\
Chooses the set of slots to boot: takes one try off the first letter of our own boot record, and prints the letter.
For an initramfs, which then passes it on as vestal.slot=LETTER. RECORD is the file or device; without it the one that
boot-control in upgrade.toml names.";
const INIT: &str = "\
Writes the first boot record of a device: the letter that is booted (A unless given), with its tries. FREE arguments: the
letter, and the file or device; without it the one that boot-control in upgrade.toml names. A record that is there is replaced.
With two letters the second one has its turn, and its tries, where the first does not come up: for a loader whose record is lost.";

/// One of the kinds of boot control.
#[derive(Debug)]
pub(crate) struct Loader(BootKind);

impl Loader {
    pub(crate) fn new(kind: BootKind) -> Self {
        Self(kind)
    }

    fn open(&self) -> io::Result<Box<dyn BootControl>> {
        Ok(match &self.0 {
            BootKind::None => return Err(io::Error::other("upgrade.toml names no boot-control")),
            BootKind::File { path } => Box::new(Own::new(Plain::open(path)?)),
            BootKind::Uboot { config } => {
                let text = files::read_text(config, CONFIG_MAX);
                let text = text.map_err(|error| named(config, &error.to_string()))?;
                let places = uboot::places(&text).map_err(|error| named(config, &error))?;
                let size = places.first().map_or(0, |place| place.size);
                let mut copies = Vec::new();
                for place in &places {
                    copies.push((Plain::open(Path::new(&place.device))?, place.offset));
                }
                Box::new(UBoot::new(copies, size, Names::default())?)
            }
            BootKind::Grub { device, offset } => {
                Box::new(Grub::new(Plain::open(device)?, *offset, Names::default())?)
            }
        })
    }
}

impl BootControl for Loader {
    fn load(&mut self) -> io::Result<Choice> {
        self.open()?.load()
    }

    fn store(&mut self, choice: &Choice) -> io::Result<()> {
        self.open()?.store(choice)
    }
}

fn named(path: &Path, text: &str) -> io::Error {
    io::Error::other(format!("{}: {text}", path.display()))
}

/// `vestal-upgrade boot-select` and `boot-init`; nothing where the command line begins with neither.
pub(crate) fn command(args: &[OsString]) -> Option<ExitCode> {
    let (word, rest) = args.split_first()?;
    let about = match word.to_str()? {
        "boot-select" => SELECT,
        "boot-init" => INIT,
        _ => return None,
    };
    let spec = Spec { name: "upgrade", about, extra: &[], free: Some("ARGUMENT") };
    let told = match options::parse(&spec, rest.iter().cloned()) {
        Ok(Parsed::Print(text)) => Ok(text),
        Ok(Parsed::Run(options)) if about == SELECT => select(&options),
        Ok(Parsed::Run(options)) => init(&options),
        Err(error) => {
            eprintln!("vestal-upgrade {}: {error}", word.display());
            return Some(ExitCode::from(2));
        }
    };
    Some(match told {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(text) => {
            eprintln!("vestal-upgrade {}: {text}", word.display());
            ExitCode::FAILURE
        }
    })
}

fn select(options: &Options) -> Result<String, String> {
    let (record, _) = record(options.free.first(), options)?;
    let opened = Plain::open(&record).map_err(|error| error.to_string())?;
    let mut own = Own::new(opened);
    let choice = own.load().map_err(|error| format!("{}: {error}", record.display()))?;
    let (letter, next) = selected(&choice).ok_or_else(|| {
        let text =
            "names nothing that could be booted; `vestal-upgrade boot-init` writes a new record";
        format!("{}: {text}", record.display())
    })?;
    match next {
        // That it can't be counted is no reason not to boot.
        Some(next) => {
            if let Err(error) = own.store(&next) {
                eprintln!(
                    "vestal-upgrade boot-select: {}: {error}; the boot is not counted",
                    record.display()
                );
            }
        }
        None => eprintln!(
            "vestal-upgrade boot-select: no set has tries left; {} is booted once more",
            letter.as_char()
        ),
    }
    Ok(format!("{}\n", letter.as_char()))
}

/// What is booted, and what the record says then. Where all tries are used up the first set that was ever good is booted, or
/// the first one at all: better than nothing.
fn selected(choice: &Choice) -> Option<(Letter, Option<Choice>)> {
    if let Some(letter) = choice.primary() {
        let mut next = *choice;
        let left = &mut next.tries[letter.index()];
        *left = left.saturating_sub(1);
        return Some((letter, Some(next)));
    }
    let order = || choice.order.into_iter().flatten();
    let good = order().find(|letter| choice.good[letter.index()]);
    good.or_else(|| order().next()).map(|letter| (letter, None))
}

fn init(options: &Options) -> Result<String, String> {
    let letters = options.free.iter().map_while(|word| Letter::parse(word.to_str()?));
    let letters: Vec<Letter> = letters.take(Letter::BOTH.len()).collect();
    let (record, tries) = record(options.free.get(letters.len()), options)?;
    let letter = letters.first().copied().unwrap_or(Letter::A);
    let mut choice = first_choice(letter, tries);
    if letters.contains(&letter.other()) {
        // Which one was good nobody knows any more.
        choice = Choice::default().trying(letter.other(), tries).trying(letter, tries);
    }
    let named = |error: io::Error| format!("{}: {error}", record.display());
    let mut open = OpenOptions::new();
    let file =
        open.read(true).write(true).create(true).truncate(false).open(&record).map_err(named)?;
    let meta = file.metadata().map_err(named)?;
    if meta.is_file() && meta.len() < own::LENGTH {
        file.set_len(own::LENGTH).map_err(named)?;
    }
    let mut own = Own::new(Plain::new(file).map_err(named)?);
    own.store(&choice).map_err(named)?;
    if let Some(folder) = record.parent().filter(|folder| meta.is_file() && folder.is_dir()) {
        sync(folder).map_err(named)?;
    }
    Ok(format!("{}: {} is booted, with {tries} tries\n", record.display(), letter.as_char()))
}

fn first_choice(letter: Letter, tries: u32) -> Choice {
    Choice::default().confirmed(letter, tries)
}

/// Where the record is, and how many tries a set is given.
fn record(path: Option<&OsString>, options: &Options) -> Result<(PathBuf, u32), String> {
    let places = Places::locate(options).map_err(|error| error.to_string())?;
    let settings = match settings::file::load(places.config.as_deref()) {
        Ok(settings) => settings,
        // In an initramfs there may be none that is whole, and where the record is was said.
        Err(_) if path.is_some() => None,
        Err(error) => return Err(error),
    };
    let control = settings.map(|settings| settings.boot_control);
    let tries = control.as_ref().map_or(3, |control| control.tries);
    if let Some(path) = path {
        return Ok((PathBuf::from(path), tries));
    }
    match control.map(|control| control.kind) {
        Some(BootKind::File { path }) => Ok((path, tries)),
        _ => Err(
            "upgrade.toml names no boot-control of kind \"file\"; name the record's file or device"
                .to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(word: &str, args: &[&str]) -> Result<String, String> {
        let spec = Spec { name: "upgrade", about: "", extra: &[], free: Some("ARGUMENT") };
        let parsed = options::parse(&spec, args.iter().map(OsString::from)).unwrap();
        let Parsed::Run(options) = parsed else { panic!("no options") };
        if word == "boot-init" { init(&options) } else { select(&options) }
    }

    #[test]
    fn a_new_record_boots_its_letter_and_every_boot_costs_a_try() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record");
        let record = path.to_str().unwrap();
        run("boot-init", &["b", record]).unwrap();
        let mut loader = Loader::new(BootKind::File { path: path.clone() });
        for left in [2, 1, 0] {
            assert_eq!(run("boot-select", &[record]).unwrap(), "B\n");
            assert_eq!(loader.load().unwrap().tries, [0, left]);
        }
        // Nothing else could be booted.
        assert_eq!(run("boot-select", &[record]).unwrap(), "B\n");
    }

    #[test]
    fn a_trial_that_never_confirms_ends_in_the_old_set() {
        let old = first_choice(Letter::A, 3);
        let mut choice = old.without(Letter::B).trying(Letter::B, 2);
        let mut booted = Vec::new();
        while let Some((letter, Some(next))) = selected(&choice) {
            booted.push(letter);
            choice = next;
        }
        let (a, b) = (Letter::A, Letter::B);
        assert_eq!(booted, [b, b, a, a, a]);
        assert_eq!(selected(&choice), Some((a, None)), "the one that was good");
    }

    #[test]
    fn a_record_that_was_lost_gives_both_sets_their_turn() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record");
        let record = path.to_str().unwrap();
        std::fs::write(&path, [0xff; 1024]).unwrap();
        run("boot-init", &["B", "A", record]).unwrap();
        let booted: String = (0..7).map(|_| run("boot-select", &[record]).unwrap()).collect();
        assert_eq!(booted, "B\nB\nB\nA\nA\nA\nB\n");
        // The same letter twice is one letter.
        run("boot-init", &["A", "A", record]).unwrap();
        let choice = Loader::new(BootKind::File { path }).load().unwrap();
        assert_eq!(choice, first_choice(Letter::A, 3));
    }

    #[test]
    fn what_is_no_record_is_told_with_the_cure() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record");
        std::fs::write(&path, [0; 4096]).unwrap();
        let told = run("boot-select", &[path.to_str().unwrap()]).unwrap_err();
        assert!(told.contains("boot-init"), "{told}");
        let told =
            run("boot-select", &["--config-dir", folder.path().to_str().unwrap()]).unwrap_err();
        assert!(told.contains("name the record"), "{told}");
    }

    #[test]
    fn every_kind_is_opened_where_the_settings_say() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("fw_env.config");
        let kind = BootKind::Uboot { config: config.clone() };
        assert!(Loader::new(kind).load().unwrap_err().to_string().contains("fw_env.config"));
        std::fs::write(&config, format!("{}/env 0 0x2000\n", folder.path().display())).unwrap();
        let told = Loader::new(BootKind::Uboot { config }).load().unwrap_err().to_string();
        assert!(told.contains("/env: "), "{told}");
        let block = folder.path().join("grubenv");
        std::fs::write(&block, format!("{:#<1024}", "# GRUB Environment Block\n")).unwrap();
        let mut grub = Loader::new(BootKind::Grub { device: block, offset: 0 });
        grub.store(&first_choice(Letter::B, 3)).unwrap();
        assert_eq!(grub.load().unwrap().primary(), Some(Letter::B));
    }
}
