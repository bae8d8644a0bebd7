//! The conversation with the writer: orders go out in their order, answers find whoever asked. It believes the writer, and
//! outlives it: what was under way when a writer ended is answered as gone, what comes later waits for the next one.

use std::{
    collections::HashMap,
    io,
    sync::{Mutex, MutexGuard},
};

use protocol::failure::{Code, Failure};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::{
    net::UnixStream,
    sync::{mpsc, oneshot},
};

use crate::channel::{self, Order, What, Word};

/// Orders that wait for the writer to read them; the chunks among them are counted elsewhere.
const ORDERS: usize = 32;

/// What the writer answered, and the raw bytes beside it.
pub(super) type Answer = Result<(Value, Vec<u8>), Failure>;

/// Whose order it is.
#[derive(Clone, Debug)]
pub(super) struct From {
    /// `uid 0`, or the fingerprint of an operator's key.
    pub(super) who: String,
    /// Root, on the Unix socket.
    pub(super) local_root: bool,
}

/// Gives orders. Clones speak to the same writer.
#[derive(Clone, Debug)]
pub(super) struct Link(mpsc::Sender<Request>);

/// An order that has no number yet.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) from: From,
    pub(super) what: What,
    pub(super) data: Vec<u8>,
    pub(super) answer: oneshot::Sender<Answer>,
}

impl Link {
    /// What is asked through it comes out of the other one.
    pub(super) fn new() -> (Self, mpsc::Receiver<Request>) {
        let (orders, requests) = mpsc::channel(ORDERS);
        (Self(orders), requests)
    }

    /// # Errors
    /// What the writer answered, or `gone` where it ended first.
    pub(super) async fn ask(&self, from: &From, what: What, data: Vec<u8>) -> Answer {
        let (answer, answered) = oneshot::channel();
        let request = Request { from: from.clone(), what, data, answer };
        self.0.send(request).await.map_err(|_| gone())?;
        received(answered).await
    }

    /// As [`ask`](Self::ask), where the answer is JSON of a certain shape.
    ///
    /// # Errors
    /// As there, and where it has another shape.
    pub(super) async fn ask_for<T: DeserializeOwned>(
        &self,
        from: &From,
        what: What,
        data: Vec<u8>,
    ) -> Result<T, Failure> {
        let (value, _) = self.ask(from, what, data).await?;
        serde_json::from_value(value).map_err(|error| {
            Failure::new(Code::Failed, format!("the writer's answer is not understood: {error}"))
        })
    }

    /// From a thread that may wait. `false`: nobody will ever read it.
    pub(super) fn order(&self, request: Request) -> bool {
        self.0.blocking_send(request).is_ok()
    }
}

/// The answer, or that there will be none.
pub(super) async fn received(answered: oneshot::Receiver<Answer>) -> Answer {
    answered.await.unwrap_or_else(|_| Err(gone()))
}

fn gone() -> Failure {
    let text = "the writing process ended while this ran; begin again, what was written is used";
    Failure::new(Code::Gone, text)
}

/// Speaks with one writer until it ends, and says how.
pub(super) async fn converse(
    stream: UnixStream,
    requests: &mut mpsc::Receiver<Request>,
    words: &mpsc::Sender<Word>,
) -> io::Error {
    let (mut from, mut to) = stream.into_split();
    let open = Open::default();
    let listening = async {
        loop {
            match channel::read::<Word>(&mut from).await {
                Ok(Some((Word::Answer { number, outcome }, data))) => {
                    let asked = open.lock().remove(&number);
                    // Whoever asked may have left.
                    let _ = asked.map(|asked| asked.send(outcome.map(|value| (value, data))));
                }
                Ok(Some((word, _))) => {
                    // Nobody listens any more where the whole process stops.
                    let _ = words.send(word).await;
                }
                Ok(None) => return io::ErrorKind::UnexpectedEof.into(),
                Err(error) => return error,
            }
        }
    };
    let speaking = async {
        for number in 1.. {
            let Some(Request { from, what, data, answer }) = requests.recv().await else { break };
            open.lock().insert(number, answer);
            let From { who, local_root } = from;
            let order = Order { number, who, local_root, what };
            if let Err(error) = channel::write(&mut to, &order, &data).await {
                return error;
            }
        }
        std::future::pending().await
    };
    // Neither is given up half-way: when one ends, so does the conversation.
    tokio::select! {
        error = listening => error,
        error = speaking => error,
    }
}

/// Who waits for which answer.
#[derive(Default)]
struct Open(Mutex<HashMap<u64, oneshot::Sender<Answer>>>);

impl Open {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Answer>>> {
        self.0.lock().expect("nothing panics while it holds the answers")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> From {
        From { who: "uid 0".to_owned(), local_root: true }
    }

    #[tokio::test]
    async fn answers_find_whoever_asked_in_whatever_order_they_come() {
        let (here, mut there) = UnixStream::pair().unwrap();
        let (link, mut requests) = Link::new();
        let (words, mut said) = mpsc::channel(4);
        tokio::spawn(async move { converse(here, &mut requests, &words).await });
        let ask = |what| {
            let link = link.clone();
            tokio::spawn(async move { link.ask(&root(), what, vec![7]).await })
        };
        let (first, second) = (ask(What::Status), ask(What::Slots));
        let mut orders = Vec::new();
        for _ in 0..2 {
            let (order, data) = channel::read::<Order>(&mut there).await.unwrap().unwrap();
            assert_eq!(data, [7]);
            orders.push(order);
        }
        for order in orders.into_iter().rev() {
            let value = Value::from(format!("{:?}", order.what));
            let word = Word::Answer { number: order.number, outcome: Ok(value) };
            channel::write(&mut there, &word, b"raw").await.unwrap();
        }
        channel::write(&mut there, &Word::Ready, b"").await.unwrap();
        assert_eq!(first.await.unwrap(), Ok(("Status".into(), b"raw".to_vec())));
        assert_eq!(second.await.unwrap(), Ok(("Slots".into(), b"raw".to_vec())));
        assert_eq!(said.recv().await, Some(Word::Ready));
    }

    #[tokio::test]
    async fn what_was_under_way_when_a_writer_ended_is_gone_and_the_next_writer_gets_the_rest() {
        let (link, mut requests) = Link::new();
        let (words, _said) = mpsc::channel(4);
        let asking = link.clone();
        let first = tokio::spawn(async move { asking.ask(&root(), What::Status, vec![]).await });
        let (here, mut there) = UnixStream::pair().unwrap();
        let dying = async move {
            channel::read::<Order>(&mut there).await.unwrap().unwrap();
        };
        tokio::join!(converse(here, &mut requests, &words), dying);
        assert_eq!(first.await.unwrap().unwrap_err().code, Code::Gone);
        let (here, mut there) = UnixStream::pair().unwrap();
        tokio::spawn(async move { converse(here, &mut requests, &words).await });
        let second = tokio::spawn(async move { link.ask(&root(), What::Slots, vec![]).await });
        let (order, _) = channel::read::<Order>(&mut there).await.unwrap().unwrap();
        assert_eq!(order.what, What::Slots);
        drop(there);
        assert!(second.await.unwrap().is_err());
    }
}
