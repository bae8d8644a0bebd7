//! The object `log`: reading and following beside everything else, at the pace of whoever asks.

use std::sync::Arc;

use endpoint::{Chunks, Incoming, Serve};
use protocol::{
    failure::{Code, Failure},
    log::{Select, Write},
    objects::Description,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::{Desk, now};
use crate::store::reader::{Filter, Reader, Step, missed_line};

/// Readers and followers at one time; each takes one piece of memory of 64 KiB and its records.
const READERS_MAX: usize = 32;

pub(super) struct LogObject {
    desk: Arc<Desk>,
    readers: Arc<Semaphore>,
    stopping: watch::Receiver<bool>,
}

/// One `read` or `follow`.
struct Reading {
    desk: Arc<Desk>,
    chunks: Chunks,
    follows: bool,
    stopping: watch::Receiver<bool>,
    _permit: OwnedSemaphorePermit,
}

impl LogObject {
    pub(super) fn new(desk: Arc<Desk>, stopping: watch::Receiver<bool>) -> Self {
        Self { desk, readers: Arc::new(Semaphore::new(READERS_MAX)), stopping }
    }

    fn read(&self, call: Incoming, follows: bool) {
        let filter = call.parse::<Select>().and_then(|select| {
            Filter::new(select).map_err(|text| Failure::new(Code::InvalidArgument, text))
        });
        let filter = match filter {
            Ok(filter) => filter,
            Err(failure) => return call.responder.fail(failure),
        };
        let Ok(permit) = Arc::clone(&self.readers).try_acquire_owned() else {
            let text = format!("{READERS_MAX} readers are there already; try again later");
            let details = serde_json::json!({ "retry_after_ms": 1000, "not_started": true });
            return call.responder.fail(Failure::new(Code::Busy, text).with_details(details));
        };
        let reading = Reading {
            desk: Arc::clone(&self.desk),
            chunks: call.responder.chunks(),
            follows,
            stopping: self.stopping.clone(),
            _permit: permit,
        };
        tokio::spawn(reading.run(filter));
    }

    async fn write(&self, call: Incoming) {
        let write = match call.parse::<Write>() {
            Ok(write) => write,
            Err(failure) => return call.responder.fail(failure),
        };
        let caller = call.caller();
        let entries = self.desk.intake().written(write, caller.pid, caller.uid, now());
        if entries.is_empty() {
            self.desk.silenced.notify_one();
            let text = format!("user {} writes more than the rate limit allows", caller.uid);
            let details = serde_json::json!({ "retry_after_ms": 1000 });
            return call.responder.fail(Failure::new(Code::Busy, text).with_details(details));
        }
        self.desk.keep(entries, None).await;
        call.responder.reply(&serde_json::Value::Null);
    }
}

impl Serve for LogObject {
    fn describe(&self) -> Description {
        protocol::log::description()
    }

    async fn call(&mut self, call: Incoming) {
        match &*call.method {
            "read" => self.read(call, false),
            "follow" => self.read(call, true),
            "write" => self.write(call).await,
            "status" => call.responder.reply(&self.desk.status()),
            // The endpoint lets only described methods through; an answer is sent when the call is dropped.
            _ => {}
        }
    }
}

impl Reading {
    async fn run(mut self, filter: Filter) {
        let store = self.desk.store.clone();
        // The file may be on a disk that takes its time.
        let reader = tokio::task::spawn_blocking(move || store.reader(filter)).await;
        let Ok(mut reader) = reader else { return };
        let mut written = self.desk.store.written();
        loop {
            written.mark_unchanged();
            let Ok((step, again)) = tokio::task::spawn_blocking(move || step(reader)).await else {
                return;
            };
            reader = again;
            if step.missed > 0 {
                let line = missed_line(step.missed, reader.next(), self.desk.store.boot(), now());
                if self.chunks.send(&line).await.is_err() {
                    return;
                }
            }
            if self.chunks.send(&step.lines).await.is_err() {
                return;
            }
            if !step.at_end {
                continue;
            }
            if !self.follows {
                return self.chunks.finish(&serde_json::Value::Null);
            }
            tokio::select! {
                changed = written.changed() => if changed.is_err() { return },
                () = self.chunks.cancelled() => return,
                _ = self.stopping.wait_for(|stopping| *stopping) => {
                    let text = "the log is stopping; follow again, `after` the last sequence";
                    return self.chunks.fail(Failure::new(Code::Gone, text));
                }
            }
        }
    }
}

fn step(mut reader: Reader) -> (Step, Reader) {
    (reader.step(), reader)
}
