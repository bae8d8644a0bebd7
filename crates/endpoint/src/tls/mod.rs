//! TLS 1.3 between a device and an engineer's host: both sides show a raw ed25519 public key (RFC 7250), and each asks a
//! function of its own whether it knows the other one's. No names, no certificates, no clock. What goes over it is carried
//! to and from one end of a pair of Unix sockets, so that endpoints and clients on both sides are the usual ones.

mod provider;

use std::{fmt, io, sync::Arc, time::Duration};

use tokio::{
    io::{
        AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf, split,
    },
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_rustls::{
    TlsAcceptor, TlsConnector, TlsStream,
    rustls::{
        CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error,
        ServerConfig, SignatureScheme,
        client::{
            AlwaysResolvesClientRawPublicKeys,
            danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        },
        crypto::{ring, verify_tls13_signature_with_raw_key},
        pki_types::{
            CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
        },
        server::{
            AlwaysResolvesServerRawPublicKeys,
            danger::{ClientCertVerified, ClientCertVerifier},
        },
        sign::CertifiedKey,
        version::TLS13,
    },
};

use self::provider::{SIGNATURES, provider};

/// Of ed25519.
pub type PublicKey = [u8; 32];
/// Whether the other side's key is one to talk to. Asked in the handshake, before anything else of it is read.
pub type Known = Arc<dyn Fn(&PublicKey) -> bool + Send + Sync>;

/// What stands before the 32 octets of a public key in a SubjectPublicKeyInfo (RFC 8410, section 4).
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// What stands before the 32 octets of a private key in a PrivateKeyInfo (RFC 8410, section 7).
const PKCS8: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
/// Bytes that are carried at once.
const PIECE: usize = 64 << 10;

/// What one side proves itself with.
#[derive(Clone)]
pub struct KeyPair {
    certified: Arc<CertifiedKey>,
    public: PublicKey,
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair").field("public", &self.public).finish_non_exhaustive()
    }
}

impl KeyPair {
    /// # Errors
    /// Where the library takes no such key, which no seed is known to cause.
    pub fn from_seed(seed: &[u8; 32]) -> io::Result<Self> {
        let pkcs8 = [&PKCS8[..], seed].concat();
        let key = ring::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(pkcs8));
        let key = key.map_err(io::Error::other)?;
        let spki =
            key.public_key().ok_or_else(|| io::Error::other("a key without a public one"))?;
        let public = public_key(&spki).map_err(io::Error::other)?;
        let certificate = CertificateDer::from(spki.to_vec());
        Ok(Self { certified: Arc::new(CertifiedKey::new(vec![certificate], key)), public })
    }

    #[must_use]
    pub fn public(&self) -> PublicKey {
        self.public
    }
}

/// The device's side.
#[derive(Clone)]
pub struct Acceptor(TlsAcceptor);

impl Acceptor {
    /// # Errors
    /// Where the library is built without what is needed.
    pub fn new(own: &KeyPair, known: Known) -> io::Result<Self> {
        let config = ServerConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(&[&TLS13])
            .map_err(io::Error::other)?
            .with_client_cert_verifier(Verifier::new(known))
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(Arc::clone(
                &own.certified,
            ))));
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    /// Shakes hands; the other side's key was known.
    ///
    /// # Errors
    /// Where it wasn't, or the other side speaks something else.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<(Carrier, PublicKey)> {
        Carrier::of(TlsStream::Server(self.0.accept(stream).await?))
    }
}

/// The host's side.
#[derive(Clone)]
pub struct Connector(TlsConnector);

impl Connector {
    /// # Errors
    /// Where the library is built without what is needed.
    pub fn new(own: &KeyPair, known: Known) -> io::Result<Self> {
        let config = ClientConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(&[&TLS13])
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(Verifier::new(known))
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(
                Arc::clone(&own.certified),
            )));
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    /// Shakes hands; the other side's key was known.
    ///
    /// # Errors
    /// Where it wasn't, or the other side speaks something else.
    pub async fn connect(&self, stream: TcpStream) -> io::Result<(Carrier, PublicKey)> {
        // Raw keys have no names; this one only fills its place.
        let name = ServerName::try_from("vestal").map_err(io::Error::other)?;
        Carrier::of(TlsStream::Client(self.0.connect(name, stream).await?))
    }
}

/// A connection whose both sides know each other.
#[derive(Debug)]
pub struct Carrier(TlsStream<TcpStream>);

impl Carrier {
    fn of(stream: TlsStream<TcpStream>) -> io::Result<(Self, PublicKey)> {
        let (_, session) = stream.get_ref();
        let shown = session.peer_certificates().and_then(<[_]>::first);
        let key = shown.ok_or_else(|| io::Error::other("the other side showed no key"))?;
        let key = public_key(key).map_err(io::Error::other)?;
        Ok((Self(stream), key))
    }

    /// Carries bytes both ways until either side ends, or nothing came from any of them for `idle`.
    ///
    /// # Errors
    /// As reading and writing; `TimedOut` where it was too quiet.
    pub async fn carry(self, local: UnixStream, idle: Duration) -> io::Result<()> {
        let (tls_in, tls_out) = split(self.0);
        let (local_in, local_out) = split(local);
        let quiet = Quiet::default();
        tokio::select! {
            ended = copy(tls_in, local_out, &quiet) => ended,
            ended = copy(local_in, tls_out, &quiet) => ended,
            () = quiet.longer_than(idle) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("nothing was said for {} s", idle.as_secs()),
            )),
        }
    }
}

/// Hears of every piece that is carried.
#[derive(Default)]
struct Quiet(tokio::sync::Notify);

impl Quiet {
    async fn longer_than(&self, idle: Duration) {
        while timeout(idle, self.0.notified()).await.is_ok() {}
    }
}

async fn copy<S: AsyncRead, T: AsyncWrite>(
    mut from: ReadHalf<S>,
    mut to: WriteHalf<T>,
    quiet: &Quiet,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let read = from.read(&mut piece).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        quiet.0.notify_one();
        to.write_all(&piece[..read]).await?;
        to.flush().await?;
    }
}

/// Asks for raw public keys of ed25519 and looks them up.
struct Verifier {
    known: Known,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").finish_non_exhaustive()
    }
}

impl Verifier {
    fn new(known: Known) -> Arc<Self> {
        Arc::new(Self { known })
    }

    fn check(&self, shown: &CertificateDer<'_>) -> Result<(), Error> {
        match (self.known)(&public_key(shown)?) {
            true => Ok(()),
            false => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    fn signature(
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(shown.as_ref());
        verify_tls13_signature_with_raw_key(message, &key, signed, &SIGNATURES)
    }
}

/// TLS 1.2 is not spoken; its signatures are refused all the same.
fn no_older() -> Error {
    Error::General("TLS 1.3 only".to_owned())
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        _others: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(shown).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_older())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::signature(message, shown, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _others: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(shown).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_older())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::signature(message, shown, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

fn public_key(spki: &[u8]) -> Result<PublicKey, Error> {
    let key = spki.strip_prefix(&SPKI).and_then(|key| key.try_into().ok());
    key.ok_or_else(|| CertificateError::BadEncoding.into())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::net::TcpListener;

    use super::*;

    const FOREVER: Duration = Duration::from_secs(3600);

    fn key(seed: u8) -> KeyPair {
        KeyPair::from_seed(&[seed; 32]).unwrap()
    }

    fn only(key: &KeyPair) -> Known {
        let wanted = key.public();
        Arc::new(move |shown| *shown == wanted)
    }

    async fn tcp() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (here, there) = tokio::join!(TcpStream::connect(address), listener.accept());
        (here.unwrap(), there.unwrap().0)
    }

    /// Both outcomes of a handshake.
    async fn shaken(
        device: &KeyPair,
        device_knows: Known,
        host: &KeyPair,
        host_knows: Known,
    ) -> (io::Result<(Carrier, PublicKey)>, io::Result<(Carrier, PublicKey)>) {
        let (there, here) = tcp().await;
        let acceptor = Acceptor::new(device, device_knows).unwrap();
        let connector = Connector::new(host, host_knows).unwrap();
        tokio::join!(acceptor.accept(here), connector.connect(there))
    }

    #[tokio::test]
    async fn both_sides_learn_the_other_ones_key_and_bytes_go_both_ways() {
        let (device, host) = (key(1), key(2));
        let (at_device, at_host) = shaken(&device, only(&host), &host, only(&device)).await;
        let ((at_device, of_host), (at_host, of_device)) = (at_device.unwrap(), at_host.unwrap());
        assert_eq!((of_host, of_device), (host.public(), device.public()));
        let (mut left, carried) = UnixStream::pair().unwrap();
        let (mut right, also) = UnixStream::pair().unwrap();
        tokio::spawn(at_device.carry(carried, FOREVER));
        tokio::spawn(at_host.carry(also, FOREVER));
        let long: Vec<u8> = (0..=250).cycle().take(1 << 20).collect();
        let sent = long.clone();
        let writing = tokio::spawn(async move {
            left.write_all(&sent).await.unwrap();
            let mut answer = [0; 4];
            left.read_exact(&mut answer).await.unwrap();
            answer
        });
        let mut came = vec![0; long.len()];
        right.read_exact(&mut came).await.unwrap();
        assert!(came == long);
        right.write_all(b"fine").await.unwrap();
        assert_eq!(&writing.await.unwrap(), b"fine");
    }

    #[tokio::test]
    async fn a_host_whose_key_is_unknown_is_turned_away_before_it_can_say_anything() {
        let (device, host, other) = (key(1), key(2), key(3));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        let knows: Known = Arc::new(move |shown| {
            seen.lock().unwrap().push(*shown);
            *shown == other.public()
        });
        let (at_device, at_host) = shaken(&device, knows, &host, only(&device)).await;
        assert!(at_device.is_err());
        assert_eq!(*asked.lock().unwrap(), [host.public()]);
        // With TLS 1.3 the host learns it by its first read.
        if let Ok((mut carrier, _)) = at_host {
            assert!(carrier.0.read_u8().await.is_err());
        }
    }

    #[tokio::test]
    async fn a_device_that_is_not_the_pinned_one_is_not_talked_to() {
        let (device, host, pinned) = (key(1), key(2), key(3));
        let (_, at_host) = shaken(&device, only(&host), &host, only(&pinned)).await;
        assert!(at_host.is_err());
    }

    #[tokio::test]
    async fn what_is_no_tls_ends_the_handshake() {
        let (mut there, here) = tcp().await;
        there.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let acceptor = Acceptor::new(&key(1), only(&key(2))).unwrap();
        assert!(acceptor.accept(here).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_on_which_nothing_is_said_ends() {
        let (device, host) = (key(1), key(2));
        let (at_device, at_host) = shaken(&device, only(&host), &host, only(&device)).await;
        let (_left, carried) = UnixStream::pair().unwrap();
        let ended = at_device.unwrap().0.carry(carried, Duration::from_secs(30)).await;
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(at_host);
    }
}
