//! A bundle's recipe: what it carries, from which files. Strict, with all mistakes told at once.

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
    time::Duration,
};

use bundle::{
    Activate, Health, Require, hex,
    version::{self, Range},
};
use daemon::{
    files::read_text,
    table::{self, Table},
};

use crate::{error::Error, files::folder};

const TOP: &[&str] =
    &["product", "revisions", "version", "build", "activate", "health", "components"];
const COMPONENT: &[&str] =
    &["image", "directory", "version", "rollback-index", "requires", "allow-special"];
const REQUIRE: &[&str] = &["component", "version", "rollback-index", "image-hash"];
/// As long as a manifest allows.
const STABLE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// A valid recipe.
#[derive(Debug, PartialEq)]
pub(crate) struct Recipe {
    pub(crate) product: String,
    pub(crate) revisions: Vec<String>,
    pub(crate) version: String,
    pub(crate) build: Option<String>,
    pub(crate) activate: Option<Activate>,
    pub(crate) health: Option<Health>,
    /// By name, so that the file's order does not count.
    pub(crate) components: Vec<Ingredient>,
}

/// One component of it.
#[derive(Debug, PartialEq)]
pub(crate) struct Ingredient {
    pub(crate) id: String,
    pub(crate) source: Source,
    pub(crate) version: String,
    pub(crate) rollback_index: u64,
    pub(crate) requires: Vec<Require>,
    pub(crate) allow_special: bool,
}

/// Where an image comes from; a path is relative to the recipe.
#[derive(Debug, PartialEq)]
pub(crate) enum Source {
    Image(PathBuf),
    Directory(PathBuf),
}

pub(crate) fn load(file: &Path) -> Result<Recipe, Error> {
    let text = read_text(file, table::FILE_MAX).map_err(|error| Error::io("read", file, &error))?;
    parse(file, &text)
}

pub(crate) fn parse(file: &Path, text: &str) -> Result<Recipe, Error> {
    let reader = Reader { folder: folder(file), missing: RefCell::default() };
    let read = table::parse(file, text, |top| reader.top(top));
    let missing = reader.missing.into_inner();
    let missing = missing.iter().map(|missing| format!("{}: {missing}", file.display()));
    let problems: Vec<_> = read.as_ref().err().cloned().into_iter().chain(missing).collect();
    match read {
        Ok(Some(recipe)) if problems.is_empty() => Ok(recipe),
        _ => Err(Error::failed(problems.join("\n"))),
    }
}

/// What is told of keys that aren't there comes after what is wrong with those that are.
struct Reader<'r> {
    folder: &'r Path,
    missing: RefCell<Vec<String>>,
}

impl Reader<'_> {
    /// Nothing where something was reported.
    fn top(&self, top: &Table<'_>) -> Option<Recipe> {
        top.refuse_others(TOP);
        let product = self.demanded(top, "", "product", "\"demo-board\"").map(str::to_owned);
        let revisions = match top.get("revisions") {
            Some(item) => item.some(|text| Ok(text.to_owned())),
            None => {
                self.miss("", "revisions", "[\"a1\"], or [\"*\"] for all of them");
                Vec::new()
            }
        };
        let version = version_of(top).or_else(|| {
            if top.get("version").is_none() {
                self.miss("", "version", "\"2.4.1\"");
            }
            None
        });
        let build = top.text("build").map(str::to_owned);
        let activate =
            top.get("activate").and_then(|item| item.word(&["reboot"])).map(|_| Activate::Reboot);
        let health = top.table("health").and_then(|health| {
            health.refuse_others(&["stable"]);
            let stable = health.duration("stable", Duration::ZERO..=STABLE_MAX)?;
            Some(Health { stable_ms: u64::try_from(stable.as_millis()).ok()? })
        });
        let components = top.table("components");
        if components.is_none() && top.get("components").is_none() {
            self.miss("", "components", "a table [components.rootfs]");
        }
        let fallback = version.clone().unwrap_or_default();
        let components = components.map(|table| {
            let mut names = table.keys();
            names.sort_unstable();
            let one = |name: &str| self.ingredient(&table.table(name)?, name, &fallback);
            names.into_iter().filter_map(one).collect::<Vec<_>>()
        });
        Some(Recipe {
            product: product?,
            revisions,
            version: version?,
            build,
            activate,
            health,
            components: components?,
        })
    }

    fn ingredient(&self, table: &Table<'_>, name: &str, fallback: &str) -> Option<Ingredient> {
        table.refuse_others(COMPONENT);
        let prefix = format!("components.{name}.");
        let source = match (table.get("image"), table.get("directory")) {
            (Some(image), None) => image.text().map(|path| Source::Image(self.folder.join(path))),
            (None, Some(directory)) => {
                directory.text().map(|path| Source::Directory(self.folder.join(path)))
            }
            (Some(image), Some(_)) => {
                image.wrong("beside directory; a component is one of the two");
                None
            }
            (None, None) => {
                self.miss(
                    &prefix,
                    "image",
                    "the path of a file, or directory = the path of a folder",
                );
                None
            }
        };
        let rollback_index = match table.get("rollback-index") {
            Some(_) => table.integer("rollback-index", 0..=i64::MAX),
            None => {
                self.miss(
                    &prefix,
                    "rollback-index",
                    "a number; devices never go below the highest that they confirmed",
                );
                None
            }
        };
        let version = match table.get("version") {
            Some(_) => version_of(table),
            None => Some(fallback.to_owned()),
        };
        let requires = table.tables("requires");
        let requires = requires.iter().filter_map(|table| self.require(&prefix, table)).collect();
        let allow_special = table.boolean("allow-special").unwrap_or(false);
        Some(Ingredient {
            id: name.to_owned(),
            source: source?,
            version: version?,
            rollback_index: rollback_index?,
            requires,
            allow_special,
        })
    }

    fn require(&self, prefix: &str, table: &Table<'_>) -> Option<Require> {
        table.refuse_others(REQUIRE);
        let component = self
            .demanded(table, &format!("{prefix}requires."), "component", "\"rootfs\"")?
            .to_owned();
        let hash = |text: &str| {
            hex::decode(text)
                .ok_or_else(|| format!("{text:.80?} is not 64 hexadecimal digits in lower case"))
        };
        Some(Require {
            component,
            image_hash: table.get("image-hash").and_then(|item| item.parsed(hash)),
            rollback_index: table.integer("rollback-index", 0..=i64::MAX),
            version: table.get("version").and_then(|item| item.parsed(Range::parse)),
        })
    }

    fn demanded<'d>(
        &self,
        table: &Table<'d>,
        prefix: &str,
        key: &str,
        example: &str,
    ) -> Option<&'d str> {
        if table.get(key).is_none() {
            self.miss(prefix, key, example);
        }
        table.text(key)
    }

    fn miss(&self, prefix: &str, key: &str, example: &str) {
        self.missing.borrow_mut().push(format!("{prefix}{key}: missing; write {example}"));
    }
}

fn version_of(table: &Table<'_>) -> Option<String> {
    let checked = |text: &str| version::check(text).map(|()| text.to_owned());
    table.get("version").and_then(|item| item.parsed(checked))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> String {
        parse(Path::new("r/recipe.toml"), text).expect_err("it is refused").text
    }

    #[test]
    fn a_recipe_is_read_with_paths_from_its_own_folder() {
        let text = r#"
product = "demo-board"
revisions = ["a1", "a2"]
version = "2.4.1"
health = { stable = "1m" }
[components.rootfs]
directory = "root"
version = "3"
rollback-index = 2
allow-special = true
[components.application]
image = "build/app.img"
rollback-index = 7
requires = [{ component = "rootfs", version = ">=2.0, <3" }]
"#;
        let recipe = parse(Path::new("r/recipe.toml"), text).expect("it is in order");
        assert_eq!(recipe.health, Some(Health { stable_ms: 60_000 }));
        let [application, rootfs] = &recipe.components[..] else { panic!("there are two") };
        assert_eq!(application.source, Source::Image("r/build/app.img".into()));
        assert_eq!((&*application.version, application.rollback_index), ("2.4.1", 7));
        assert_eq!(application.requires[0].component, "rootfs");
        assert_eq!(rootfs.source, Source::Directory("r/root".into()));
        assert_eq!((&*rootfs.version, rootfs.allow_special), ("3", true));
    }

    #[test]
    fn every_mistake_is_told_with_its_key_and_cure() {
        let text = told(
            "product = 1\nversion = \"two four\"\n[components.app]\nimage = \"x\"\ndirectory = \"y\"\n\
             rolback-index = 1\nrequires = [{ version = \"^2\" }]\n",
        );
        for part in [
            "r/recipe.toml:1: product: 1 is not allowed here; write a text in quotes",
            "r/recipe.toml:2: version: \"two four\" is not a version",
            "r/recipe.toml:4: components.app.image: beside directory",
            "unknown key \"components.app.rolback-index\", did you mean \"rollback-index\"?",
            "r/recipe.toml: revisions: missing; write [\"a1\"]",
            "r/recipe.toml: components.app.rollback-index: missing",
            "r/recipe.toml: components.app.requires.component: missing; write \"rootfs\"",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(
            told("product = \"x\"\nrevisions = [\"*\"]\nversion = \"1\"\n")
                .contains("components: missing")
        );
    }
}
