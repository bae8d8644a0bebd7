//! `vestal_driver.h` and the Rust structures are the same: a C compiler is told the numbers of one and asserts them of the other.

use std::{
    fmt::Write as _,
    mem::{align_of, offset_of, size_of},
    path::Path,
    process::Command,
};

use driver_abi::{
    ABI_MAJOR, ABI_MINOR, Driver, Field, Host, OPS, Op, Ops, Own, REOPEN, RESTART, SYMBOL, events,
    kind,
};

/// Compiles a text as C (or C++) that includes the header.
fn compile(compiler: &str, language: &str, text: &str) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join(format!("header.{language}"));
    std::fs::write(&source, format!("#include \"vestal_driver.h\"\n{text}")).unwrap();
    let output = Command::new(compiler)
        .args(["-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("include"))
        .arg(&source)
        .output()
        .unwrap_or_else(|error| panic!("run {compiler}: {error}"));
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// One assertion a member: its place and its size.
macro_rules! members {
    ($out:ident, $rust:ty, $c:literal: $($member:ident),* $(,)?) => {
        $(
            let size = size_of_member(|whole: &$rust| size_of_val(&whole.$member));
            let offset = offset_of!($rust, $member);
            let member = stringify!($member);
            let c = $c;
            writeln!($out, "_Static_assert(offsetof({c}, {member}) == {offset}, \"offset of {c}.{member}\");").unwrap();
            writeln!($out, "_Static_assert(sizeof((({c} *)0)->{member}) == {size}, \"size of {c}.{member}\");").unwrap();
        )*
        // A member that Rust does not name would make the structure larger.
        writeln!($out, "_Static_assert(sizeof({}) == {}, \"size of {}\");", $c, size_of::<$rust>(), $c).unwrap();
        writeln!($out, "_Static_assert(_Alignof({}) == {}, \"alignment of {}\");", $c, align_of::<$rust>(), $c).unwrap();
    };
}

/// The size of a member, without a value of the structure.
fn size_of_member<T>(measure: impl Fn(&T) -> usize) -> usize
where
    T: Zeroed,
{
    measure(&T::zeroed())
}

/// A value whose members only their sizes are asked of.
trait Zeroed {
    fn zeroed() -> Self;
}

extern "C" fn wait(_: i32, _: u32, _: i32) -> std::ffi::c_long {
    0
}
extern "C" fn watch(_: u64, _: i32, _: u32) -> std::ffi::c_long {
    0
}
extern "C" fn notify(_: u64) {}
extern "C" fn log(_: i32, _: driver_abi::Text) {}

impl Zeroed for Host {
    fn zeroed() -> Self {
        Self { size: 0, abi_major: 0, abi_minor: 0, zero: 0, wait, watch, notify, log }
    }
}

impl Zeroed for Ops {
    fn zeroed() -> Self {
        Self {
            open: None,
            close: None,
            read: None,
            write: None,
            ioctl: None,
            poll: None,
            interrupt: None,
        }
    }
}

impl Zeroed for Field {
    fn zeroed() -> Self {
        Self { id: 0, kind: 0, zero: 0, name: std::ptr::null() }
    }
}

impl Zeroed for Driver {
    fn zeroed() -> Self {
        Self {
            size: 0,
            abi_major: 0,
            abi_minor: 0,
            state_layout: 0,
            name: std::ptr::null(),
            version: std::ptr::null(),
            ops: std::ptr::null(),
            ops_len: 0,
            zero: 0,
            export_state: None,
            import_state: None,
            downgrade_state: None,
            self_test: None,
            fields: std::ptr::null(),
            fields_len: 0,
            own_names_len: 0,
            own_names: std::ptr::null(),
        }
    }
}

fn structures() -> String {
    let mut out = String::new();
    members!(out, Host, "struct vestal_host":
        size, abi_major, abi_minor, zero, wait, watch, notify, log);
    members!(out, Ops, "struct vestal_ops": open, close, read, write, ioctl, poll, interrupt);
    members!(out, Field, "struct vestal_field": id, kind, zero, name);
    members!(out, Driver, "struct vestal_driver":
        size, abi_major, abi_minor, state_layout, name, version, ops, ops_len, zero, export_state,
        import_state, downgrade_state, self_test, fields, fields_len, own_names_len, own_names);
    out
}

#[test]
fn structures_have_the_same_sizes_and_offsets() {
    compile("cc", "c", &structures()).unwrap();
}

#[test]
fn another_offset_would_be_seen() {
    let text = structures();
    let shifted = text.replacen("ops_len) == ", "ops_len) == 1", 1);
    assert_ne!(text, shifted);
    let refused = compile("cc", "c", &shifted).unwrap_err();
    assert!(refused.contains("offset of struct vestal_driver.ops_len"), "{refused}");
}

#[test]
fn numbers_are_the_same() {
    let own = Op::Own(0).index();
    let numbers = [
        ("VESTAL_ABI_MAJOR", i64::from(ABI_MAJOR)),
        ("VESTAL_ABI_MINOR", i64::from(ABI_MINOR)),
        ("VESTAL_RESTART", RESTART),
        ("VESTAL_REOPEN", i64::from(REOPEN)),
        ("VESTAL_IN", i64::from(events::IN)),
        ("VESTAL_OUT", i64::from(events::OUT)),
        ("VESTAL_ERR", i64::from(events::ERR)),
        ("VESTAL_HUP", i64::from(events::HUP)),
        ("VESTAL_BYTES", i64::from(kind::BYTES)),
        ("VESTAL_UNSIGNED", i64::from(kind::UNSIGNED)),
        ("VESTAL_SIGNED", i64::from(kind::SIGNED)),
        ("VESTAL_TEXT", i64::from(kind::TEXT)),
    ];
    let mut text = String::new();
    for (name, number) in numbers {
        writeln!(text, "_Static_assert({name} == {number}, \"{name}\");").unwrap();
    }
    writeln!(text, "_Static_assert(offsetof(struct vestal_ops, own) / sizeof(void *) == {OPS} && {own} == {OPS}, \"own\");").unwrap();
    writeln!(text, "_Static_assert(sizeof(vestal_own) == {}, \"own\");", size_of::<Own>()).unwrap();
    compile("cc", "c", &text).unwrap();
}

#[test]
fn functions_take_and_answer_the_same() {
    // The C side of each type as raw.rs writes it; a driver or host that assigns them compiles without a warning.
    let text = format!(
        "long wait(int, uint32_t, int); long watch(uint64_t, int, uint32_t); void notify(uint64_t); void logs(int, const char *);
         const struct vestal_host host = {{ 0, 0, 0, 0, wait, watch, notify, logs }};
         long open(uint64_t, uint32_t); long close(uint64_t); long read(uint64_t, void *, size_t);
         long write(uint64_t, const void *, size_t); long ioctl(uint64_t, uint32_t, void *, size_t, size_t);
         long poll(uint64_t, uint32_t); long interrupt(uint64_t); long own(uint64_t, void *, size_t, size_t);
         const struct vestal_ops ops = {{ open, close, read, write, ioctl, poll, interrupt, {{ own }} }};
         const struct vestal_driver *the_symbol(void) {{ return &{SYMBOL}; }}"
    );
    compile("cc", "c", &text).unwrap();
}

#[test]
fn the_header_suits_a_cpp_compiler_too() {
    compile(
        "c++",
        "cpp",
        "long version() { return (long)vestal_driver_v1.size + VESTAL_RESTART; }\n",
    )
    .unwrap();
}
