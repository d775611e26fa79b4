//! `GET` at an engine's socket. A connection each: it saves nothing to keep them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::header::HOST;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

/// How long an answer may take; a busy engine needs seconds.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// A thousand containers with their labels.
const LARGEST_ANSWER: usize = 16 << 20;

/// What an engine says when it refuses.
#[derive(Debug, Deserialize)]
struct Refusal {
    message: String,
}

/// A body that comes as it is sent.
pub(super) struct Stream {
    socket: PathBuf,
    body: Incoming,
}

impl Stream {
    /// The next bytes; nothing at its end. Safe to drop and call again.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, String> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|error| failed(&self.socket, &error))?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

/// `GET path` as a stream.
pub(super) async fn stream(socket: &Path, path: &str) -> Result<Stream, String> {
    let response = in_time(socket, send(socket, path)).await?;
    Ok(Stream {
        socket: socket.to_owned(),
        body: response.into_body(),
    })
}

/// `GET path` as a value.
pub(super) async fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, String> {
    let answer = async {
        let body = send(socket, path).await?.into_body();
        let whole = Limited::new(body, LARGEST_ANSWER).collect().await;
        Ok(whole.map_err(|error| failed(socket, &*error))?.to_bytes())
    };
    let bytes = in_time(socket, answer).await?;
    serde_json::from_slice(&bytes).map_err(|error| failed(socket, &error))
}

async fn in_time<T>(
    socket: &Path,
    answer: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    tokio::time::timeout(ANSWER_LIMIT, answer)
        .await
        .unwrap_or_else(|_| {
            let limit = ANSWER_LIMIT.as_secs();
            Err(format!(
                "{} gives no answer within {limit} s",
                socket.display()
            ))
        })
}

async fn send(socket: &Path, path: &str) -> Result<Response<Incoming>, String> {
    let connected = UnixStream::connect(socket).await;
    let connection = connected.map_err(|error| {
        let socket = socket.display();
        if error.kind() == std::io::ErrorKind::PermissionDenied {
            format!(
                "{socket} may not be used by this user: join the engine's group, such as docker"
            )
        } else if error.kind() == std::io::ErrorKind::NotFound {
            format!("{socket} is not there")
        } else if error.kind() == std::io::ErrorKind::ConnectionRefused {
            format!("nobody listens on {socket}")
        } else {
            format!("{socket}: {error}")
        }
    })?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(connection)).await;
    let (mut sender, driver) = handshake.map_err(|error| failed(socket, &error))?;
    // Ends when the sender and the body are dropped.
    tokio::spawn(driver);
    let request = Request::get(path)
        .header(HOST, "engine")
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed(socket, &error))?;
    let response = sender.send_request(request).await;
    let response = response.map_err(|error| failed(socket, &error))?;
    if response.status().is_success() {
        return Ok(response);
    }
    let status = response.status();
    let body = Limited::new(response.into_body(), LARGEST_ANSWER)
        .collect()
        .await;
    let said = body.ok().and_then(|body| {
        let refusal: Refusal = serde_json::from_slice(&body.to_bytes()).ok()?;
        Some(refusal.message.chars().take(300).collect::<String>())
    });
    Err(format!(
        "{} refuses {}: {}",
        socket.display(),
        path.split('?').next().unwrap_or_default(),
        said.unwrap_or_else(|| status.to_string())
    ))
}

fn failed(socket: &Path, error: &(impl std::fmt::Display + ?Sized)) -> String {
    format!("{}: {error}", socket.display())
}
