//! Who may change what a driver runs, and what is written down of everybody who tries.

use std::process::Output;

use super::*;
use crate::support::printed;

const NOBODY: u32 = 65534;

/// Lines of the audit that name this.
fn lines(bench: &Bench, word: &str) -> Vec<String> {
    let is_one = |line: &String| line.contains("audit: ") && line.contains(word);
    printed(&bench.device, "driver").into_iter().filter(is_one).collect()
}

/// Waits for such a line.
#[track_caller]
fn until_audited(bench: &Bench, words: &[&str]) -> String {
    until(&format!("the audit says {words:?}"), || {
        let all = lines(bench, words[0]);
        all.into_iter().find(|line| words.iter().all(|word| line.contains(word)))
    })
}

/// `vestalctl call driver METHOD` by somebody else; the last words of a command before it say who.
fn call_as(bench: &Bench, who: &[String], method: &str) -> Option<Output> {
    let mut command = bench.device.in_environment("setpriv");
    command.args(who).arg(testkit::binary("vestalctl"));
    command.args(["call", "driver", method, r#"{"name":"counter"}"#]);
    match command.output() {
        Ok(output) => Some(output),
        Err(error) => {
            eprintln!("setpriv can't be run ({error}), and nobody else can be played");
            None
        }
    }
}

#[test]
fn root_without_cap_sys_admin_and_others_are_refused_and_audited() {
    let test = "root_without_cap_sys_admin_and_others_are_refused";
    if !crate::support::is_root(test) || !may_upgrade(test) {
        return;
    }
    let bench = Bench::start(CALM);
    let confined = ["--bounding-set=-sys_admin", "--inh-caps=-sys_admin"].map(str::to_owned);
    for method in ["rollback", "unload", "load"] {
        let Some(output) = call_as(&bench, &confined, method) else { return };
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && told.contains("CAP_SYS_ADMIN"), "{method}: {told}");
        let line = until_audited(&bench, &["audit: refused", method, "privilege"]);
        assert!(line.contains("uid=0") && line.contains("counter"), "{line}");
    }
    let other = [format!("--reuid={NOBODY}"), "--clear-groups".to_owned()];
    let Some(output) = call_as(&bench, &other, "unload") else { return };
    assert!(!output.status.success(), "{output:?}");
    // The endpoint's own rules stand before the manager's.
    let line = until_audited(&bench, &["audit: ", &format!("uid={NOBODY}")]);
    assert!(line.contains("unload"), "{line}");
    assert_eq!(bench.until_serving().version.version, "1");
}

#[test]
fn every_attempt_is_one_line_with_who_what_and_the_verdict() {
    if !may_upgrade("every_attempt_is_one_line") {
        return;
    }
    let bench = Bench::start(CALM);
    let object = bench.object("2", &[]);
    let hash = hash_of(&object);
    bench.upgrade(&object, "2");
    bench.settled();
    let own = std::process::id();
    let line = until_audited(&bench, &["audit: allowed", &hash]);
    for part in [&format!("pid={own}"), "upgrade", "counter", "2 ("] {
        assert!(line.contains(part), "{part}: {line}");
    }
    let _: Failure = bench.refused(b"no object", "3");
    let refused = hash_of(b"no object");
    let line = until_audited(&bench, &["audit: refused", &refused]);
    assert!(line.contains("not-elf") || line.contains("too-small"), "{line}");
    assert_eq!((lines(&bench, &hash).len(), lines(&bench, &refused).len()), (1, 1));
}

#[test]
fn without_root_the_owner_of_the_run_directory_is_obeyed_and_nobody_else() {
    if !crate::support::is_root("without_root_the_owner_of_the_run_directory") {
        return;
    }
    let device = Device::of_user(NOBODY);
    fs::set_permissions(device.folder(), fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["registry", "driver"] {
        fs::remove_file(device.folder().join(format!("etc/services.d/{name}.toml"))).unwrap();
    }
    fs::write(device.folder().join("etc/driver.toml"), "").unwrap();
    let mut device = device;
    device.start();
    device.until_state("driver", "ready");
    let manager = Client::new(device.run_dir().join("driver.sock"), Options::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let args = serde_json::json!({ "name": "counter" });
    let call = manager.call("driver", "unload", &args, CallOptions::default());
    let refused = failure(runtime.block_on(call));
    assert_eq!(refused.code, protocol::failure::Code::Denied, "root is nobody here: {refused}");
    let reply = device.ctl(&["call", "driver", "unload", r#"{"name":"counter"}"#]);
    assert!(reply.stderr.contains("no driver"), "{reply:?}");
}
