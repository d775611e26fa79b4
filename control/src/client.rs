//! The control client: one HTTP/1.1 request over a fresh unix connection each.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::events::Event;
use crate::failure::{Failure, FailureKind};

/// How long an answer may take; events that are followed have no limit.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// A daemon's control socket.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    only_reads: bool,
}

impl Client {
    /// Connects nowhere yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            only_reads: false,
        }
    }

    /// The same, but what would change something is refused before it leaves.
    #[must_use]
    pub fn only_reading(mut self) -> Self {
        self.only_reads = true;
        self
    }

    /// The socket's path.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// `GET path` as a value.
    ///
    /// # Errors
    /// The daemon's own [`Failure`]; [`FailureKind::NotRunning`] when nobody listens.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.exchange(Method::GET, path, Bytes::new()).await
    }

    /// `GET path` as text.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn get_text(&self, path: &str) -> Result<String, Failure> {
        let body = self
            .limited(self.bytes(Method::GET, path, Bytes::new()))
            .await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// `POST path` with a JSON body; `&()` for none.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn post<B: Serialize + ?Sized, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, Failure> {
        self.exchange(Method::POST, path, to_json(body)?).await
    }

    /// `DELETE path` with a JSON body; `&()` for none.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn delete<B: Serialize + ?Sized, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, Failure> {
        self.exchange(Method::DELETE, path, to_json(body)?).await
    }

    /// The events after number `since`; with `follow` also those to come.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn events(&self, since: u64, follow: bool) -> Result<Events, Failure> {
        let path = format!("/v1/events?since={since}&follow={follow}");
        let response = self
            .limited(self.send(Method::GET, &path, Bytes::new()))
            .await?;
        if !response.status().is_success() {
            return Err(self.failure(response).await);
        }
        Ok(Events {
            socket: self.socket.clone(),
            body: response.into_body(),
            buffer: Vec::new(),
        })
    }

    /// `GET path` as bytes that come as they are sent.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn stream(&self, path: &str) -> Result<ByteStream, Failure> {
        let response = self
            .limited(self.send(Method::GET, path, Bytes::new()))
            .await?;
        if !response.status().is_success() {
            return Err(self.failure(response).await);
        }
        Ok(ByteStream {
            socket: self.socket.clone(),
            body: response.into_body(),
        })
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, Failure> {
        let bytes = self.limited(self.bytes(method, path, body)).await?;
        serde_json::from_slice(&bytes).map_err(|error| {
            Failure::internal(format!(
                "{} answered {path} in an unknown form: {error}",
                self.socket.display()
            ))
            .with_hint(
                "command and daemon may be of different versions: sharectl down, then sharectl up",
            )
        })
    }

    async fn limited<T>(
        &self,
        answer: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::time::timeout(ANSWER_LIMIT, answer)
            .await
            .unwrap_or_else(|_| {
                Err(Failure::internal(format!(
                    "{} gave no answer within {} s",
                    self.socket.display(),
                    ANSWER_LIMIT.as_secs()
                )))
            })
    }

    async fn bytes(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, Failure> {
        let response = self.send(method, path, body).await?;
        if !response.status().is_success() {
            return Err(self.failure(response).await);
        }
        let body = response.into_body().collect().await;
        body.map(http_body_util::Collected::to_bytes)
            .map_err(|e| broken(&self.socket, &e))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, Failure> {
        if self.only_reads && method != Method::GET {
            return Err(Failure::new(
                FailureKind::Unsupported,
                format!("{method} {path} was held back: nothing is to be changed"),
            ));
        }
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|e| self.unreachable(&e))?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|e| broken(&self.socket, &e))?;
        // Ends by itself when the response's body has been read or dropped.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "control connection ended");
            }
        });
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "sharectl")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| {
                Failure::invalid(format!("no request can be made for {path:?}: {error}"))
            })?;
        sender
            .send_request(request)
            .await
            .map_err(|e| broken(&self.socket, &e))
    }

    fn unreachable(&self, error: &io::Error) -> Failure {
        let message = format!("cannot reach {}: {error}", self.socket.display());
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "of the many kinds these say more"
        )]
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                let daemon = self
                    .socket
                    .file_stem()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                Failure::new(
                    FailureKind::NotRunning,
                    format!("{daemon} is not running ({message})"),
                )
                .with_hint("start it: sharectl up")
            }
            io::ErrorKind::PermissionDenied => Failure::new(FailureKind::Forbidden, message)
                .with_hint("run the command as the user who ran sharectl up"),
            _ => Failure::internal(message),
        }
    }

    async fn failure(&self, response: Response<Incoming>) -> Failure {
        let status = response.status();
        let body = response
            .into_body()
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes);
        body.ok()
            .and_then(|b| serde_json::from_slice(&b).ok())
            .unwrap_or_else(|| {
                Failure::internal(format!("{} answered {status}", self.socket.display()))
            })
    }
}

fn to_json<B: Serialize + ?Sized>(body: &B) -> Result<Bytes, Failure> {
    serde_json::to_vec(body).map(Bytes::from).map_err(|error| {
        Failure::invalid(format!("the request cannot be written as JSON: {error}"))
    })
}

fn broken(socket: &Path, error: &hyper::Error) -> Failure {
    Failure::internal(format!(
        "the connection to {} broke: {error}",
        socket.display()
    ))
}

/// A text as a value of a query, RFC 3986 section 2.1.
#[must_use]
pub fn encoded(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            safe.push(char::from(byte));
        } else {
            safe.push_str(&format!("%{byte:02X}"));
        }
    }
    safe
}

/// Bytes as they come.
#[derive(Debug)]
pub struct ByteStream {
    socket: PathBuf,
    body: Incoming,
}

impl ByteStream {
    /// The next bytes; none when the daemon ended the stream. Safe to drop and call again.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Some(Err(error)) => return Err(broken(&self.socket, &error)),
            }
        }
    }
}

/// Events as they come.
#[derive(Debug)]
pub struct Events {
    socket: PathBuf,
    body: Incoming,
    buffer: Vec<u8>,
}

impl Events {
    /// The next event; none when the daemon ended the stream. Safe to drop and call again.
    ///
    /// # Errors
    /// When the connection breaks or a line is no event.
    pub async fn next(&mut self) -> Result<Option<Event>, Failure> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return serde_json::from_slice(&line).map(Some).map_err(|error| {
                    Failure::internal(format!(
                        "{} sent an unknown event: {error}",
                        self.socket.display()
                    ))
                });
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(broken(&self.socket, &error)),
            }
        }
    }
}
