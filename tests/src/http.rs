//! A small HTTP/1.1 client and a one-page server, written apart from the daemons' own client so that
//! a mistake in that one is seen. One request a connection; no TLS, no keep-alive.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Header lines, as they came.
    pub head: String,
    /// The body, chunks joined.
    pub body: String,
}

impl Response {
    /// The body as JSON.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.body).with_context(|| format!("not JSON: {}", self.body))
    }

    /// The body as JSON if the status is 2xx.
    ///
    /// # Errors
    /// Any other status, with the body.
    pub fn success(&self) -> Result<serde_json::Value> {
        if !(200..300).contains(&self.status) {
            bail!("status {}: {}", self.status, self.body);
        }
        if self.body.is_empty() {
            return Ok(serde_json::Value::Null);
        }
        self.json()
    }
}

/// A request over a unix socket.
///
/// # Errors
/// When the server cannot be reached, answers nothing within `limit`, or answers no HTTP.
pub fn over_unix(
    socket: &Path,
    method: &str,
    path: &str,
    body: Option<&serde_json::Value>,
    limit: Duration,
) -> Result<Response> {
    let stream =
        UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    exchange(stream, &request(method, path, body))
        .with_context(|| format!("{method} {path} at {}", socket.display()))
}

/// A GET over TCP.
///
/// # Errors
/// As [`over_unix`].
pub fn get(address: SocketAddr, path: &str, limit: Duration) -> Result<Response> {
    let stream = TcpStream::connect_timeout(&address, limit)
        .with_context(|| format!("connect to {address}"))?;
    stream.set_read_timeout(Some(limit))?;
    exchange(stream, &request("GET", path, None))
        .with_context(|| format!("GET {path} at {address}"))
}

/// Sends raw bytes to a unix socket and gives whatever comes back until the other side closes or
/// `limit` passes: for requests that are no requests.
///
/// # Errors
/// When the server cannot be reached. A reset while writing is an answer too.
pub fn raw_over_unix(socket: &Path, bytes: &[u8], limit: Duration) -> Result<Vec<u8>> {
    let mut stream =
        UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    if stream.write_all(bytes).is_ok() {
        // The server may have closed already, which is its right.
        drop(stream.shutdown(std::net::Shutdown::Write));
    }
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut chunk) {
        answer.extend_from_slice(chunk.get(..length).unwrap_or_default());
    }
    Ok(answer)
}

fn request(method: &str, path: &str, body: Option<&serde_json::Value>) -> Vec<u8> {
    let body = body.map(ToString::to_string).unwrap_or_default();
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

fn exchange(mut stream: impl Read + Write, request: &[u8]) -> Result<Response> {
    stream.write_all(request).context("send the request")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("read the answer")?;
    parse(&answer)
}

fn parse(answer: &[u8]) -> Result<Response> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text
        .split_once("\r\n\r\n")
        .with_context(|| format!("no end of head: {text:?}"))?;
    let status = head
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.get(2..5)?.parse().ok())
        .with_context(|| format!("no status line: {head:?}"))?;
    let chunked = head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked");
    Ok(Response {
        status,
        head: head.to_owned(),
        body: if chunked {
            joined(body)
        } else {
            body.to_owned()
        },
    })
}

fn joined(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let Ok(length @ 1..) = usize::from_str_radix(length.trim(), 16) else {
            break;
        };
        whole.push_str(rest.get(..length).unwrap_or(rest));
        body = rest.get(length + 2..).unwrap_or_default();
    }
    whole
}

/// A TCP port that is free on every address of this host: `wished` if it is, else one of the kernel's
/// choice.
///
/// # Errors
/// When there is none.
pub fn free_port(wished: u16) -> Result<u16> {
    let any = std::net::Ipv4Addr::UNSPECIFIED;
    let listener = TcpListener::bind((any, wished)).or_else(|_| TcpListener::bind((any, 0)))?;
    Ok(listener.local_addr()?.port())
}

/// A web server on the host with one page, until dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl Server {
    /// Serves `page` for every request, on a free port of `address`.
    ///
    /// # Errors
    /// When no port can be bound.
    pub fn start(address: std::net::IpAddr, page: &str) -> Result<Self> {
        let listener = TcpListener::bind((address, 0)).context("bind the test's web server")?;
        let address = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, page) = (Arc::clone(&stop), page.to_owned());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if seen.load(Ordering::Relaxed) {
                    break;
                }
                let page = page.clone();
                // The client's failure is for its own side to report.
                std::thread::spawn(move || drop(answer(stream, &page)));
            }
        });
        Ok(Self { address, stop })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the accept; when that fails nothing listens any more.
        drop(TcpStream::connect(self.address));
    }
}

fn answer(mut stream: TcpStream, page: &str) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    while !head.windows(4).any(|part| part == b"\r\n\r\n") && head.len() < 65_536 {
        let length = stream.read(&mut chunk)?;
        if length == 0 {
            return Ok(());
        }
        head.extend_from_slice(chunk.get(..length).unwrap_or_default());
    }
    let length = page.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{page}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_joined() {
        let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        assert_eq!(parse(answer).unwrap().body, "abcde");
    }

    #[test]
    fn an_answer_that_is_no_http_is_an_error() {
        assert!(parse(b"SSH-2.0-x\r\n\r\n").is_err());
        assert!(parse(b"").is_err());
    }

    #[test]
    fn the_server_serves_its_page() {
        let server = Server::start([127, 0, 0, 1].into(), "hello").unwrap();
        let answer = get(server.address(), "/", Duration::from_secs(5)).unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (200, "hello"));
    }
}
