//! The executor: applies what the sealed plan says (user, limits, capabilities, read-only paths), then becomes the
//! service. It never forks and never goes on after a failure: what could not be applied is told through the error pipe.
//!
//! `vestal-exec PLANFD ERRORFD`, started by the keeper only. Standard descriptors, sockets and the lock are in place.

#[expect(unsafe_code, reason = "the system calls that no safe wrapper has")]
mod sys;

use std::{
    ffi::CStr,
    fs::File,
    io::{self, Write as _},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd, RawFd},
    process::ExitCode,
};

use protocol::keeper::{
    Stage,
    plan::{ExecSettings, PLAN_SIZE_MAX, PlanView, write_listen_pid},
};

/// Exit code where the program could not be started, as a shell's.
const NOT_STARTED: u8 = 127;
const WRONG_USAGE: u8 = 2;

/// What failed, with the errno.
type Failure = (Stage, i32);

/// Becomes the service that the plan describes; returns only after a failure.
pub fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|arg| arg.parse::<RawFd>().ok());
    let (Some(Some(plan)), Some(Some(errors)), None) =
        (numbers.next(), numbers.next(), numbers.next())
    else {
        eprintln!("vestal-exec: usage: vestal-exec PLANFD ERRORFD; only the keeper starts it");
        return ExitCode::from(WRONG_USAGE);
    };
    let (Some(plan), Some(errors)) = (sys::own(plan), sys::own(errors)) else {
        eprintln!("vestal-exec: the two arguments must be different open descriptors above 2");
        return ExitCode::from(WRONG_USAGE);
    };
    let (stage, errno) = run(plan, errors.as_fd());
    let [a, b, c, d] = errno.to_le_bytes();
    // If the keeper is gone, the exit code is all there is to say.
    let _ = File::from(errors).write(&[stage.number(), 0, 0, 0, a, b, c, d]);
    ExitCode::from(NOT_STARTED)
}

/// Returns only when something failed.
fn run(plan: OwnedFd, errors: BorrowedFd<'_>) -> Failure {
    match prepare(plan, errors) {
        Ok(bytes) => match PlanView::check(&bytes) {
            Ok(view) => exec(view),
            Err(_) => (Stage::Plan, libc::EINVAL),
        },
        Err(failure) => failure,
    }
}

fn prepare(plan: OwnedFd, errors: BorrowedFd<'_>) -> Result<Vec<u8>, Failure> {
    let flags = rustix::io::FdFlags::CLOEXEC;
    rustix::io::fcntl_setfd(errors, flags).map_err(|it| (Stage::Settings, it.raw_os_error()))?;
    let mut bytes = read_plan(plan).map_err(at(Stage::Plan))?;
    let view = PlanView::check(&bytes).map_err(|_| (Stage::Plan, libc::EINVAL))?;
    let settings = view.settings().map_err(|error| {
        eprintln!("vestal-exec: {error}");
        (Stage::Settings, libc::EINVAL)
    })?;
    apply(&settings)?;
    sys::change_directory(view.directory()).map_err(at(Stage::Directory))?;
    if let Some(place) = view.listen_pid() {
        write_listen_pid(&mut bytes, place, std::process::id());
    }
    Ok(bytes)
}

/// The plan's descriptor is shared with nobody's position, but a keeper's earlier reader may have moved it.
fn read_plan(plan: OwnedFd) -> io::Result<Vec<u8>> {
    use std::os::unix::fs::FileExt as _;
    let file = File::from(plan);
    let size = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    if size > PLAN_SIZE_MAX {
        return Err(io::Error::from_raw_os_error(libc::E2BIG));
    }
    let mut bytes = vec![0; size];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// In this order: what needs privileges first, the user after that, and last what the user's program is left with.
fn apply(settings: &ExecSettings) -> Result<(), Failure> {
    if let Some(nice) = settings.nice {
        sys::set_nice(nice).map_err(at(Stage::Limits))?;
    }
    if let Some(score) = settings.oom_score_adj {
        set_oom_score(score).map_err(at(Stage::Limits))?;
    }
    for (resource, soft, hard) in &settings.limits {
        sys::set_limit(*resource, *soft, *hard).map_err(at(Stage::Limits))?;
    }
    if !settings.read_only_paths.is_empty() {
        sys::make_read_only(&settings.read_only_paths).map_err(at(Stage::Namespaces))?;
    }
    let capabilities = settings.capabilities;
    if let Some(kept) = capabilities {
        sys::limit_bounding_set(kept).map_err(at(Stage::Capabilities))?;
    }
    set_user(settings)?;
    if let Some(kept) = capabilities {
        let ambient = settings.uid.is_some_and(|uid| uid != 0);
        sys::set_capabilities(kept, ambient).map_err(at(Stage::Capabilities))?;
    }
    if settings.no_new_privileges {
        sys::forbid_new_privileges().map_err(at(Stage::Capabilities))?;
    }
    if let Some(umask) = settings.umask {
        sys::set_umask(umask);
    }
    Ok(())
}

fn set_user(settings: &ExecSettings) -> Result<(), Failure> {
    if let Some(groups) = &settings.groups {
        sys::set_groups(groups).map_err(at(Stage::User))?;
    }
    if let Some(gid) = settings.gid {
        sys::set_gid(gid).map_err(at(Stage::User))?;
    }
    if let Some(uid) = settings.uid {
        if settings.capabilities.is_some() && uid != 0 {
            sys::keep_capabilities_over_setuid().map_err(at(Stage::Capabilities))?;
        }
        sys::set_uid(uid).map_err(at(Stage::User))?;
    }
    Ok(())
}

/// Lowering one's own badness needs a privilege that containers often lack: told, not fatal.
fn set_oom_score(score: i32) -> io::Result<()> {
    match std::fs::write("/proc/self/oom_score_adj", score.to_string()) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES)) => {
            eprintln!("vestal-exec: oom_score_adj {score}: {error}; going on without");
            Ok(())
        }
        done => done,
    }
}

fn exec(view: PlanView<'_>) -> Failure {
    sys::restore_broken_pipe_signal();
    let argv: Vec<&CStr> = view.argv().collect();
    let env: Vec<&CStr> = view.env().collect();
    let mut errno = libc::ENOENT;
    for program in view.programs() {
        errno = sys::exec(program, &argv, &env);
        if !matches!(errno, libc::ENOENT | libc::ENOTDIR) {
            break;
        }
    }
    (Stage::Exec, errno)
}

fn at(stage: Stage) -> impl Fn(io::Error) -> Failure {
    move |error| (stage, error.raw_os_error().unwrap_or(libc::EIO))
}
