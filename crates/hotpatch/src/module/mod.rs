//! A driver that is loaded. Its structure is checked before it is believed, and its state goes through here.
//!
//! Whoever drops a [`Module`] answers for nobody being inside, waiting calls included: first close the gate, swap the table
//! and let the calls end that began in this one.

mod library;
mod memory;
#[cfg(test)]
mod tests;

use std::{
    ffi::{c_long, c_void},
    mem::{offset_of, transmute},
    ptr,
};

use driver_abi::{ABI_MAJOR, Driver, FIELDS_MAX, Field, Host, OPS, OPS_MAX, Op, STATE_MAX, State};

use self::{library::Library, memory::Memory};
use crate::{Code, Function, Image, Refusal, Sealed, Table, entry};

type Export = unsafe extern "C" fn(*mut c_void, usize) -> c_long;
type Import = unsafe extern "C" fn(*const Host, *const c_void, usize) -> c_long;
type Downgrade = unsafe extern "C" fn(u32, *mut c_void, usize) -> c_long;
type SelfTest = unsafe extern "C" fn() -> c_long;

/// So often a driver may say that its state got longer while it was asked for it.
const EXPORTS: u32 = 4;

/// A loaded driver.
pub struct Module {
    name: String,
    version: String,
    layout: u32,
    own_names: Vec<String>,
    fields: Vec<(u16, u16, String)>,
    functions: Vec<Function>,
    table: Table,
    export: Export,
    import: Import,
    downgrade: Option<Downgrade>,
    self_test: Option<SelfTest>,
    memory: Memory,
    _library: Library,
}

impl Module {
    /// Loads an object that was checked, and runs its constructors. Each time it is another instance, also of the same object.
    ///
    /// # Errors
    /// The dynamic linker refuses it, or its structure breaks a rule of `vestal_driver.h`.
    pub fn load(object: &Sealed, image: &Image) -> Result<Self, Refusal> {
        let (library, base) = Library::open(object, image)?;
        #[expect(unsafe_code, reason = "looks at a loaded object")]
        // SAFETY: the linker mapped the object's segments at `base`; it is closed after this was dropped.
        let memory = unsafe { Memory::new(base, image.segments().to_vec()) };
        let driver = Raw::read(&memory, memory.address(image.driver()))?;
        let (operations, table) = driver.operations(&memory)?;
        let name = driver.text(&memory, offset_of!(Driver, name), "name")?;
        if !name.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_.".contains(letter)) {
            return Err(bad(&format!(
                "name {name:?} has other characters than a-z, A-Z, 0-9, -, _ and ."
            )));
        }
        let functions = image.functions().iter().map(|symbol| {
            let address = memory.address(symbol.offset);
            let index = operations.iter().position(|operation| *operation == address);
            Function {
                name: symbol.name.clone(),
                address,
                size: symbol.size,
                hash: symbol.hash,
                room: symbol.room,
                operation: index.and_then(|index| Some(Op::at(u32::try_from(index).ok()?))),
            }
        });
        let functions = functions.collect();
        let (export, import) = (offset_of!(Driver, export_state), offset_of!(Driver, import_state));
        let downgrade =
            driver.function(&memory, offset_of!(Driver, downgrade_state), "downgrade_state")?;
        let self_test = driver.function(&memory, offset_of!(Driver, self_test), "self_test")?;
        let missing = |name: &str| bad(&format!("{name} is null"));
        let export = driver.function(&memory, export, "export_state")?;
        let import = driver.function(&memory, import, "import_state")?;
        let export = export.ok_or_else(|| missing("export_state"))?;
        let import = import.ok_or_else(|| missing("import_state"))?;
        #[expect(unsafe_code, reason = "calls a driver")]
        // SAFETY: each address lies in the object's code, and the header says that such a function is there.
        let (export, import, downgrade, self_test) = unsafe {
            (
                transmute::<*const (), Export>(export),
                transmute::<*const (), Import>(import),
                downgrade.map(|downgrade| transmute::<*const (), Downgrade>(downgrade)),
                self_test.map(|self_test| transmute::<*const (), SelfTest>(self_test)),
            )
        };
        Ok(Self {
            version: driver.text(&memory, offset_of!(Driver, version), "version")?,
            layout: driver.number(offset_of!(Driver, state_layout)),
            own_names: driver.own_names(&memory, operations.len())?,
            fields: driver.fields(&memory)?,
            name,
            functions,
            table,
            export,
            import,
            downgrade,
            self_test,
            memory,
            _library: library,
        })
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Names the meaning of the state that it exports.
    #[must_use]
    pub fn layout(&self) -> u32 {
        self.layout
    }

    /// How many operations its table has, the seven common ones and null ones among them.
    #[must_use]
    pub fn operations(&self) -> u32 {
        self.table.length()
    }

    /// Of its own operations; may be fewer than there are.
    #[must_use]
    pub fn own_names(&self) -> &[String] {
        &self.own_names
    }

    /// Id, kind and name of the fields of its state.
    #[must_use]
    pub fn fields(&self) -> &[(u16, u16, String)] {
        &self.fields
    }

    #[must_use]
    pub fn functions(&self) -> &[Function] {
        &self.functions
    }

    /// What a [`crate::Slot`] is given. It must not be there any more when this is dropped.
    #[must_use]
    pub fn table(&self) -> Table {
        self.table
    }

    /// The memory that it was loaded into.
    #[must_use]
    pub fn range(&self) -> std::ops::Range<usize> {
        self.memory.range()
    }

    /// All of its state. Not while a call is inside.
    ///
    /// # Errors
    /// It answers an error, or something that is no state.
    pub fn export(&self) -> Result<Vec<u8>, Refusal> {
        let export = self.export;
        self.state("export_state", self.layout, |buffer, length| {
            #[expect(unsafe_code, reason = "calls a driver")]
            // SAFETY: the buffer has so many bytes.
            unsafe {
                export(buffer, length)
            }
        })
    }

    /// The same in an older layout. In its own one it is what [`Module::export`] answers.
    ///
    /// # Errors
    /// It can't, or answers something that is no state of this layout.
    pub fn downgrade(&self, layout: u32) -> Result<Vec<u8>, Refusal> {
        if layout == self.layout {
            return self.export();
        }
        let Some(downgrade) = self.downgrade else {
            return Err(bad(&format!(
                "downgrade_state is null: there is no way back from layout {} to layout {layout}",
                self.layout
            )));
        };
        self.state("downgrade_state", layout, |buffer, length| {
            #[expect(unsafe_code, reason = "calls a driver")]
            // SAFETY: the buffer has so many bytes.
            unsafe {
                downgrade(layout, buffer, length)
            }
        })
    }

    /// Begins with this state, or anew where it is empty. 0 or more, or `-errno`.
    #[must_use]
    pub fn import(&self, host: &'static Host, state: &[u8]) -> i64 {
        let start = if state.is_empty() { ptr::null() } else { state.as_ptr().cast() };
        #[expect(unsafe_code, reason = "calls a driver")]
        // SAFETY: the host lives for ever, the state has so many bytes.
        unsafe {
            (self.import)(host, start, state.len())
        }
    }

    /// 0 where all is well with the driver itself, or where it has no such test; or `-errno`.
    #[must_use]
    pub fn self_test(&self) -> i64 {
        let Some(self_test) = self.self_test else { return 0 };
        #[expect(unsafe_code, reason = "calls a driver")]
        // SAFETY: it takes nothing.
        unsafe {
            self_test()
        }
    }

    /// Asks for the length, then for the bytes, and reads them as state.
    fn state(
        &self,
        name: &str,
        layout: u32,
        ask: impl Fn(*mut c_void, usize) -> c_long,
    ) -> Result<Vec<u8>, Refusal> {
        let mut bytes: Vec<u8> = Vec::new();
        for _ in 0..=EXPORTS {
            let start = if bytes.is_empty() { ptr::null_mut() } else { bytes.as_mut_ptr() };
            let answer = ask(start.cast(), bytes.len());
            let length =
                usize::try_from(answer).map_err(|_| bad(&format!("{name} answers {answer}")))?;
            if length > STATE_MAX {
                return Err(bad(&format!(
                    "{name} has {length} bytes of state; at most {STATE_MAX} are allowed"
                )));
            }
            if length <= bytes.len() && !bytes.is_empty() {
                bytes.truncate(length);
                let state = State::parse(&bytes)
                    .map_err(|error| bad(&format!("{name} writes no state: {error}")))?;
                if state.layout != layout {
                    return Err(bad(&format!(
                        "{name} writes layout {} instead of {layout}",
                        state.layout
                    )));
                }
                return Ok(bytes);
            }
            if length == 0 {
                return Err(bad(&format!("{name} has no state, not even an empty one")));
            }
            bytes.resize(length, 0);
        }
        Err(bad(&format!("{name} needs more bytes each time it is asked")))
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // Another object may come to lie here.
        entry::forget(&self.range());
    }
}

fn bad(text: &str) -> Refusal {
    Refusal::new(Code::BadDriver, format!("the driver's {text}"))
}

/// The driver's structure as it is in memory, pointers not yet believed.
struct Raw([u8; size_of::<Driver>()]);

impl Raw {
    fn read(memory: &Memory, address: usize) -> Result<Self, Refusal> {
        let bytes = memory.bytes(address, size_of::<Driver>());
        let raw = bytes.and_then(|bytes| Some(Self(*bytes.first_chunk()?)));
        let raw = raw.ok_or_else(|| bad("structure ends beyond its data"))?;
        // Constructors ran since the file was checked.
        let (size, major) =
            (raw.number(offset_of!(Driver, size)), raw.number(offset_of!(Driver, abi_major)));
        if major != ABI_MAJOR {
            return Err(Refusal::new(
                Code::Abi,
                format!(
                    "the driver is for version {major} of the ABI, this is version {ABI_MAJOR}"
                ),
            ));
        }
        if (size as usize) < size_of::<Driver>() {
            return Err(Refusal::new(
                Code::Layout,
                format!(
                    "the driver's structure has {size} bytes, {} are needed",
                    size_of::<Driver>()
                ),
            ));
        }
        Ok(raw)
    }

    fn number(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.0[at..at + 4].try_into().expect("four bytes of a member of Driver"))
    }

    fn pointer(&self, at: usize) -> usize {
        let bytes = &self.0[at..at + size_of::<usize>()];
        usize::from_le_bytes(bytes.try_into().expect("a pointer that is a member of Driver"))
    }

    fn text(&self, memory: &Memory, at: usize, name: &str) -> Result<String, Refusal> {
        text(memory, self.pointer(at), name)
    }

    /// A function that may be null.
    fn function(
        &self,
        memory: &Memory,
        at: usize,
        name: &str,
    ) -> Result<Option<*const ()>, Refusal> {
        let address = self.pointer(at);
        if address == 0 {
            return Ok(None);
        }
        if !memory.runs(address) {
            return Err(bad(&format!("{name} doesn't lie in its own code")));
        }
        Ok(Some(ptr::with_exposed_provenance(address)))
    }

    /// The addresses of all operations, null ones too, and the table of them.
    fn operations(&self, memory: &Memory) -> Result<(Vec<usize>, Table), Refusal> {
        let length = self.number(offset_of!(Driver, ops_len));
        if !(OPS..=OPS_MAX).contains(&length) {
            return Err(Refusal::new(
                Code::Layout,
                format!("the driver's ops_len is {length}; {OPS} to {OPS_MAX} are allowed"),
            ));
        }
        let address = self.pointer(offset_of!(Driver, ops));
        let operations = memory
            .pointers(address, length as usize)
            .ok_or_else(|| bad(&format!("{length} operations don't lie in its data")))?;
        for (index, operation) in operations.iter().enumerate() {
            if *operation != 0 && !memory.runs(*operation) {
                let name =
                    u32::try_from(index).map(Op::at).map_or(String::new(), |op| op.to_string());
                return Err(bad(&format!("operation {name} doesn't lie in its own code")));
            }
        }
        #[expect(unsafe_code, reason = "makes the table that calls go through")]
        // SAFETY: so many pointers are there, each null or into the object's code, where the header says that such a function is.
        // Who keeps the module keeps them loaded.
        let table = unsafe { Table::new(ptr::with_exposed_provenance(address), length) };
        Ok((operations, table))
    }

    fn own_names(&self, memory: &Memory, operations: usize) -> Result<Vec<String>, Refusal> {
        let (address, length) = (
            self.pointer(offset_of!(Driver, own_names)),
            self.number(offset_of!(Driver, own_names_len)),
        );
        if address == 0 || length == 0 {
            return Ok(Vec::new());
        }
        let most = operations - OPS as usize;
        if length as usize > most {
            return Err(Refusal::new(
                Code::Layout,
                format!("the driver names {length} own operations and has {most}"),
            ));
        }
        let names = memory
            .pointers(address, length as usize)
            .ok_or_else(|| bad("own_names don't lie in its data"))?;
        names.into_iter().map(|name| text(memory, name, "own_names")).collect()
    }

    fn fields(&self, memory: &Memory) -> Result<Vec<(u16, u16, String)>, Refusal> {
        let (address, length) =
            (self.pointer(offset_of!(Driver, fields)), self.number(offset_of!(Driver, fields_len)));
        if address == 0 || length == 0 {
            return Ok(Vec::new());
        }
        if length > FIELDS_MAX {
            return Err(Refusal::new(
                Code::Layout,
                format!("the driver names {length} fields; at most {FIELDS_MAX} are allowed"),
            ));
        }
        let bytes = memory
            .bytes(address, length as usize * size_of::<Field>())
            .ok_or_else(|| bad("fields don't lie in its data"))?;
        let field = |bytes: &[u8]| {
            let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
            let name = *bytes[offset_of!(Field, name)..].first_chunk().expect("a pointer of Field");
            let name = text(memory, usize::from_le_bytes(name), "fields")?;
            Ok((half(offset_of!(Field, id)), half(offset_of!(Field, kind)), name))
        };
        bytes.chunks_exact(size_of::<Field>()).map(field).collect()
    }
}

fn text(memory: &Memory, address: usize, name: &str) -> Result<String, Refusal> {
    memory.text(address).ok_or_else(|| {
        bad(&format!("{name} is no text of 1 to {} bytes within its data", driver_abi::TEXT_MAX))
    })
}
