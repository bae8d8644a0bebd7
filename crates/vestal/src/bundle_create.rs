//! `vestal bundle create`.

use std::{
    fs::File,
    io::{BufWriter, Read, Seek as _, SeekFrom, Write as _},
    num::NonZeroUsize,
    path::Path,
};

use bundle::{
    Kind, Manifest,
    build::{Options, Outline, Part, build},
};

use crate::{
    bundle_inspect::{self, Shown},
    cli::BundleCreate,
    directory::{self, Rules},
    error::Error,
    files::{self, Draft, PUBLIC},
    keys,
    output::Output,
    progress::Progress,
    recipe::{self, Ingredient, Source},
};

/// What makes builds at different times the same.
const EPOCH: &str = "SOURCE_DATE_EPOCH";

pub(crate) fn run(out: Output, given: &BundleCreate) -> Result<(), Error> {
    // What may be refused is asked first: an image takes its time.
    let keys = keys::secrets(&given.key)?;
    let epoch = epoch()?;
    let recipe = recipe::load(&given.recipe)?;
    let rules = Rules { time: epoch.unwrap_or(0), allow_special: false };
    let parts = recipe
        .components
        .into_iter()
        .map(|ingredient| part(ingredient, rules, &given.output))
        .collect::<Result<Vec<_>, _>>()?;
    let outline = Outline {
        product: recipe.product,
        revisions: recipe.revisions,
        version: recipe.version,
        build: recipe.build,
        created: epoch,
        activate: recipe.activate,
        health: recipe.health,
    };
    let threads = given.threads.or_else(|| std::thread::available_parallelism().ok());
    let options = Options { level: given.level, threads: threads.unwrap_or(NonZeroUsize::MIN) };
    let mut draft = Draft::new(&given.output, PUBLIC)?;
    let total = parts.iter().map(|part| part.size).sum();
    write(outline, parts, &keys, options, total, &given.output, draft.file())?;
    let shown = shown(draft.file(), &given.output)?;
    draft.keep()?;
    out.either(&shown, || shown.text())
}

fn write(
    outline: Outline,
    parts: Vec<Part<'_>>,
    keys: &[bundle::SecretKey],
    options: Options,
    total: u64,
    path: &Path,
    file: &mut File,
) -> Result<Manifest, Error> {
    let mut scratch = files::scratch(path)?;
    let keys: Vec<_> = keys.iter().collect();
    let mut progress = Progress::new("build", total);
    let mut output = BufWriter::new(file);
    let built = build(outline, parts, &keys, options, &mut scratch, &mut output, &mut |done| {
        progress.reach(done)
    });
    let manifest = built.map_err(|error| Error::file(path, error))?;
    output.flush().map_err(|error| Error::io("write", path, &error))?;
    Ok(manifest)
}

fn shown(file: &mut File, path: &Path) -> Result<Shown, Error> {
    let reader = bundle::Reader::open(file).map_err(|error| Error::file(path, error))?;
    Ok(bundle_inspect::shown(&reader, path))
}

/// A component with its image, opened or packed.
fn part<'p>(ingredient: Ingredient, rules: Rules, output: &Path) -> Result<Part<'p>, Error> {
    let Ingredient { id, source, version, rollback_index, requires, allow_special } = ingredient;
    let (kind, file) = match &source {
        Source::Image(path) => (Kind::Image, files::open(path)?),
        Source::Directory(path) => {
            let packed = BufWriter::new(files::scratch(output)?);
            let packed = directory::pack(path, Rules { allow_special, ..rules }, packed)?;
            let file = packed.into_inner().map_err(|error| Error::file(path, error.error()))?;
            (Kind::Directory, file)
        }
    };
    let (Source::Image(path) | Source::Directory(path)) = &source;
    let (image, size) = rewound(file).map_err(|error| Error::io("read", path, &error))?;
    if size == 0 {
        return Err(Error::file(path, "empty: a component has at least one byte"));
    }
    Ok(Part { id, version, rollback_index, kind, allow_special, requires, image, size })
}

fn rewound(mut file: File) -> std::io::Result<(Box<dyn Read>, u64)> {
    let size = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(0))?;
    Ok((Box::new(file), size))
}

fn epoch() -> Result<Option<u64>, Error> {
    let Some(value) = std::env::var_os(EPOCH) else { return Ok(None) };
    let seconds = value.to_str().and_then(|text| text.parse().ok());
    seconds.map(Some).ok_or_else(|| {
        Error::failed(format!(
            "{EPOCH}: {value:?} is not a number of seconds since 1970; correct or unset it"
        ))
    })
}
