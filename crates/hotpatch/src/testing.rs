//! What the tests of this crate load: the counter of the examples, for the machine that the test runs on, with further source
//! before its own.

use std::fs;

use testkit::drivers;

use crate::{Function, Image, Module, Sealed};

pub(crate) fn bytes_with(source: &str, options: &[&str]) -> Vec<u8> {
    let compiler = if cfg!(target_arch = "aarch64") { "aarch64-linux-gnu-gcc" } else { "cc" };
    let folder = tempfile::tempdir().unwrap();
    let header = folder.path().join("before.h");
    fs::write(&header, source).unwrap();
    let options = [&["-w", "-include", header.to_str().unwrap()], options].concat();
    fs::read(drivers::build_for(compiler, folder.path(), "counter", &options)).unwrap()
}

pub(crate) fn bytes(options: &[&str]) -> Vec<u8> {
    bytes_with("", options)
}

pub(crate) fn object_with(source: &str, options: &[&str]) -> (Sealed, Image) {
    let object = Sealed::new("test", &bytes_with(source, options)).unwrap();
    let image = Image::check(object.bytes()).unwrap();
    (object, image)
}

pub(crate) fn load_with(source: &str, options: &[&str]) -> Module {
    let (object, image) = object_with(source, options);
    Module::load(&object, &image).unwrap()
}

pub(crate) fn function(module: &Module, name: &str) -> Function {
    let mut found = module.functions().iter().filter(|function| function.name == name);
    found.next().unwrap_or_else(|| panic!("no function {name}")).clone()
}

/// The options that make compilers put a landing pad at each entry, one a run; and none.
pub(crate) fn landings() -> [&'static [&'static str]; 2] {
    let pads: &[&str] = match cfg!(target_arch = "aarch64") {
        true => &["-mbranch-protection=standard"],
        false => &["-fcf-protection"],
    };
    [&[], pads]
}

/// qemu-user before 8.1, which these tests run in as well, doesn't hear `ic ivau`, and goes on with what it translated before. It
/// forgets that where a page becomes writable.
#[cfg(target_arch = "aarch64")]
#[expect(unsafe_code, reason = "changes what may be done with memory")]
pub(crate) fn forget_translation(address: usize, length: usize) {
    use rustix::mm::{MprotectFlags, mprotect};
    let start = address & !4095;
    let length = (address + length - start).next_multiple_of(4096);
    let page = std::ptr::with_exposed_provenance_mut(start);
    let run = MprotectFlags::READ | MprotectFlags::EXEC;
    // SAFETY: in the end the page is as it was: code. A kernel that forbids the first change has made none.
    unsafe {
        if mprotect(page, length, run | MprotectFlags::WRITE).is_ok() {
            mprotect(page, length, run).unwrap();
        }
    }
}
