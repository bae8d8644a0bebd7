//! The example drivers and their variants as shared objects, built with the machine's C compiler into a test's own folder.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

/// As `vestal_driver.h` tells the writer of a driver.
const FLAGS: [&str; 7] = [
    "-shared",
    "-fPIC",
    "-O2",
    "-std=c11",
    "-D_POSIX_C_SOURCE=200809L",
    "-fpatchable-function-entry=16",
    "-Wl,-z,now,-z,relro,-z,noexecstack",
];

/// The folder with `counter.c`, `pipe.c`.
#[must_use]
pub fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../driver-abi/examples/c")
}

/// Builds `examples/c/EXAMPLE.c` with further options (`-DVERSION="2"`, quotes included) into the folder. Each call makes a
/// file of its own.
///
/// # Panics
/// Where there is no compiler or it refuses; with what it says.
#[must_use]
pub fn build(folder: &Path, example: &str, options: &[&str]) -> PathBuf {
    // Debian has it by this name on an arm64 machine, too; under qemu-user `cc` is another machine's.
    let compiler = if cfg!(target_arch = "aarch64") { "aarch64-linux-gnu-gcc" } else { "cc" };
    build_for(compiler, folder, example, options)
}

/// The same with another compiler, e.g. `aarch64-linux-gnu-gcc`.
///
/// # Panics
/// As [`build`].
#[must_use]
pub fn build_for(compiler: &str, folder: &Path, example: &str, options: &[&str]) -> PathBuf {
    let object = unused(folder, example);
    let mut include = OsString::from("-I");
    include.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("../driver-abi/include"));
    let built = Command::new(compiler)
        .args(FLAGS)
        .args(["-Wall", "-Wextra", "-Werror"])
        .arg(include)
        .args(options)
        .arg("-o")
        .arg(&object)
        .arg(examples().join(format!("{example}.c")))
        .output()
        .unwrap_or_else(|error| panic!("run the C compiler {compiler}: {error}"));
    assert!(
        built.status.success(),
        "{compiler} {example}.c {options:?}:\n{}",
        String::from_utf8_lossy(&built.stderr)
    );
    object
}

/// The option that sets the version of an example driver.
#[must_use]
pub fn version(text: &str) -> String {
    format!("-DVERSION=\"{text}\"")
}

/// A name in the folder that no other call has been given.
fn unused(folder: &Path, example: &str) -> PathBuf {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    folder.join(format!("{example}-{}-{number}.so", std::process::id()))
}
