//! Proves that a socket belongs to a process: connects to it, shakes hands, and compares the nonce that Welcome shows with
//! the one that the process told. Never calls anything.

use std::time::Duration;

use protocol::{
    frame,
    message::{Hello, Message},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::{sleep, timeout},
};

/// How long all of it may take.
const LIMIT: Duration = Duration::from_secs(5);
/// A process that is being replaced answers on the same socket for a moment; so it is tried again after these.
const PAUSES: [Duration; 3] =
    [Duration::from_millis(50), Duration::from_millis(200), Duration::from_millis(800)];
/// Longest Welcome: an endpoint of the most objects there may be needs less.
const WELCOME_MAX: usize = 512 << 10;

/// Whether `nonce` is what answers on `socket`; why not.
pub(super) async fn prove(socket: String, nonce: [u8; 16]) -> Result<(), String> {
    let tries = async {
        for pause in PAUSES {
            match shake_hands(&socket).await? {
                found if found == nonce => return Ok(()),
                _ => sleep(pause).await,
            }
        }
        match shake_hands(&socket).await? {
            found if found == nonce => Ok(()),
            _ => Err("another process, or an older one, answers there".to_owned()),
        }
    };
    match timeout(LIMIT, tries).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("no Welcome came within {} s", LIMIT.as_secs())),
    }
}

async fn shake_hands(socket: &str) -> Result<[u8; 16], String> {
    let mut stream = UnixStream::connect(socket).await.map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    frame::encode(&mut bytes, 0, &Message::Hello(Hello::OURS)).map_err(|e| e.to_string())?;
    stream.write_all(&bytes).await.map_err(|error| error.to_string())?;
    bytes.clear();
    loop {
        match frame::decode(&bytes).map_err(|error| error.to_string())? {
            Some((_, Message::Welcome(welcome), _)) => return Ok(welcome.nonce),
            Some((_, Message::Goodbye(goodbye), _)) => {
                return Err(format!("it said goodbye: {} ({})", goodbye.text, goodbye.code));
            }
            Some(_) => return Err("it did not answer Hello with Welcome".to_owned()),
            None if bytes.len() > WELCOME_MAX => {
                return Err(format!("its Welcome has more than {WELCOME_MAX} bytes"));
            }
            None => {}
        }
        let read = stream.read_buf(&mut bytes).await.map_err(|error| error.to_string())?;
        if read == 0 {
            return Err("it closed the connection instead of saying Welcome".to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use endpoint::{Server, Settings};
    use std::os::unix::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn a_served_socket_is_proved_by_its_nonce_and_by_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let server = Server::new(Settings::default()).unwrap();
        server.listen(UnixListener::bind(&path).unwrap()).unwrap();
        let path = path.to_str().unwrap().to_owned();
        assert_eq!(prove(path.clone(), server.nonce()).await, Ok(()));
        let wrong = prove(path, [7; 16]).await.unwrap_err();
        assert!(wrong.contains("another process"), "{wrong}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_that_is_silent_or_nothing_is_refused_in_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let text = path.to_str().unwrap().to_owned();
        assert!(prove(text.clone(), [0; 16]).await.unwrap_err().contains("No such file"));
        let _silent = UnixListener::bind(&path).unwrap();
        assert!(prove(text, [0; 16]).await.unwrap_err().contains("within 5 s"));
    }
}
