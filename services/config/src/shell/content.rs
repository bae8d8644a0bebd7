//! What a file says, against what was announced of it.

use md5::Md5;
use protocol::config::{Change, Unreadable};
use sha2::Digest as _;
use uci::{
    Mode, Problem, Show,
    canonical::{Canonical, Entry, Format, canonical, differences},
    delta::{apply_delta, parse_delta},
    file_text,
};

use super::store::{Store, Trouble, read_whole, sha256};
use crate::{
    machine::{Announced, Digest, FilePath, Found, digits, package, shorten},
    settings::Settings,
};

/// Reads one file.
pub(super) struct Reader<'r> {
    pub(super) store: &'r mut Store,
    pub(super) settings: &'r Settings,
    pub(super) format: &'r Format,
    pub(super) path: &'r FilePath,
    /// It is not announced the first time.
    pub(super) silent: bool,
}

impl Reader<'_> {
    /// How the file stands against what was announced.
    pub(super) fn find(&mut self, announced: Option<&Announced>) -> Found {
        let bytes = match read_whole(self.path, self.settings.limits.file) {
            Ok(bytes) => bytes,
            Err(Trouble::Gone) => return announced.map_or(Found::Nothing, |it| self.gone(it)),
            Err(Trouble::Moving) => return Found::Moving,
            Err(Trouble::Told(text)) => return self.failed(None, text),
        };
        let bytes = match self.with_uncommitted(bytes) {
            Ok(bytes) => bytes,
            Err(Trouble::Gone | Trouble::Moving) => return Found::Moving,
            Err(Trouble::Told(text)) => return self.failed(None, text),
        };
        let content = sha256(&bytes);
        let wants_md5 = self.settings.md5.is_some() && *self.format == Format::Uci;
        if let Some(announced) = announced
            && announced.content == Some(content)
            && announced.md5.is_some() == wants_md5
        {
            return Found::Same(announced.clone());
        }
        let read = canonical(self.format, package(self.path), &bytes);
        let md5 = if wants_md5 { md5(package(self.path), &bytes).map(Some) } else { Ok(None) };
        let (canonical, md5) = match (read, md5) {
            (Ok(canonical), Ok(md5)) => (canonical, md5),
            (Err(Problem { line, column, text }), _) | (_, Err(Problem { line, column, text })) => {
                return self.failed(Some(line), format!("column {column}: {text}"));
            }
        };
        let kept = self.keep(content, &bytes);
        let now = Announced { digest: canonical.digest, content: kept, md5 };
        match announced {
            Some(announced) if announced.digest == now.digest => Found::Same(now),
            announced => {
                let change = self.change(announced, &canonical);
                Found::Other(Some(now), change)
            }
        }
    }

    /// The file as it will be when what was set is committed, where that is to count.
    fn with_uncommitted(&self, bytes: Vec<u8>) -> Result<Vec<u8>, Trouble> {
        let Some(folder) = &self.settings.uncommitted else { return Ok(bytes) };
        let name = package(self.path);
        if *self.format != Format::Uci {
            return Ok(bytes);
        }
        let place = folder.join(name).display().to_string();
        let deltas = match read_whole(&place, self.settings.limits.file) {
            Ok(deltas) if !deltas.is_empty() => deltas,
            Ok(_) | Err(Trouble::Gone) => return Ok(bytes),
            Err(Trouble::Told(text)) => return Err(Trouble::Told(format!("{place}: {text}"))),
            Err(Trouble::Moving) => return Err(Trouble::Moving),
        };
        let (deltas, _) = parse_delta(name, &deltas)
            .map_err(|problem| Trouble::Told(format!("{place}: {problem}")))?;
        // What is wrong with the file itself is told when it is read alone.
        let Ok(parsed) = uci::parse(name, &bytes, Mode::Strict) else { return Ok(bytes) };
        let mut package = parsed.package;
        for delta in &deltas {
            // `uci` leaves out what doesn't fit any more, too.
            let _ = apply_delta(&mut package, delta);
        }
        Ok(file_text(&package, false).into_bytes())
    }

    fn keep(&mut self, content: Digest, bytes: &[u8]) -> Option<Digest> {
        let limits = &self.settings.limits;
        let fits = u64::try_from(bytes.len()).is_ok_and(|length| length <= limits.kept_file);
        if fits { self.store.keep(content, bytes, limits.kept) } else { None }
    }

    fn failed(&self, line: Option<usize>, text: String) -> Found {
        let package = package(self.path).to_owned();
        Found::Failed(Unreadable { package, file: self.path.to_string(), line, text })
    }

    /// What an announced content says; `None` where it isn't kept.
    fn said(&self, announced: &Announced) -> Option<Vec<Entry>> {
        let bytes = self.store.content(announced.content.as_ref()?)?;
        canonical(self.format, package(self.path), &bytes).ok().map(|it| it.entries)
    }

    fn gone(&self, announced: &Announced) -> Found {
        let said = self.said(announced);
        let more = said.is_none();
        let removed = said.unwrap_or_default().into_iter().map(|entry| entry.name).collect();
        let package = package(self.path).to_owned();
        let mut change = Change { package, removed, more, ..Change::default() };
        shorten(&mut change);
        Found::Other(None, change)
    }

    fn change(&self, announced: Option<&Announced>, now: &Canonical) -> Change {
        let said = match announced {
            Some(announced) => self.said(announced),
            // The names of a thousand files at once take megabytes.
            None if self.silent => None,
            None => Some(Vec::new()),
        };
        let (package, digest) = (package(self.path).to_owned(), digits(&now.digest));
        let mut change = Change { package, digest, ..Change::default() };
        match said {
            Some(said) => {
                let names = differences(&said, &now.entries);
                (change.changed, change.added, change.removed) =
                    (names.changed, names.added, names.removed);
            }
            None => change.more = true,
        }
        shorten(&mut change);
        change
    }
}

/// What a file says now.
///
/// # Errors
/// Why it can't be told.
pub(super) fn entries(path: &str, format: &Format, limit: u64) -> Result<Vec<Entry>, String> {
    let bytes = read_whole(path, limit).map_err(|trouble| match trouble {
        Trouble::Gone => "it is not there".to_owned(),
        Trouble::Moving => "it is being written; try again".to_owned(),
        Trouble::Told(text) => text,
    })?;
    let read = canonical(format, package(path), &bytes).map_err(|problem| problem.to_string())?;
    Ok(read.entries)
}

/// MD5 of what `uci show` prints, as OpenWrt's `reload_config` writes it down.
fn md5(package: &str, bytes: &[u8]) -> Result<[u8; 16], Problem> {
    let parsed = uci::parse(package, bytes, Mode::Strict)?;
    Ok(Md5::digest(uci::show(&parsed.package, &Show::default())).into())
}
