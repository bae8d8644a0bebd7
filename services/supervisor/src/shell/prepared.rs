//! What one slot has, as long as its instance is defined.

use std::{process::Stdio, sync::Arc};

use protocol::{keeper::Disposition, name::Name};
use rustix::{
    process::{Gid, Uid},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};
use tokio::process::Command;

use super::{logs::Drain, notify::Listener, probe::Probe, special_files::write_anew};
use crate::{
    machine::Seat,
    settings::{Instance, ReadinessKind, Reload, Service, Socket, User},
};

/// What one slot has.
pub(crate) struct Prepared {
    pub(crate) service: Arc<Service>,
    pub(crate) instance: Name,
    pub(crate) probe: Option<Probe>,
    /// As the process gets it, where the definition has commands of its own; else empty, to save the memory.
    pub(super) environment: Vec<(String, String)>,
    pub(super) disposition: Disposition,
    pub(super) seat: Seat,
    pub(super) drain: Option<Drain>,
    pub(super) notify: Option<Listener>,
    pub(super) newline: Option<Listener>,
    /// Names of the deposited sockets that belong to the definition, in the order of their descriptors.
    pub(super) sockets: Vec<(String, Socket)>,
    /// Names of what the service stored (FDSTORE), with the name it gave.
    pub(super) stored: Vec<(String, String)>,
    /// The broker's port that the plan names.
    pub(super) broker_port: Option<u16>,
    /// The generation whose key lies in the keeper.
    pub(super) key_of: Option<u32>,
}

impl Prepared {
    /// The settings that this slot was prepared for.
    pub(crate) fn settings(&self) -> &Instance {
        &self.service.instances[&self.instance]
    }

    /// Whether something of the definition runs beside the process: a probe or a reload command.
    pub(super) fn has_commands(&self) -> bool {
        let Instance { process, policy, .. } = self.settings();
        matches!(process.readiness.kind, ReadinessKind::Command(_))
            || matches!(policy.reload, Reload::Command(_))
    }

    /// A command of the definition, as the instance's user and in its surroundings: nothing of it is run with more rights than
    /// the service has, whose files may decide what it does.
    pub(crate) fn command(&self, command: &[String]) -> Command {
        let process = &self.settings().process;
        let mut child = Command::new(command.first().map_or("", String::as_str));
        child
            .args(command.iter().skip(1))
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(&process.directory)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        match &process.user {
            Some(user) if rustix::process::geteuid().is_root() => become_user(&mut child, user),
            Some(user) => {
                child.uid(user.uid).gid(user.gid);
            }
            None => {}
        }
        child
    }

    /// procd's `pidfile`; a service that only wants to be supervised isn't stopped because the file can't be written.
    pub(crate) fn write_pidfile(&self, pid: i32) {
        if let Some(path) = &self.settings().process.pidfile
            && let Err(error) = write_anew(path, &format!("{pid}\n"))
        {
            tracing::warn!("service {}: pid file {}: {error}", self.service.name, path.display());
        }
    }

    /// The process has ended: keeps the last of what it printed.
    pub(crate) fn flush_log(&self) {
        if let Some(drain) = &self.drain {
            drain.flush();
        }
    }
}

/// The standard library's own way leaves out the supplementary groups.
#[expect(unsafe_code, reason = "nothing safe runs between fork and exec")]
fn become_user(child: &mut Command, user: &User) {
    let groups: Vec<Gid> = user.groups.iter().map(|group| Gid::from_raw(*group)).collect();
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    let change = move || {
        set_thread_groups(&groups)?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
        Ok(())
    };
    // SAFETY: three system calls; nothing is allocated, no lock is taken. The child has one thread, so that these change
    // the whole process.
    unsafe { child.pre_exec(change) };
}
