//! The C interface from C: compiled by the machine's own compiler against the shipped header and library.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use testkit::binary;

fn project() -> PathBuf {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR"));
    ours.parent().expect("we are a member of the workspace").to_owned()
}

/// Compiles a C program of the project into `folder`.
pub(crate) fn compile(source: &str, folder: &Path) -> PathBuf {
    let source = project().join(source);
    let program = folder.join(source.file_stem().expect("a source file has a name"));
    let output = Command::new("cc")
        .args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-I"])
        .arg(project().join("crates/heartbeat-client/include"))
        .arg(&source)
        .arg("-o")
        .arg(&program)
        .arg(binary("libheartbeat_client.a"))
        .args(["-lpthread", "-ldl", "-lm"])
        .output()
        .expect("cc is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    program
}

#[test]
fn every_wrong_argument_is_its_error_code_and_nothing_crashes() {
    let folder = tempfile::tempdir().unwrap();
    let program = compile("integration-tests/c/arguments.c", folder.path());
    let output = Command::new(program).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_header_suits_a_cpp_compiler_too() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("a.cpp");
    let text = "#include \"gmi_daemon.h\"\n\
                int main() { DAEMON_DATA_CFG cfg = GMI_DAEMON_DATA_CFG_INIT; return GMI_DaemonReport(&cfg) != GMI_E_STATE; }\n";
    std::fs::write(&source, text).unwrap();
    let output = Command::new("c++")
        .args(["-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I"])
        .arg(project().join("crates/heartbeat-client/include"))
        .arg(source)
        .output()
        .expect("c++ is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
