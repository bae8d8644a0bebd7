//! The committed header is what the Rust source says.

use std::{env, fs, path::Path};

#[test]
fn the_header_is_what_the_source_declares() {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(crate_folder.join("cbindgen.toml")).unwrap();
    let bindings = cbindgen::Builder::new()
        .with_src(crate_folder.join("src/c_interface.rs"))
        .with_config(config)
        .generate()
        .unwrap();
    let mut written = Vec::new();
    bindings.write(&mut written);
    let written = String::from_utf8(written).unwrap();
    let path = crate_folder.join("include/vestal_driver_client.h");
    if env::var_os("UPDATE_HEADER").is_some() {
        fs::write(&path, &written).unwrap();
    }
    assert!(
        fs::read_to_string(&path).unwrap_or_default() == written,
        "{} is out of date: run `UPDATE_HEADER=1 cargo test -p driver-client header`",
        path.display()
    );
}
