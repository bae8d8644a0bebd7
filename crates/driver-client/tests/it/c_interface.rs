//! The C interface from C: compiled by the machine's own compiler against the header and the static library.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::fake::{Fault, Host};

fn ours(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Compiles a C program of this crate into `folder`.
fn compile(source: &str, folder: &Path) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let library = test.with_file_name("libdriver_client.a");
    let program = folder.join("program");
    let output = Command::new("cc")
        .args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-I"])
        .arg(ours("include"))
        .arg(ours(source))
        .arg("-o")
        .arg(&program)
        .arg(library)
        .args(["-lpthread", "-ldl", "-lm"])
        .output()
        .expect("cc is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    program
}

#[test]
fn every_wrong_argument_is_its_errno_and_nothing_crashes() {
    // A host that dies in between, so that a signal for a broken pipe would be seen.
    let host = Host::start(&[Fault::Unanswered, Fault::Goodbye, Fault::Torn]);
    let program = compile("tests/c/arguments.c", host.run_dir());
    let output = Command::new(program).arg(host.run_dir()).output().unwrap();
    assert!(output.status.success(), "{:?}", output);
    host.with(|inner| {
        let long = inner.written.iter().filter(|data| data.len() == 8).count();
        assert_eq!(long, 400, "four threads write a hundred times each");
        assert_eq!(inner.closed, [7, 8]);
    });
}

#[test]
fn the_example_compiles() {
    let host = Host::start(&[]);
    let program = compile("examples/c/counter_client.c", host.run_dir());
    let output = Command::new(program).env("VESTAL_RUN_DIR", "/nowhere").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("counter_client: counter: No such device"), "{text}");
}

#[test]
fn the_header_suits_a_cpp_compiler_too() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("a.cpp");
    let text = "#include \"vestal_driver_client.h\"\n\
                int main() { return vestal_driver_poll(1, VESTAL_DRIVER_IN, 0) < 0; }\n";
    std::fs::write(&source, text).unwrap();
    let output = Command::new("c++")
        .args(["-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I"])
        .arg(ours("include"))
        .arg(source)
        .output()
        .expect("c++ is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
