//! A service's configuration is looked at before anything is run because it changed, and before a reload by hand. What is not
//! valid reloads nothing; it is told, and shown until it is good again.

use std::collections::BTreeSet;

use protocol::{
    config,
    failure::{Code, Failure},
    name::Name,
    time::Moment,
};
use serde_json::json;

use super::super::{Action, Happening, Supervisor};

/// A caller who wants a service reloaded, while its configuration is being looked at.
#[derive(Debug)]
pub(crate) struct Reloading {
    pub(crate) id: u64,
    pub(crate) name: Name,
    pub(crate) instance: Option<Name>,
    pub(crate) wait: bool,
}

impl Supervisor {
    /// Somebody wants a service reloaded. `None`: when its configuration was looked at; otherwise there is nothing to look at.
    pub(crate) fn validate_first(&mut self, reloading: Reloading) -> Option<Reloading> {
        let Some(entry) = self.services.get(&reloading.name) else { return Some(reloading) };
        let service = entry.service.clone();
        let packages: BTreeSet<String> =
            service.rules().map(|rules| rules.package.clone()).collect();
        if packages.is_empty() {
            return Some(reloading);
        }
        self.scripts.runs += 1;
        let run = self.scripts.runs;
        self.scripts.reloading.insert(run, reloading);
        self.actions.push_back(Action::Validate { run, service, packages });
        None
    }

    /// The configuration of a service that is to be reloaded was looked at.
    fn reload_validated(
        &mut self,
        reloading: &Reloading,
        found: Vec<config::Invalid>,
        now: Moment,
    ) {
        let Reloading { id, name, instance, wait } = reloading;
        let outcome = match found.first() {
            _ if self.shutdown.is_some() => {
                Err(Failure::new(Code::Cancelled, "everything is being stopped"))
            }
            None => self.reload(name, instance.as_ref(), *wait, now),
            Some(config::Invalid { file, section, option, rule, value, text, .. }) => {
                let value = value.as_deref().unwrap_or_default();
                let text = match option.is_empty() {
                    true => format!("{file}: {text}"),
                    false => format!(
                        "{file}: {section}.{option}: {value:?} is not allowed by {rule}; allowed is {text}"
                    ),
                };
                let text =
                    format!("{name} is not reloaded, its configuration is not valid: {text}");
                Err(Failure::new(Code::Failed, text))
            }
        };
        let queue = self.scripts.queues.entry(name.clone()).or_default();
        queue.invalid.clone_from(&found);
        self.job_touched(name);
        self.publish_invalid(found);
        self.conclude_request(*id, outcome, now);
    }

    fn publish_invalid(&mut self, found: Vec<config::Invalid>) {
        for invalid in found {
            let data = json!(invalid);
            self.actions.push_back(Action::Publish(Happening { topic: config::INVALID, data }));
        }
    }

    /// The shell has looked at the packages whose change a job is about.
    pub(crate) fn validated(&mut self, run: u64, found: Vec<config::Invalid>, now: Moment) {
        let ending = self.shutdown.is_some();
        if let Some(reloading) = self.scripts.reloading.remove(&run) {
            return self.reload_validated(&reloading, found, now);
        }
        let mut queues = self.scripts.queues.iter_mut();
        let found_job =
            queues.find_map(|(name, queue)| Some((name.clone(), queue.job(run)?.clone())));
        // Wanted again meanwhile, or its service is gone: there will be another answer, or none is needed.
        let Some((name, job)) = found_job.filter(|_| !ending) else { return };
        let Some(queue) = self.scripts.queues.get_mut(&name) else { return };
        queue.invalid.retain(|known| !job.packages.contains(&known.package));
        queue.invalid.extend(found.iter().cloned());
        self.scripts.touched.insert(name.clone());
        if found.is_empty() {
            self.carry_out_work(&name, job.work, &job.event, now);
            return;
        }
        queue.over(&job.work, now);
        self.job_touched(&name);
        let text = "not run: its configuration is not valid";
        self.happen_work(&name, &job.work, &job.event, text, None);
        self.publish_invalid(found);
    }
}
