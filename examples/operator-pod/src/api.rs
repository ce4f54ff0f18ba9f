//! A small client of the Kubernetes API for a pod: its account's token, the cluster's authority, JSON over TLS.
//!
//! It speaks HTTP/1.0, in which an answer ends with its connection: a watch is lines until the end.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;
use std::{env, fmt, fs};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

/// Where every pod finds what it needs.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The name that the API's certificate has in every cluster.
const NAME: &str = "kubernetes.default.svc";
/// Longer answers are not read.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// A server that says nothing for so long is gone; watches end sooner.
const SILENCE: Duration = Duration::from_secs(60);

type Stream = BufReader<StreamOwned<ClientConnection, TcpStream>>;

/// What went wrong with a request.
#[derive(Debug)]
pub enum Error {
    /// The way to the server.
    Io(io::Error),
    /// The server's refusal: its code and its words.
    Refused(u16, String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Refused(code, message) => write!(f, "{code}: {message}"),
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn wrong(error: impl fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}

/// The way to the API.
pub struct Api {
    address: (String, u16),
    tls: Arc<ClientConfig>,
}

impl Api {
    /// The cluster that this pod runs in.
    pub fn of_pod() -> io::Result<Self> {
        let host = env::var("KUBERNETES_SERVICE_HOST").map_err(wrong)?;
        let port = env::var("KUBERNETES_SERVICE_PORT").map_err(wrong)?.parse().map_err(wrong)?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(format!("{ACCOUNT}/ca.crt")).map_err(wrong)? {
            roots.add(certificate.map_err(wrong)?).map_err(wrong)?;
        }
        let provider = Arc::new(rustls_rustcrypto::provider());
        let tls = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let tls = tls.map_err(wrong)?.with_root_certificates(roots).with_no_client_auth();
        Ok(Self { address: (host, port), tls: Arc::new(tls) })
    }

    /// GET of an object or a collection.
    pub fn get(&self, path: &str) -> Result<Value, Error> {
        self.call("GET", path, "", &Value::Null)
    }

    /// DELETE of an object; one that is gone already is as good.
    pub fn delete(&self, path: &str) -> Result<(), Error> {
        match self.call("DELETE", path, "", &Value::Null) {
            Ok(_) | Err(Error::Refused(404, _)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// PATCH in one of the API's languages.
    pub fn patch(&self, path: &str, language: &str, body: &Value) -> Result<Value, Error> {
        self.call("PATCH", path, language, body)
    }

    /// The changes of a collection, until the server ends the watch.
    pub fn watch(&self, path: &str) -> Result<impl Iterator<Item = io::Result<Value>>, Error> {
        let stream = self.send("GET", path, "", &Value::Null)?;
        let lines = stream.lines().take_while(|line| !line.as_ref().is_err_and(is_end));
        Ok(lines.map(|line| serde_json::from_str(&line?).map_err(wrong)))
    }

    fn call(&self, method: &str, path: &str, type_: &str, body: &Value) -> Result<Value, Error> {
        Ok(serde_json::from_slice(&rest(self.send(method, path, type_, body)?)?).map_err(wrong)?)
    }

    /// Sends a request and reads the head of its answer; a refusal is an error.
    fn send(&self, method: &str, path: &str, type_: &str, body: &Value) -> Result<Stream, Error> {
        // It is renewed while the pod runs, so it is read each time.
        let token = fs::read_to_string(format!("{ACCOUNT}/token"))?;
        let (host, port) = &self.address;
        let stream = TcpStream::connect((host.as_str(), *port))?;
        stream.set_read_timeout(Some(SILENCE))?;
        let connection = ClientConnection::new(self.tls.clone(), ServerName::try_from(NAME).map_err(wrong)?);
        let mut stream = StreamOwned::new(connection.map_err(wrong)?, stream);
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut head =
            format!("{method} {path} HTTP/1.0\r\nHost: {NAME}\r\nAuthorization: Bearer {}\r\n", token.trim());
        if !body.is_empty() {
            head += &format!("Content-Type: {type_}\r\nContent-Length: {}\r\n", body.len());
        }
        write!(stream, "{head}Accept: application/json\r\n\r\n{body}")?;
        stream.flush()?;
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let code: u16 = line.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(|| wrong("no HTTP"))?;
        while line.trim() != "" {
            line.clear();
            stream.read_line(&mut line)?;
        }
        if (200..300).contains(&code) {
            return Ok(stream);
        }
        let told: Value = serde_json::from_slice(&rest(stream)?).unwrap_or_default();
        Err(Error::Refused(code, told["message"].as_str().unwrap_or_default().to_owned()))
    }
}

fn rest(stream: Stream) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    match stream.take(ANSWER_BYTES_MAX).read_to_end(&mut body) {
        Err(error) if !is_end(&error) => Err(error),
        _ => Ok(body),
    }
}

/// A server that closes the connection without a word of TLS has said what it had to say: JSON knows where it ends.
fn is_end(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof
}
