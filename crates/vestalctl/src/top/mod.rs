//! `vestalctl top`: a live full-screen view. This file asks, waits and passes on; [`model`] decides, [`view`] draws.
//!
//! The terminal is put back however it ends, by a panic too.

mod model;
mod view;

pub(crate) use self::model::Sample;

use std::{
    io::{IsTerminal as _, stdin, stdout},
    time::Duration,
};

use endpoint::{CallError, CallOptions, Client};
use protocol::log::{Record, Select};
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
};
use serde_json::json;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    task::JoinHandle,
};

use self::model::{Key, Model, Sort};
use crate::{
    bus::{Bus, How},
    error::Error,
    lines::Lines,
    logs, process,
};

/// Between two looks.
const REFRESH: Duration = Duration::from_secs(1);
/// A supervisor that does not answer in this time is reported as such.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two attempts to follow the log.
const PAUSE: Duration = Duration::from_secs(2);
/// Lines of before that the log pane begins with.
const LINES: u64 = 50;
/// A service that prints a lot is drawn no more often.
const FRAME: Duration = Duration::from_millis(50);
/// What waits to be shown: keys and pieces of the log.
const WAITING: usize = 64;

/// Follows one service's log; ends when it is dropped.
struct Follow {
    service: String,
    task: JoinHandle<()>,
}

impl Drop for Follow {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) async fn run(bus: &Bus) -> Result<(), Error> {
    if !stdout().is_terminal() || !stdin().is_terminal() {
        return Err(Error::usage("top needs a terminal; `vestalctl status` prints the same once"));
    }
    let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let mut model = Model::new();
    // Before the screen is taken: who can't be reached at all is told like by any other command.
    let listed = list(bus).await?;
    model.update(&listed, daemon::clock::now(), process::sample);
    let failed = |error| Error::failed(format!("draw on the terminal: {error}"));
    let mut terminal = ratatui::try_init().map_err(failed)?;
    let ended = show(bus, &mut terminal, &mut model, colour).await;
    ratatui::restore();
    ended.map_err(failed)
}

async fn show(
    bus: &Bus,
    terminal: &mut DefaultTerminal,
    model: &mut Model,
    colour: bool,
) -> std::io::Result<()> {
    let mut keys = keys();
    let mut signals = Signals::new()?;
    let (said, mut heard) = mpsc::channel(WAITING);
    let mut follow: Option<Follow> = None;
    let mut asked = None;
    let mut refresh = tokio::time::interval(REFRESH);
    refresh.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The first tick comes at once, and the first look has been taken.
    refresh.tick().await;
    loop {
        let wanted = model.selected_service();
        if follow.as_ref().map(|follow| follow.service.as_str()) != wanted {
            follow = wanted.map(|service| Follow {
                service: service.to_owned(),
                task: tokio::spawn(followed(
                    bus.client_of("log"),
                    service.to_owned(),
                    said.clone(),
                )),
            });
            model.log.clear();
        }
        terminal.draw(|frame| view::draw(frame, model, colour))?;
        tokio::select! {
            key = keys.recv() => match key {
                None => return Ok(()),
                Some(Event::Key(key)) => {
                    let page = view::page(terminal.size()?.height, model);
                    if let Some(key) = meaning(key) && !model.press(key, page) {
                        return Ok(());
                    }
                }
                // A new size is drawn; nothing else happens.
                Some(_) => {}
            },
            () = signals.any() => return Ok(()),
            line = heard.recv() => {
                take(model, follow.as_ref(), line);
                tokio::time::sleep(FRAME).await;
                while let Ok(line) = heard.try_recv() {
                    take(model, follow.as_ref(), Some(line));
                }
            }
            // Keys are answered while the supervisor is asked.
            _ = refresh.tick(), if asked.is_none() => asked = Some(Box::pin(list(bus))),
            listed = answer(&mut asked) => {
                asked = None;
                match listed {
                    Ok(listed) => model.update(&listed, daemon::clock::now(), process::sample),
                    Err(error) => model.trouble = Some(error.to_string()),
                }
            }
        }
    }
}

/// Who ends this by a signal gets the terminal back as it was, too.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// Lines that were on their way when another service was selected are not shown.
fn take(model: &mut Model, follow: Option<&Follow>, line: Option<(String, Vec<String>)>) {
    if let Some((service, lines)) = line
        && follow.is_some_and(|follow| follow.service == service)
    {
        lines.into_iter().for_each(|line| model.say(line));
    }
}

async fn list(bus: &Bus) -> Result<serde_json::Value, CallError> {
    bus.call("service", "list", &json!({}), How { within: PATIENCE, safe: true }).await
}

/// The answer to a question, where one was asked.
async fn answer<F: Future + Unpin>(asked: &mut Option<F>) -> F::Output {
    match asked {
        Some(asked) => asked.await,
        None => std::future::pending().await,
    }
}

/// Reads the terminal on a thread of its own, which ends with the process.
fn keys() -> mpsc::Receiver<Event> {
    let (pressed, keys) = mpsc::channel(WAITING);
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if pressed.blocking_send(event).is_err() {
                return;
            }
        }
    });
    keys
}

fn meaning(key: KeyEvent) -> Option<Key> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return matches!(key.code, KeyCode::Char('c')).then_some(Key::Quit);
    }
    Some(match key.code {
        KeyCode::Char('q') | KeyCode::Esc => Key::Quit,
        KeyCode::Up | KeyCode::Char('k') => Key::Up,
        KeyCode::Down | KeyCode::Char('j') => Key::Down,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::First,
        KeyCode::End => Key::Last,
        KeyCode::Char('n') => Key::Sort(Sort::Name),
        KeyCode::Char('c') => Key::Sort(Sort::Processor),
        KeyCode::Char('m') => Key::Sort(Sort::Memory),
        KeyCode::Char('r') => Key::Sort(Sort::Restarts),
        KeyCode::Char('p') => Key::Sort(Sort::Pid),
        KeyCode::Char('s') => Key::Sort(Sort::State),
        KeyCode::Char('l') => Key::Log,
        KeyCode::Char('?' | 'h') => Key::Help,
        _ => return None,
    })
}

/// Follows until it is aborted; what goes wrong is a line, too.
async fn followed(client: Client, service: String, said: mpsc::Sender<(String, Vec<String>)>) {
    let mut lines = Some(LINES);
    loop {
        let select = Select { services: vec![service.clone()], lines, ..Select::default() };
        let trouble = match follow(&client, &select, &service, &said).await {
            Ok(()) => "-- the log ended".to_owned(),
            Err(error) => format!("-- {}", crate::table::clean(&error.to_string())),
        };
        if said.send((service.clone(), vec![trouble])).await.is_err() {
            return;
        }
        lines = Some(0);
        tokio::time::sleep(PAUSE).await;
    }
}

async fn follow(
    client: &Client,
    select: &Select,
    service: &str,
    said: &mpsc::Sender<(String, Vec<String>)>,
) -> Result<(), CallError> {
    let args = serde_json::to_vec(select).expect("a selection holds only texts and numbers");
    let forever = CallOptions { deadline: Duration::MAX, ..CallOptions::default() };
    let mut stream = client.call_stream("log", "follow", &args, forever).await?;
    let mut lines = Lines::default();
    while let Some(piece) = stream.next().await? {
        let Ok(records) = lines.push::<Record>(&piece) else { return Ok(()) };
        let shown = records.iter().map(logs::line::brief).collect();
        if said.send((service.to_owned(), shown)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_mean_what_the_help_says() {
        let key = |code, modifiers| meaning(KeyEvent::new(code, modifiers));
        let plain = |letter| key(KeyCode::Char(letter), KeyModifiers::NONE);
        assert_eq!(plain('q'), Some(Key::Quit));
        assert_eq!(plain('c'), Some(Key::Sort(Sort::Processor)));
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Key::Quit));
        assert_eq!(key(KeyCode::Char('q'), KeyModifiers::CONTROL), None);
        assert_eq!(plain('z'), None);
    }
}
