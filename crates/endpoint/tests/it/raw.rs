//! A peer that speaks the protocol by hand, and breaks it where a test wants that.

use protocol::{
    frame,
    message::{Call, Hello, Message, Reply},
    objects::ENDPOINT,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use crate::{Fixture, SOON};

pub(crate) fn bytes_of(id: u32, message: &Message<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    frame::encode(&mut out, id, message).unwrap();
    out
}

pub(crate) fn echo(args: &[u8]) -> Message<'_> {
    Message::Call(Call { token: 0, generation: 1, method: "echo", args, ..Call::default() })
}

/// A peer without manners.
pub(crate) struct Raw {
    pub(crate) stream: UnixStream,
    read: Vec<u8>,
}

impl Raw {
    pub(crate) async fn connect(fixture: &Fixture) -> Self {
        Self { stream: UnixStream::connect(fixture.path()).await.unwrap(), read: Vec::new() }
    }

    pub(crate) async fn greeted(fixture: &Fixture) -> Self {
        let mut raw = Self::connect(fixture).await;
        raw.send(&bytes_of(0, &Message::Hello(Hello::OURS))).await;
        assert!(raw.next().await.starts_with("Welcome"));
        raw
    }

    /// As `greeted`, over a connection that was made elsewhere.
    pub(crate) async fn greet(stream: std::os::unix::net::UnixStream) -> Self {
        stream.set_nonblocking(true).unwrap();
        let mut raw = Self { stream: UnixStream::from_std(stream).unwrap(), read: Vec::new() };
        raw.send(&bytes_of(0, &Message::Hello(Hello::OURS))).await;
        assert!(raw.next().await.starts_with("Welcome"));
        raw
    }

    /// Calls the first object; its answer as text.
    pub(crate) async fn ask(&mut self, id: u32, method: &str) -> String {
        self.ask_at(id, 0, 1, method).await
    }

    /// Calls whatever is at this place.
    pub(crate) async fn ask_at(
        &mut self,
        id: u32,
        token: u32,
        generation: u32,
        method: &str,
    ) -> String {
        let call = Call { token, generation, method, ..Call::default() };
        self.send(&bytes_of(id, &Message::Call(call))).await;
        self.next().await
    }

    /// Calls the endpoint itself.
    pub(crate) async fn ask_endpoint(&mut self, id: u32, method: &str) -> String {
        self.ask_at(id, ENDPOINT, 0, method).await
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        // Being cut off while still sending is what some of these tests want.
        let _ = self.stream.write_all(bytes).await;
    }

    /// The next message as text, or "end".
    pub(crate) async fn next(&mut self) -> String {
        loop {
            if let Some((_, message, length)) = frame::decode(&self.read).unwrap() {
                let text = match message {
                    Message::Goodbye(goodbye) => {
                        format!("Goodbye {}: {}", goodbye.code, goodbye.text)
                    }
                    Message::Reply(Reply::Failed { failure }) => {
                        String::from_utf8_lossy(failure).into()
                    }
                    other => format!("{other:?}"),
                };
                self.read.drain(..length);
                return text;
            }
            let read = tokio::time::timeout(SOON, self.stream.read_buf(&mut self.read)).await;
            if read.unwrap().unwrap_or(0) == 0 {
                return "end".to_owned();
            }
        }
    }
}
