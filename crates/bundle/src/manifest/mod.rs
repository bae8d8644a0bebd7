//! The manifest: what a bundle carries and what it fits. It is signed as its bytes are, so that nobody needs a canonical
//! form; we write sorted keys. Strict: an unknown key may be a condition, and a condition must not be overlooked.

use serde::{Deserialize, Serialize};

use crate::{
    CHUNK_MAX, CHUNKS_MAX, COMPONENTS_MAX, Code, MANIFEST_MAX, PAGE_ENTRIES, Refusal, hex, index,
    version::{self, Range},
};

/// Characters of a product's or a revision's name.
const NAME_MAX: usize = 64;
/// Characters of a component's name.
const ID_MAX: usize = 32;
const REVISIONS_MAX: usize = 64;
const REQUIRES_MAX: usize = 32;
/// A day: no health check waits longer.
const STABLE_MS_MAX: u64 = 24 * 60 * 60 * 1000;

/// A valid manifest.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Manifest {
    /// Demands more than the device's own configuration does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activate: Option<Activate>,
    /// Which build this is, in the builder's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<String>,
    /// In the order of their index and chunks.
    pub components: Vec<Component>,
    /// Seconds since 1970; for people only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    pub product: String,
    /// The product's revisions that it fits; `*` for all.
    pub revisions: Vec<String>,
    pub version: String,
}

/// What a manifest may demand of the activation.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activate {
    Reboot,
}

/// What a manifest may demand of the trial.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Health {
    /// How long all must be well without a break; counts where it is longer than the device's own.
    pub stable_ms: u64,
}

/// One image.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Component {
    /// A directory may carry device nodes and setuid programs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_special: bool,
    pub chunks: u32,
    pub id: String,
    /// SHA-256 of the image.
    #[serde(with = "hex::array")]
    pub image_hash: [u8; 32],
    /// SHA-256 of the page table.
    #[serde(with = "hex::array")]
    pub index_root: [u8; 32],
    #[serde(default, skip_serializing_if = "Kind::is_image")]
    pub kind: Kind,
    pub pages: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<Require>,
    /// Refused where the device's floor is higher.
    pub rollback_index: u64,
    /// Bytes of the image.
    pub size: u64,
    /// Bytes of its chunks in the bundle.
    pub stored: u64,
    pub version: String,
}

/// What the image is.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The bytes of a slot.
    #[default]
    Image,
    /// A pax tar, to be unpacked.
    Directory,
}

impl Kind {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
    fn is_image(&self) -> bool {
        *self == Self::Image
    }
}

/// What must run beside a component: all that is named here holds, or the component is refused.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Require {
    pub component: String,
    #[serde(default, with = "hex::option", skip_serializing_if = "Option::is_none")]
    pub image_hash: Option<[u8; 32]>,
    /// At least this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_index: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Range>,
}

/// What is known of a component that runs.
#[derive(Clone, Copy, Debug)]
pub struct Running<'r> {
    pub version: &'r str,
    pub rollback_index: u64,
    pub image_hash: Option<[u8; 32]>,
}

impl Manifest {
    /// Reads a manifest; whether it may be believed is a matter of [`crate::verify`].
    ///
    /// # Errors
    /// No JSON of this kind, or a value beyond its limits.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        Self::check_len(bytes)?;
        let manifest: Self = serde_json::from_slice(bytes).map_err(|error| {
            bad(format!("manifest: {error}: use a newer program, or build the bundle again"))
        })?;
        manifest.check()?;
        Ok(manifest)
    }

    pub(crate) fn check_len(bytes: &[u8]) -> Result<(), Refusal> {
        if bytes.len() <= MANIFEST_MAX {
            return Ok(());
        }
        let text = format!("manifest of {} bytes: at most {MANIFEST_MAX} are allowed", bytes.len());
        Err(Refusal::new(Code::TooLong, text))
    }

    /// # Errors
    /// A value beyond its limits.
    pub fn check(&self) -> Result<(), Refusal> {
        check_name("product", &self.product)?;
        if let Some(build) = &self.build {
            check_name("build", build)?;
        }
        version::check(&self.version).map_err(|why| bad(format!("version: {why}")))?;
        count("revisions", self.revisions.len(), 1, REVISIONS_MAX)?;
        self.revisions.iter().try_for_each(|revision| check_name("revisions", revision))?;
        if let Some(Health { stable_ms }) = self.health
            && stable_ms > STABLE_MS_MAX
        {
            return Err(bad(format!(
                "health.stable-ms: {stable_ms}; allowed are 0 to {STABLE_MS_MAX}"
            )));
        }
        count("components", self.components.len(), 1, COMPONENTS_MAX)?;
        for (at, component) in self.components.iter().enumerate() {
            component.check()?;
            if self.components[..at].iter().any(|other| other.id == component.id) {
                return Err(bad(format!("components: {:?} occurs twice", component.id)));
            }
        }
        Ok(())
    }

    /// With sorted keys and a newline at its end.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self)
            .expect("numbers, lists and texts can always be written as JSON");
        bytes.push(b'\n');
        bytes
    }

    /// Is it made for this device?
    ///
    /// # Errors
    /// It is for another product, or for other revisions of it.
    pub fn check_fit(&self, product: &str, revision: &str) -> Result<(), Refusal> {
        if self.product != product {
            let text = format!("made for product {:?}: this device is {product:?}", self.product);
            return Err(Refusal::new(Code::WrongProduct, text));
        }
        if self.revisions.iter().any(|fits| fits == revision || fits == "*") {
            return Ok(());
        }
        let text = format!(
            "made for revisions {} of {product}: this device is revision {revision:?}",
            self.revisions.join(", ")
        );
        Err(Refusal::new(Code::WrongRevision, text))
    }

    /// Will everything that is required be there? What the bundle carries itself counts instead of what runs.
    ///
    /// # Errors
    /// The first requirement that nothing meets.
    pub fn check_requires<'r>(
        &self,
        running: impl Fn(&str) -> Option<Running<'r>>,
    ) -> Result<(), Refusal> {
        for component in &self.components {
            for require in &component.requires {
                let carried = self.component(&require.component).map(Component::as_running);
                require.check(&component.id, carried.or_else(|| running(&require.component)))?;
            }
        }
        Ok(())
    }

    #[must_use]
    pub fn component(&self, id: &str) -> Option<&Component> {
        self.components.iter().find(|component| component.id == id)
    }

    /// Bytes of all components' indexes.
    #[must_use]
    pub fn index_len(&self) -> u64 {
        self.components.iter().map(|component| index::octets(component.chunks)).sum()
    }

    /// Bytes of all images.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.components.iter().map(|component| component.size).sum()
    }
}

impl Component {
    fn check(&self) -> Result<(), Refusal> {
        check_id("components", &self.id)?;
        let wrong = |text: String| bad(format!("components: {}: {text}", self.id));
        version::check(&self.version).map_err(|why| wrong(format!("version: {why}")))?;
        if self.chunks == 0 || self.chunks > CHUNKS_MAX {
            return Err(wrong(format!("chunks: {}; allowed are 1 to {CHUNKS_MAX}", self.chunks)));
        }
        let pages = self.chunks.div_ceil(PAGE_ENTRIES);
        if self.pages != pages {
            return Err(wrong(format!(
                "pages: {}, but {} chunks need {pages}",
                self.pages, self.chunks
            )));
        }
        let (least, most) = (u64::from(self.chunks), u64::from(self.chunks) * CHUNK_MAX as u64);
        if !(least..=most).contains(&self.size) {
            return Err(wrong(format!(
                "size: {}, but {} chunks hold {least} to {most}",
                self.size, self.chunks
            )));
        }
        if self.stored > self.size {
            return Err(wrong(format!(
                "stored: {}, which is more than the size {}",
                self.stored, self.size
            )));
        }
        if self.requires.len() > REQUIRES_MAX {
            return Err(wrong(format!(
                "requires: {} entries; at most {REQUIRES_MAX}",
                self.requires.len()
            )));
        }
        for require in &self.requires {
            check_id("requires", &require.component)?;
            if require.version.is_none()
                && require.image_hash.is_none()
                && require.rollback_index.is_none()
            {
                return Err(wrong(format!(
                    "requires: {:?} without a condition; name a version, a rollback-index or an image-hash",
                    require.component
                )));
            }
        }
        Ok(())
    }

    /// What it will be once it runs.
    #[must_use]
    pub fn as_running(&self) -> Running<'_> {
        let Self { version, rollback_index, image_hash, .. } = self;
        Running { version, rollback_index: *rollback_index, image_hash: Some(*image_hash) }
    }
}

impl Require {
    /// Does what runs (or will run) meet this?
    ///
    /// # Errors
    /// What is missing, as a requirement of the component `of`.
    pub fn check(&self, of: &str, running: Option<Running<'_>>) -> Result<(), Refusal> {
        let name = &self.component;
        let refuse = |text: String| Err(Refusal::new(Code::Requires, text));
        let Some(running) = running else {
            return refuse(format!("{of} requires {name}, of which this device knows nothing"));
        };
        if let Some(range) = &self.version
            && !range.contains(running.version)
        {
            return refuse(format!("{of} requires {name} {range}, but it is {}", running.version));
        }
        if let Some(least) = self.rollback_index
            && running.rollback_index < least
        {
            let is = running.rollback_index;
            return refuse(format!(
                "{of} requires {name} of rollback index {least}, but it has {is}"
            ));
        }
        if let Some(hash) = self.image_hash
            && running.image_hash != Some(hash)
        {
            let is =
                running.image_hash.map_or_else(|| "unknown".to_owned(), |hash| hex::encode(&hash));
            return refuse(format!(
                "{of} requires the {name} with hash {}, but it is {is}",
                hex::encode(&hash)
            ));
        }
        Ok(())
    }
}

/// Is this a component's name?
///
/// # Errors
/// What is wrong with it; `key` is where it stands.
fn check_id(key: &str, id: &str) -> Result<(), Refusal> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    let begins = id.starts_with(|c: char| c.is_ascii_lowercase());
    if begins && id.len() <= ID_MAX && id.chars().all(allowed) {
        return Ok(());
    }
    Err(bad(format!(
        "{key}: {id:.80?} is not a component's name; write a lower-case letter, then up to {} letters, digits, - and _",
        ID_MAX - 1
    )))
}

fn check_name(key: &str, name: &str) -> Result<(), Refusal> {
    let printable = |c: char| c.is_ascii_graphic() || c == ' ';
    if !name.is_empty() && name.len() <= NAME_MAX && name.chars().all(printable) {
        return Ok(());
    }
    Err(bad(format!(
        "{key}: {name:.80?} is not a name; write 1 to {NAME_MAX} printable ASCII characters"
    )))
}

fn count(key: &str, count: usize, low: usize, high: usize) -> Result<(), Refusal> {
    if (low..=high).contains(&count) {
        return Ok(());
    }
    Err(bad(format!("{key}: {count} entries; allowed are {low} to {high}")))
}

fn bad(text: String) -> Refusal {
    Refusal::new(Code::BadManifest, text)
}

#[cfg(test)]
mod tests;
