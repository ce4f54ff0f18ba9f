//! Commands that use the pod's network: `wget`, `nc`, `nslookup`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use crate::text::pass;
use crate::{Done, Failure, Streams, about};

/// Redirects that are followed.
const REDIRECTS_MAX: usize = 5;

/// Longest head of an answer that is read.
const HEAD_BYTES_MAX: u64 = 64 << 10;

/// `nslookup NAME`
pub(crate) fn look_up(args: &[String], streams: &mut Streams<'_>) -> Done {
    let name = args.first().ok_or("which name?")?;
    let found = (name.as_str(), 0).to_socket_addrs().map_err(|error| format!("can't resolve '{name}': {error}"))?;
    writeln!(streams.stdout, "Name:    {name}")?;
    for address in found {
        writeln!(streams.stdout, "Address: {}", address.ip())?;
    }
    Ok(())
}

/// `nc [-z] HOST PORT`: sends stdin, then shows what comes back; with `-z` it only connects.
pub(crate) fn connect(args: &[String], streams: &mut Streams<'_>) -> Done {
    let (letters, rest) = crate::options(args, "zv")?;
    let [host, port] = rest[..] else { return Err("nc [-z] HOST PORT".into()) };
    let port: u16 = port.parse().map_err(|_| format!("{port:?} is not a port"))?;
    let mut stream = TcpStream::connect((host, port)).map_err(|error| format!("{host}:{port}: {error}"))?;
    if letters.contains('z') {
        if letters.contains('v') {
            writeln!(streams.stderr, "{host}:{port} open")?;
        }
        return Ok(());
    }
    pass(streams.stdin, &mut stream)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    pass(&mut stream, streams.stdout)?;
    Ok(())
}

struct Wanted<'a> {
    url: &'a str,
    output: Option<&'a str>,
    quiet: bool,
    show_head: bool,
    spider: bool,
    timeout: Duration,
    headers: Vec<&'a str>,
    body: Option<&'a str>,
}

fn wanted(args: &[String]) -> Result<Wanted<'_>, Failure> {
    let mut wanted = Wanted {
        url: "",
        output: None,
        quiet: false,
        show_head: false,
        spider: false,
        timeout: Duration::from_secs(60),
        headers: Vec::new(),
        body: None,
    };
    let mut args = args.iter().map(String::as_str);
    while let Some(arg) = args.next() {
        let (name, attached) = match arg.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name, Some(value)),
            _ if arg.len() > 2 && arg.starts_with(['-']) && arg[1..].starts_with(['O', 'T']) => {
                (&arg[..2], Some(&arg[2..]))
            }
            _ => (arg, None),
        };
        let mut value = || attached.or_else(|| args.next()).ok_or_else(|| format!("{name} wants a value"));
        match name {
            "-q" => wanted.quiet = true,
            "-S" => wanted.show_head = true,
            "-qO-" => (wanted.quiet, wanted.output) = (true, Some("-")),
            "-qO" => (wanted.quiet, wanted.output) = (true, Some(value()?)),
            "-O" => wanted.output = Some(value()?),
            "-T" | "--timeout" => {
                wanted.timeout = crate::words::duration(value()?).ok_or("the timeout is no time")?;
            }
            "--spider" => wanted.spider = true,
            "--header" => wanted.headers.push(value()?),
            "--post-data" => wanted.body = Some(value()?),
            _ if name.starts_with('-') => return Err(format!("unknown option {name}").into()),
            url => wanted.url = url,
        }
    }
    if wanted.url.is_empty() { Err("which URL?".into()) } else { Ok(wanted) }
}

/// `wget [-q] [-S] [-O FILE] [-T SECONDS] [--spider] [--header 'A: B'] [--post-data TEXT] URL`
pub(crate) fn get(args: &[String], streams: &mut Streams<'_>) -> Done {
    let wanted = wanted(args)?;
    let mut url = wanted.url.to_owned();
    for _ in 0..=REDIRECTS_MAX {
        let target = Target::parse(&url)?;
        let mut answer = Answer::ask(&wanted, &target)?;
        if wanted.show_head {
            answer.head.iter().try_for_each(|line| writeln!(streams.stderr, "  {line}"))?;
        }
        match (answer.status, answer.header("location")) {
            (301 | 302 | 303 | 307 | 308, Some(place)) => {
                url = match place.strip_prefix('/') {
                    Some(path) => format!("http://{}:{}/{path}", target.host, target.port),
                    None => place.to_owned(),
                };
            }
            (200..=299, _) if wanted.spider => return Ok(()),
            (200..=299, _) => return answer.save(&wanted, &target, streams),
            _ => return Err(format!("server returned error: {}", answer.head[0]).into()),
        }
    }
    Err(format!("more than {REDIRECTS_MAX} redirects").into())
}

#[derive(Debug, PartialEq, Eq)]
struct Target {
    host: String,
    port: u16,
    path: String,
}

impl Target {
    fn parse(url: &str) -> Result<Self, Failure> {
        if url.starts_with("https://") {
            return Err("https is not spoken here".into());
        }
        let rest = url.strip_prefix("http://").unwrap_or(url);
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (host, port) =
            match authority.rsplit_once(':').filter(|(host, _)| !host.contains(':') || host.ends_with(']')) {
                Some((host, port)) => (host, port.parse().map_err(|_| format!("{port:?} is not a port"))?),
                None => (authority, 80),
            };
        let host = host.trim_matches(['[', ']']).to_owned();
        if host.is_empty() {
            return Err(format!("{url:?} names no host").into());
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { host, port, path })
    }
}

struct Answer {
    status: u16,
    /// Status line and headers.
    head: Vec<String>,
    body: BufReader<TcpStream>,
}

impl Answer {
    fn ask(wanted: &Wanted<'_>, target: &Target) -> Result<Self, Failure> {
        let Target { host, port, path } = target;
        let failed = |error: io::Error| Failure::Said(format!("can't connect to {host}:{port}: {error}"));
        let mut stream = TcpStream::connect((host.as_str(), *port)).map_err(failed)?;
        stream.set_read_timeout(Some(wanted.timeout))?;
        let method = if wanted.body.is_some() { "POST" } else { "GET" };
        let authority = if *port == 80 { host.clone() } else { format!("{host}:{port}") };
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: kogia-toolbox\r\n");
        request.push_str("Connection: close\r\n");
        for header in &wanted.headers {
            request.push_str(&format!("{header}\r\n"));
        }
        if let Some(body) = wanted.body {
            request.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        stream.write_all(format!("{request}\r\n{}", wanted.body.unwrap_or_default()).as_bytes())?;
        let mut body = BufReader::with_capacity(crate::text::PIECE_BYTES, stream);
        let head = head(&mut body)?;
        let status = head.first().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        Ok(Self { status: status.ok_or("the answer is not HTTP")?, head, body })
    }

    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.iter().skip(1).filter_map(|line| line.split_once(':'));
        lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    fn save(&mut self, wanted: &Wanted<'_>, target: &Target, streams: &mut Streams<'_>) -> Done {
        let name = target.path.split('?').next().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
        let output = wanted.output.unwrap_or(if name.is_empty() { "index.html" } else { name });
        if output == "-" {
            return self.body(streams.stdout);
        }
        let mut file = File::create(output).map_err(|error| about(output, &error))?;
        self.body(&mut file)?;
        if !wanted.quiet {
            writeln!(streams.stderr, "saved to '{output}'")?;
        }
        Ok(())
    }

    fn body(&mut self, to: &mut dyn Write) -> Done {
        let chunked = self.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"));
        let length = self.header("content-length").and_then(|length| length.parse::<u64>().ok());
        if chunked {
            return unchunk(&mut self.body, to);
        }
        let passed = pass(&mut (&mut self.body).take(length.unwrap_or(u64::MAX)), to)?;
        if length.is_some_and(|length| passed < length) {
            return Err("the connection was closed before the end".into());
        }
        Ok(())
    }
}

fn head(from: &mut impl BufRead) -> Result<Vec<String>, Failure> {
    let mut from = from.take(HEAD_BYTES_MAX);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if from.read_line(&mut line)? == 0 {
            return Err("the connection was closed before the answer".into());
        }
        match line.trim_end() {
            "" => return Ok(lines),
            line => lines.push(line.to_owned()),
        }
    }
}

/// RFC 9112 §7.1.
fn unchunk(from: &mut impl BufRead, to: &mut dyn Write) -> Done {
    loop {
        let mut line = String::new();
        (&mut *from).take(HEAD_BYTES_MAX).read_line(&mut line)?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(digits, 16).map_err(|_| "a chunk has no size")?;
        if size == 0 {
            return Ok(());
        }
        if pass(&mut (&mut *from).take(size), to)? < size {
            return Err("the connection was closed before the end".into());
        }
        (&mut *from).take(2).read_line(&mut String::new())?;
    }
}
