//! Definitions by message: merged onto what is there, remembered in the journal, and only then asked of the machine.

use std::sync::Arc;

use endpoint::Incoming;
use protocol::{
    failure::{Code, Failure},
    name::Name,
    service,
};
use serde_json::Value;

use super::{
    Answer, Shell,
    merge::{How, Message},
};
use crate::{
    listing,
    machine::Request,
    settings::{Service, Source, files, toml::FILE_MAX},
};

impl Shell {
    /// `service set` and `add`: merged, read, journalled, and only then asked of the machine.
    pub(crate) fn set(&mut self, call: Incoming, how: How) {
        let defined = call.parse::<Value>().and_then(|args| {
            let (name, message) = Message::parse(args)?;
            let named = message.instances();
            let earlier = self.earlier(&name);
            let merged = message.onto(earlier.as_ref(), how)?;
            let service = merged.read(&name, &self.definitions)?;
            self.check_applications(&service)?;
            Ok((name, merged, service, named))
        });
        match defined {
            Ok((name, merged, mut service, named)) => {
                let answer = match self.remember(name, merged) {
                    Ok(answer) => answer,
                    Err(failure) => return call.responder.fail(failure),
                };
                for ignored in &service.ignored {
                    tracing::info!("service {}: ignored: {ignored}", service.name);
                }
                let request = match how {
                    How::Set => Request::Set { service: Arc::new(service) },
                    How::Add => {
                        // The machine keeps the others, and knows by this which ones were renewed (`update_start`).
                        service.instances.retain(|instance, _| {
                            named.iter().any(|name| name == instance.as_str())
                        });
                        Request::Add { service: Arc::new(service) }
                    }
                };
                self.ask(request, call.responder, answer);
            }
            Err(failure) => call.responder.fail(failure),
        }
    }

    /// The broker knows an application by its number alone.
    fn check_applications(&self, service: &Service) -> Result<(), Failure> {
        for (app_id, instance) in service.applications() {
            let others = self.machine.definitions().filter(|other| other.name != service.name);
            let taken = |other: &&Arc<Service>| other.applications().any(|(its, _)| its == app_id);
            if let Some(owner) = others.into_iter().find(taken) {
                let text = format!(
                    "service {} instance {instance}: app-id {app_id} is one of service {} ({}): give each its own",
                    service.name,
                    owner.name,
                    listing::source(&owner.source)
                );
                return Err(Failure::new(Code::InvalidArgument, text));
            }
        }
        Ok(())
    }

    /// Journals a definition, and says how to answer when the machine has decided about it.
    fn remember(&mut self, service: Name, message: Message) -> Result<Answer, Failure> {
        let before = self.journal.memory().messages.get(&service).cloned().map(Box::new);
        self.journal.message(service.clone(), message.clone()).map_err(|error| {
            let text = format!("the definition of {service} can't be remembered: {error}");
            Failure::new(Code::Failed, text)
        })?;
        Ok(Answer::Defined { service, message: Box::new(message), before })
    }

    /// What a message is merged onto: an earlier message, or the file that defines the service now.
    fn earlier(&self, name: &Name) -> Option<Message> {
        if let Some(message) = self.journal.memory().messages.get(name) {
            return Some(message.clone());
        }
        let Source::File(file) = &self.definitions.of_files(name)?.source else { return None };
        let text = files::read_text(file, FILE_MAX).ok()?;
        Some(Message::Toml { file: file.to_string_lossy().into_owned(), text })
    }

    /// A deleted service, or instance, must not come back with the next supervisor.
    pub(crate) fn deleted(&mut self, name: &Name, instance: Option<&Name>) {
        let kept = match (self.journal.memory().messages.get(name), instance) {
            (Some(message), Some(instance)) => {
                let message = message.clone().without(instance);
                self.journal.message(name.clone(), message)
            }
            (Some(_), None) => self.journal.deleted(name.clone()),
            _ => Ok(()),
        };
        // The journal has said it already; the deletion itself goes on.
        drop(kept);
    }

    /// An update has ended: what it did not confirm is forgotten too.
    pub(crate) fn updated(&mut self, name: &Name) {
        let Some(Message::Procd(message)) = self.journal.memory().messages.get(name) else {
            return;
        };
        let mut message = message.clone();
        let kept = self.machine.definitions().find(|service| service.name == *name);
        if let (Some(kept), Some(Value::Object(instances))) = (kept, message.get_mut("instances")) {
            instances
                .retain(|instance, _| kept.instances.keys().any(|name| name.as_str() == instance));
            // The journal says by itself that it can't be written.
            drop(self.journal.message(name.clone(), Message::Procd(message)));
        }
    }

    /// procd's `set_data`: the data of a service that a message defined.
    pub(crate) fn set_data(&mut self, call: Incoming) {
        let changed = call.parse().and_then(|service::SetData { name, data, .. }| {
            match self.journal.memory().messages.get(&name) {
                Some(Message::Procd(message)) => {
                    let mut message = message.clone();
                    message.insert("data".to_owned(), Value::Object(data));
                    Ok((name, Message::Procd(message)))
                }
                _ if !self.machine.definitions().any(|service| service.name == name) => {
                    Err(Failure::new(Code::NotFound, format!("no service {name:?}")))
                }
                _ => Err(Failure::new(
                    Code::Unsupported,
                    format!("the data of {name} stands in its definition file; change it there, then `service reread`"),
                )),
            }
        });
        let read = changed.and_then(|(name, message)| {
            let service = message.read(&name, &self.definitions)?;
            Ok((name, message, service))
        });
        match read {
            Ok((name, message, service)) => {
                let answer = match self.remember(name, message) {
                    Ok(answer) => answer,
                    Err(failure) => return call.responder.fail(failure),
                };
                let request = Request::Set { service: Arc::new(service) };
                self.ask(request, call.responder, answer);
            }
            Err(failure) => call.responder.fail(failure),
        }
    }
}
