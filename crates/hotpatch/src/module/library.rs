//! An object in the hands of the dynamic linker.

use std::{
    ffi::{CStr, CString, c_void},
    os::fd::AsRawFd as _,
    ptr,
    sync::atomic::{AtomicU64, Ordering},
};

use sha2::{Digest as _, Sha256};

use crate::{Code, Image, Refusal, Sealed};

/// Closed when dropped.
pub(super) struct Library(*mut c_void);

#[expect(unsafe_code, reason = "a handle of the dynamic linker may be used by any thread")]
// SAFETY: the linker locks its own tables.
unsafe impl Send for Library {}
#[expect(unsafe_code, reason = "as above")]
// SAFETY: as above.
unsafe impl Sync for Library {}

impl Library {
    /// Loads the object, which runs its constructors. Each time it is another instance with variables of its own.
    pub(super) fn open(object: &Sealed, image: &Image) -> Result<(Self, usize), Refusal> {
        // The linker takes files for the same that have the same name or the same inode, so it is given a new one of both.
        let name = format!("driver-{:016x}", fingerprint(object.bytes()));
        let copy = Sealed::new(&name, object.bytes()).map_err(|error| {
            Refusal::new(Code::System, format!("make a memfd for the driver: {error}"))
        })?;
        let path = unique_path(copy.fd().as_raw_fd());
        #[expect(unsafe_code, reason = "loads a driver")]
        // SAFETY: the path ends with NUL. What constructors do was found harmless by whoever chose to load this object.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() {
            let text = last_error().replace(&*path.to_string_lossy(), "the object");
            return Err(Refusal::new(Code::Load, format!("load the driver: {text}")));
        }
        let library = Self(handle);
        let base = library.base()?;
        let driver = base.wrapping_add(usize::try_from(image.driver()).unwrap_or(usize::MAX));
        if library.symbol(driver_abi::SYMBOL) != driver {
            return Err(Refusal::new(
                Code::Load,
                "the dynamic linker found another driver in the object than the check before",
            ));
        }
        Ok((library, base))
    }

    /// What is added to the file's addresses.
    fn base(&self) -> Result<usize, Refusal> {
        /// The beginning of `struct link_map`.
        #[repr(C)]
        struct LinkMap {
            base: usize,
        }
        let mut map: *const LinkMap = ptr::null();
        #[expect(unsafe_code, reason = "asks the dynamic linker for an address")]
        // SAFETY: the handle is open, and this request writes one pointer, which is valid for as long as it is.
        let base = unsafe {
            let found = libc::dlinfo(self.0, libc::RTLD_DI_LINKMAP, (&raw mut map).cast());
            (found == 0 && !map.is_null()).then(|| (*map).base)
        };
        base.ok_or_else(|| Refusal::new(Code::Load, format!("find the driver: {}", last_error())))
    }

    /// 0 where there is none.
    fn symbol(&self, name: &str) -> usize {
        let Ok(name) = CString::new(name) else { return 0 };
        #[expect(unsafe_code, reason = "asks the dynamic linker for an address")]
        // SAFETY: the handle is open, the name ends with NUL.
        let address = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        address.expose_provenance()
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "unloads a driver")]
        // SAFETY: it was opened once and is closed once. That nobody runs its code is what `Module` asks of its owner.
        unsafe {
            libc::dlclose(self.0);
        }
    }
}

/// The beginning of the hash, for `/proc/PID/maps`.
fn fingerprint(bytes: &[u8]) -> u64 {
    let hash: [u8; 32] = Sha256::digest(bytes).into();
    u64::from_be_bytes(*hash.first_chunk().expect("a hash of 32 bytes"))
}

/// A path to the descriptor that was never used before: the linker doesn't look at a file whose name it knows, and the number of
/// a descriptor comes back. A count is written into it as `/./` and `//`.
fn unique_path(fd: i32) -> CString {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut count = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut path = "/proc/self/fd/".to_owned();
    while count > 0 {
        path.push_str(if count & 1 == 1 { "./" } else { "/" });
        count >>= 1;
    }
    path.push_str(&fd.to_string());
    CString::new(path).expect("slashes, dots and digits only")
}

fn last_error() -> String {
    #[expect(unsafe_code, reason = "asks the dynamic linker what went wrong")]
    // SAFETY: the text is this thread's until the next call of the linker; it is copied at once.
    unsafe {
        let text = libc::dlerror();
        if text.is_null() {
            return "the dynamic linker doesn't say why".to_owned();
        }
        CStr::from_ptr(text).to_string_lossy().into_owned()
    }
}
