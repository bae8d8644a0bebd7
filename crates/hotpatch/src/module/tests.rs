//! Real drivers, loaded; their state carried; structures that lie.

use std::ffi::c_int;

use testkit::drivers;

use super::*;
use crate::{
    Args, Code, Gate, Services, Slot,
    testing::{bytes_with, load_with, object_with},
};

/// A host that does nothing.
struct Nothing;

impl Services for Nothing {
    fn watch(&self, _handle: u64, _fd: c_int, _events: u32) -> i64 {
        0
    }
    fn notify(&self, _handle: u64) {}
    fn log(&self, _level: c_int, _text: &str) {}
}

fn host() -> &'static Host {
    crate::host(&Nothing)
}

fn load(options: &[&str]) -> Module {
    load_with("", options)
}

/// A driver of its own, with members that override good ones.
fn with_members(members: &str) -> Result<Module, Refusal> {
    let source = format!(
        "#include \"vestal_driver.h\"
        static long gives(void *to, size_t cap)
        {{ if (cap >= 8) for (int i = 0; i < 8; i++) ((char *)to)[i] = 0; return 8; }}
        static long grows(void *to, size_t cap) {{ (void)to; return (long)cap + 1; }}
        static long fails(void *to, size_t cap) {{ (void)to; (void)cap; return -5; }}
        static long empty(void *to, size_t cap) {{ (void)to; (void)cap; return 0; }}
        static long huge(void *to, size_t cap) {{ (void)to; (void)cap; return (1L << 20) + 1; }}
        static long rubbish(void *to, size_t cap)
        {{ if (cap >= 9) for (int i = 0; i < 9; i++) ((char *)to)[i] = 0; return 9; }}
        static long takes(const struct vestal_host *host, const void *from, size_t length)
        {{ (void)host; (void)from; return (long)length; }}
        static const struct vestal_ops good_ops;
        static void *const bad_ops[64] = {{ 0, 0, (void *)bad_ops }};
        static const char *const some_names[2] = {{ \"one\", (const char *)8 }};
        static const struct vestal_field some_fields[2] = {{ {{1, 1, 0, \"calls\"}}, {{2, 1, 0, 0}} }};
        static const char endless[80] = {{ [0 ... 79] = 'x' }};
        extern char **environ;
        struct vestal_driver shown __asm__(\"vestal_driver_v1\") = {{
        .size = sizeof shown, .abi_major = 1, .name = \"small\", .version = \"1\", .ops = &good_ops,
        .ops_len = 7, .export_state = gives, .import_state = takes, {members} }};"
    );
    let bytes = bytes_with(&source, &["-Dvestal_driver_v1=inner", "-w"]);
    let object = Sealed::new("lies", &bytes).unwrap();
    let image = Image::check(object.bytes())?;
    Module::load(&object, &image)
}

#[test]
fn a_driver_says_who_it_is() {
    let module = load(&[&drivers::version("3.1")]);
    assert_eq!((module.name(), module.version(), module.layout()), ("counter", "3.1", 1));
    assert_eq!(module.operations(), OPS + 2);
    assert_eq!(module.own_names(), ["reset", "peek"]);
    assert!(module.fields().iter().any(|(_, _, name)| name == "calls"), "{:?}", module.fields());
    let write = module.functions().iter().find(|function| function.operation == Some(Op::Write));
    let write = write.expect("the symbol table names the operation");
    assert!(module.range().contains(&write.address));
    assert_eq!(module.self_test(), 0);
}

#[test]
fn state_goes_from_one_version_to_the_next_and_back() {
    let (old, new) = (load(&[]), load(&["-DLAYOUT=2"]));
    assert!(old.import(host(), &[]) >= 0);
    let gate = Gate::new(1).unwrap();
    let mut caller = gate.register().unwrap();
    let slot = Slot::new(&gate, old.table());
    assert_eq!(slot.call(&mut caller, 7, Args::Open { flags: 0 }), 0);
    assert_eq!(slot.call(&mut caller, 7, Args::Write(b"hello")), 5);
    let before = old.export().unwrap();
    assert_eq!(State::parse(&before).unwrap().layout, 1);
    assert!(new.import(host(), &before) >= 0);
    assert_eq!(State::parse(&new.export().unwrap()).unwrap().layout, 2);
    assert_eq!(new.downgrade(1).unwrap(), before);
    assert_eq!(new.downgrade(2).unwrap(), new.export().unwrap());
    assert_eq!(new.downgrade(9).unwrap_err().code, Code::BadDriver);
    assert!(old.import(host(), b"no state") < 0);
}

#[test]
fn each_load_is_another_instance_even_of_the_same_object() {
    let (object, image) = object_with("", &[]);
    let (first, second) =
        (Module::load(&object, &image).unwrap(), Module::load(&object, &image).unwrap());
    assert_ne!(first.range(), second.range());
    let gate = Gate::new(1).unwrap();
    let mut caller = gate.register().unwrap();
    assert!(first.import(host(), &[]) >= 0 && second.import(host(), &[]) >= 0);
    Slot::new(&gate, first.table()).call(&mut caller, 1, Args::Open { flags: 0 });
    assert_ne!(first.export().unwrap(), second.export().unwrap());
    // The numbers of descriptors come back; an object must not.
    for _ in 0..40 {
        let module = Module::load(&object, &image).unwrap();
        assert!(module.import(host(), &[]) >= 0);
        assert_ne!(first.export().unwrap(), module.export().unwrap());
    }
}

#[test]
fn what_the_linker_refuses_is_told_in_its_words() {
    let source = "extern int nowhere(void); int ask(void); int ask(void) { return nowhere(); }";
    let (object, image) = object_with(source, &[]);
    let refusal = Module::load(&object, &image).err().expect("a symbol is missing");
    assert_eq!(refusal.code, Code::Load);
    assert!(refusal.text.contains("nowhere") && !refusal.text.contains("/proc"), "{refusal}");
}

#[test]
fn each_member_that_lies_is_refused() {
    assert_eq!(with_members("").unwrap().name(), "small");
    for (members, code) in [
        (".abi_major = 2", Code::Abi),
        (".size = 8", Code::Layout),
        (".size = sizeof shown + 8", Code::Layout),
        (".ops_len = 6", Code::Layout),
        (".ops_len = 65", Code::Layout),
        (".ops = 0", Code::BadDriver),
        (".ops = (void *)((char *)&shown + 4)", Code::BadDriver),
        (".ops = (void *)bad_ops", Code::BadDriver),
        (".ops = (void *)&environ", Code::BadDriver),
        (".name = 0", Code::BadDriver),
        (".name = \"\"", Code::BadDriver),
        (".name = \"../up\"", Code::BadDriver),
        (".version = endless", Code::BadDriver),
        (".version = \"\\x1b[2J\"", Code::BadDriver),
        (".version = (const char *)&environ", Code::BadDriver),
        (".export_state = 0", Code::BadDriver),
        (".import_state = 0", Code::BadDriver),
        (".self_test = (void *)&shown", Code::BadDriver),
        (".downgrade_state = (void *)&environ", Code::BadDriver),
        (".fields = some_fields, .fields_len = 2", Code::BadDriver),
        (".fields = some_fields, .fields_len = 5000", Code::Layout),
        (".fields = some_fields, .fields_len = 4096", Code::BadDriver),
        (".own_names = some_names, .own_names_len = 1", Code::Layout),
        (
            ".ops = (void *)&bad_ops[4], .ops_len = 9, .own_names = some_names, .own_names_len = 2",
            Code::BadDriver,
        ),
    ] {
        let refusal = with_members(members).err().unwrap_or_else(|| panic!("{members}: taken"));
        assert_eq!(refusal.code, code, "{members}: {refusal}");
    }
    let tolerant = ".abi_minor = 7, .fields = some_fields, .fields_len = 1, .ops = (void *)&bad_ops[4], .ops_len = 8, \
                    .own_names = some_names, .own_names_len = 1";
    assert_eq!(with_members(tolerant).unwrap().own_names(), ["one"]);
}

#[test]
fn what_a_driver_exports_is_looked_at() {
    assert_eq!(with_members("").unwrap().export().unwrap(), [0; 8]);
    for export in ["grows", "fails", "empty", "huge", "rubbish"] {
        let module = with_members(&format!(".export_state = {export}")).unwrap();
        assert_eq!(module.export().unwrap_err().code, Code::BadDriver, "{export}");
    }
    let other_layout = with_members(".state_layout = 3").unwrap();
    assert_eq!(other_layout.export().unwrap_err().code, Code::BadDriver);
    assert_eq!(other_layout.downgrade(2).unwrap_err().code, Code::BadDriver);
}
