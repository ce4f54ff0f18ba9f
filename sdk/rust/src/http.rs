//! HTTP both ways: requests that come in, and [`send`] for those that go out. Follows `wasi:http` 0.2.

use std::fmt;
use std::io::{self, Read, Write};

use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    Fields, IncomingBody, IncomingRequest, Method, OutgoingBody, OutgoingRequest, OutgoingResponse, ResponseOutparam,
    Scheme,
};

/// A header's name and value, in the order they came.
pub type Header = (String, Vec<u8>);

/// The bytes of a message as they arrive.
pub struct Incoming(Option<IncomingBody>);

impl Incoming {
    /// Everything there is, at most `limit_bytes` of it.
    ///
    /// # Errors
    /// When the peer breaks off, or when there is more than the limit.
    pub fn bytes(self, limit_bytes: usize) -> io::Result<Vec<u8>> {
        let Some(body) = self.0 else { return Ok(Vec::new()) };
        let stream = body.stream().map_err(|()| io::Error::other("the body was taken before"))?;
        let mut bytes = Vec::new();
        stream.take(limit_bytes as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > limit_bytes {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the body is larger than the limit"));
        }
        Ok(bytes)
    }
}

/// A request: the one that came in, or one to [`send`].
pub struct Request {
    method: Method,
    scheme: Scheme,
    authority: String,
    path_and_query: String,
    headers: Vec<Header>,
    body: Vec<u8>,
    incoming: Option<IncomingRequest>,
}

impl Request {
    #[doc(hidden)]
    pub fn incoming(request: IncomingRequest) -> Self {
        Self {
            method: request.method(),
            scheme: request.scheme().unwrap_or(Scheme::Http),
            authority: request.authority().unwrap_or_default(),
            path_and_query: request.path_with_query().unwrap_or_else(|| "/".into()),
            headers: request.headers().entries(),
            body: Vec::new(),
            incoming: Some(request),
        }
    }

    /// A GET for an absolute URL such as `http://counter.default.svc/value`.
    ///
    /// # Errors
    /// [`Error::Url`] when the URL has no scheme or no host.
    pub fn get(url: &str) -> Result<Self, Error> {
        let (scheme, rest) = url.split_once("://").ok_or(Error::Url)?;
        let (authority, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
        let scheme = match scheme {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err(Error::Url),
        };
        if authority.is_empty() {
            return Err(Error::Url);
        }
        Ok(Self {
            method: Method::Get,
            scheme,
            authority: authority.into(),
            path_and_query: path.into(),
            headers: Vec::new(),
            body: Vec::new(),
            incoming: None,
        })
    }

    /// The same as a POST with a body.
    #[must_use]
    pub fn post(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.method = Method::Post;
        self.body = body.into();
        self
    }

    /// With one more header.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// `GET`, `POST`, …
    pub fn method(&self) -> &str {
        match &self.method {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
            Method::Connect => "CONNECT",
            Method::Options => "OPTIONS",
            Method::Trace => "TRACE",
            Method::Patch => "PATCH",
            Method::Other(name) => name,
        }
    }

    /// The path without the query.
    pub fn path(&self) -> &str {
        self.path_and_query.split('?').next().unwrap_or("/")
    }

    /// What follows `?`, empty when nothing does.
    pub fn query(&self) -> &str {
        self.path_and_query.split_once('?').map_or("", |(_, query)| query)
    }

    /// The host the caller asked for, with its port if it named one.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The first header of that name, when it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(value).ok()
    }

    /// The body of a request that came in.
    pub fn into_body(self) -> Incoming {
        Incoming(self.incoming.and_then(|request| request.consume().ok()))
    }
}

/// An answer.
pub struct Response {
    /// 200, 404, …
    pub status: u16,
    /// In the order they are sent.
    pub headers: Vec<Header>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Response {
    /// 200 with plain text.
    pub fn text(body: impl Into<String>) -> Self {
        Self::new(200, "text/plain; charset=utf-8", body.into())
    }

    /// 200 with HTML.
    pub fn html(body: impl Into<String>) -> Self {
        Self::new(200, "text/html; charset=utf-8", body.into())
    }

    /// Any status, type and body.
    pub fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: vec![("content-type".into(), content_type.into())], body: body.into() }
    }

    /// With another status.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// With one more header.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

/// Why a request could not be sent or was not answered.
#[derive(Debug)]
pub enum Error {
    /// The URL cannot be read.
    Url,
    /// A header is not allowed or not well formed.
    Header,
    /// The host gave up: refused, no such name, timed out, …
    Http(wasip2::http::types::ErrorCode),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url => f.write_str("not an absolute http or https URL"),
            Self::Header => f.write_str("a header is not allowed"),
            Self::Http(code) => write!(f, "{code}"),
        }
    }
}

impl std::error::Error for Error {}

/// An answer that came back from [`send`].
pub struct Reply {
    /// 200, 404, …
    pub status: u16,
    /// In the order they came.
    pub headers: Vec<Header>,
    /// The body as it arrives.
    pub body: Incoming,
}

/// Sends a request and waits for the head of its answer. Whoever answers may do so without having read the body.
///
/// # Errors
/// When the request is not well formed, or nobody answers.
pub fn send(request: Request) -> Result<Reply, Error> {
    let headers = Fields::from_list(&request.headers).map_err(|_| Error::Header)?;
    let outgoing = OutgoingRequest::new(headers);
    outgoing.set_method(&request.method).map_err(|()| Error::Url)?;
    outgoing.set_scheme(Some(&request.scheme)).map_err(|()| Error::Url)?;
    outgoing.set_authority(Some(&request.authority)).map_err(|()| Error::Url)?;
    outgoing.set_path_with_query(Some(&request.path_and_query)).map_err(|()| Error::Url)?;
    let body = outgoing.body().map_err(|()| Error::Url)?;
    let pending = outgoing_handler::handle(outgoing, None).map_err(Error::Http)?;
    // Nobody may want the body, or all of it: what came of the request is what its answer says.
    let _ = write_all(body, &request.body);
    pending.subscribe().block();
    let reply = pending.get().expect("the pollable is ready").expect("asked once").map_err(Error::Http)?;
    Ok(Reply { status: reply.status(), headers: reply.headers().entries(), body: Incoming(reply.consume().ok()) })
}

/// Sends a handler's answer. A caller who has gone away is nobody's error.
#[doc(hidden)]
pub fn answer(out: ResponseOutparam, response: Response) {
    let headers = Fields::from_list(&response.headers).unwrap_or_else(|_| Fields::new());
    let outgoing = OutgoingResponse::new(headers);
    let known = outgoing.set_status_code(response.status).is_ok();
    if !known {
        eprintln!("{} is not an HTTP status; answering 500", response.status);
        let _ = outgoing.set_status_code(500);
    }
    let body = outgoing.body().expect("the body is taken once");
    ResponseOutparam::set(out, Ok(outgoing));
    let _ = write_all(body, &response.body);
}

fn write_all(body: OutgoingBody, bytes: &[u8]) -> io::Result<()> {
    {
        let mut stream = body.write().expect("the stream is taken once");
        stream.write_all(bytes)?;
        Write::flush(&mut stream)?;
    }
    OutgoingBody::finish(body, None).map_err(|code| io::Error::other(code.to_string()))
}
