//! Writing code where the system forbids part of it.

use std::{io, process::Command, time::Duration};

use super::*;
use crate::{
    Gate, Module, Probe, Redirect, Ring,
    testing::{function, load_with},
};

const SOURCE: &str = "
    __attribute__((noinline, noclone)) long number(void);
    long number(void) { return NUMBER; }
";

#[expect(unsafe_code, reason = "calls code that was changed")]
fn call(function: &crate::Function) -> i64 {
    let address: *const () = std::ptr::with_exposed_provenance(function.address);
    // SAFETY: the source above has such a function, and its module is loaded.
    unsafe { std::mem::transmute::<*const (), extern "C" fn() -> i64>(address)() }
}

fn versions() -> [Module; 2] {
    ["-DNUMBER=1", "-DNUMBER=2"].map(|number| load_with(SOURCE, &[number]))
}

/// Replaces, probes and undoes; answers what it saw, or the first refusal.
fn change_code([old, new]: &[Module; 2]) -> Result<(i64, i64, usize, i64), Refusal> {
    let number = function(old, "number");
    let gate = Gate::new(1).unwrap();
    let closed = || gate.close(Duration::from_secs(10)).unwrap();
    let to = std::ptr::with_exposed_provenance(function(new, "number").address);
    let mut redirect = Redirect::new(&number, to)?;
    let before = call(&number);
    redirect.apply(&closed())?;
    let ring = Ring::new(8);
    let mut probe = Probe::new(&number, ring.clone())?;
    probe.apply(&closed())?;
    let between = call(&number);
    probe.undo(&closed())?;
    redirect.undo(&closed())?;
    let mut hits = Vec::new();
    ring.take(&mut hits);
    Ok((before, between, hits.len(), call(&number)))
}

/// Whether this is a process for this test alone. If not, the test has been run in such a one, and passed.
fn alone(name: &str) -> bool {
    const VARIABLE: &str = "HOTPATCH_TEST_ALONE";
    if std::env::var_os(VARIABLE).is_some() {
        return true;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(VARIABLE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let failed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{failed}");
    false
}

#[test]
fn code_is_written_where_no_memory_may_be_written_and_run() {
    const PR_GET_MDWE: libc::c_int = 66;
    #[expect(unsafe_code, reason = "asks the kernel whether it has a rule")]
    // SAFETY: it takes numbers only.
    if unsafe { libc::prctl(PR_GET_MDWE, 0, 0, 0, 0) } < 0 {
        eprintln!("skipped: no PR_SET_MDWE here: {}", io::Error::last_os_error());
        return;
    }
    if !alone("text::tests::code_is_written_where_no_memory_may_be_written_and_run") {
        return;
    }
    const PR_SET_MDWE: libc::c_int = 65;
    const REFUSE_EXEC_GAIN: libc::c_ulong = 1;
    #[expect(unsafe_code, reason = "asks the kernel for a rule")]
    // SAFETY: it takes numbers only.
    let set = unsafe { libc::prctl(PR_SET_MDWE, REFUSE_EXEC_GAIN, 0, 0, 0) };
    assert_eq!(set, 0, "{}", io::Error::last_os_error());
    #[expect(unsafe_code, reason = "tries what the rule forbids")]
    // SAFETY: a new page at an address of the kernel's choice.
    let forbidden = unsafe {
        let all = ProtFlags::READ | ProtFlags::WRITE | ProtFlags::EXEC;
        mmap_anonymous(std::ptr::null_mut(), 4096, all, MapFlags::PRIVATE)
    };
    assert!(forbidden.is_err(), "the rule holds");
    assert_eq!(code_writable(), Writable::ProcMem);
    assert_eq!(change_code(&versions()).unwrap(), (1, 2, 1, 1));
}

/// From now on pwrite(2) of this thread answers EIO, as `/proc/PID/mem` does where proc_mem.force_override is `never`. False where
/// there is no seccomp.
#[expect(unsafe_code, reason = "gives the kernel a filter")]
fn block_pwrite() -> bool {
    const ALLOW: u32 = 0x7fff_0000;
    const ERRNO: u32 = 0x0005_0000;
    let statement =
        |code: u32, jt, jf, k| libc::sock_filter { code: u16::try_from(code).unwrap(), jt, jf, k };
    let pwrite = u32::try_from(libc::SYS_pwrite64).unwrap();
    let mut filter = [
        // The number of the call is the first word of what a filter looks at.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, pwrite),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, ERRNO | libc::EIO.cast_unsigned()),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, ALLOW),
    ];
    let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
    // SAFETY: the program leads to four statements.
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    }
}

#[test]
fn code_that_cannot_be_written_is_refused_as_blocked_and_stays() {
    let versions = versions();
    // The filter is this thread's, which ends with the test.
    if !block_pwrite() {
        eprintln!("skipped: no seccomp here: {}", io::Error::last_os_error());
        return;
    }
    assert!(matches!(code_writable(), Writable::Blocked(_)));
    let refusal = change_code(&versions).unwrap_err();
    assert_eq!(refusal.code, Code::Blocked, "{refusal}");
    let number = function(&versions[0], "number");
    let gate = Gate::new(1).unwrap();
    let mut probe = Probe::new(&number, Ring::new(8)).unwrap();
    let refusal = probe.apply(&gate.close(Duration::from_secs(10)).unwrap()).unwrap_err();
    assert_eq!((refusal.code, probe.is_applied(), call(&number)), (Code::Blocked, false, 1));
}
