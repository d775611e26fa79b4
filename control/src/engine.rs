//! A container engine's API (Docker's, and podman's part that is like it): `GET` at its socket. A connection each:
//! it saves nothing to keep them.
//! Read first: the Docker Engine API reference, version 1.24 and later.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::header::HOST;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::port::Endpoint;

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
#[derive(Debug)]
pub struct Stream {
    place: Endpoint,
    body: Incoming,
}

impl Stream {
    /// The next bytes; nothing at its end. Safe to drop and call again.
    ///
    /// # Errors
    /// Why there are none, in the user's words.
    pub async fn next(&mut self) -> Result<Option<Bytes>, String> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|error| failed(&self.place, &error))?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

/// `GET path` as a stream.
///
/// # Errors
/// Why there is none, in the user's words.
pub async fn stream(place: &Endpoint, path: &str) -> Result<Stream, String> {
    let response = in_time(place, send(place, path)).await?;
    Ok(Stream {
        place: place.clone(),
        body: response.into_body(),
    })
}

/// `GET path` as a value. At most 20 s and 16 MiB.
///
/// # Errors
/// Why there is none, in the user's words.
pub async fn get<T: DeserializeOwned>(place: &Endpoint, path: &str) -> Result<T, String> {
    let answer = async {
        let body = send(place, path).await?.into_body();
        let whole = Limited::new(body, LARGEST_ANSWER).collect().await;
        Ok(whole.map_err(|error| failed(place, &*error))?.to_bytes())
    };
    let bytes = in_time(place, answer).await?;
    serde_json::from_slice(&bytes).map_err(|error| failed(place, &error))
}

async fn in_time<T>(
    place: &Endpoint,
    answer: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    tokio::time::timeout(ANSWER_LIMIT, answer)
        .await
        .unwrap_or_else(|_| {
            let limit = ANSWER_LIMIT.as_secs();
            Err(format!("{} gives no answer within {limit} s", shown(place)))
        })
}

/// Either kind of connection.
trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}

async fn connect(place: &Endpoint) -> io::Result<Box<dyn Connection>> {
    Ok(match place {
        Endpoint::Unix(path) => Box::new(UnixStream::connect(path).await?),
        Endpoint::Address(address) => Box::new(TcpStream::connect(address).await?),
    })
}

async fn send(place: &Endpoint, path: &str) -> Result<Response<Incoming>, String> {
    let connection = connect(place).await.map_err(|error| {
        let place = shown(place);
        if error.kind() == io::ErrorKind::PermissionDenied {
            format!("{place} may not be used by this user: join the engine's group, such as docker")
        } else if error.kind() == io::ErrorKind::NotFound {
            format!("{place} is not there")
        } else if error.kind() == io::ErrorKind::ConnectionRefused {
            format!("nobody listens on {place}")
        } else {
            format!("{place}: {error}")
        }
    })?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(connection)).await;
    let (mut sender, driver) = handshake.map_err(|error| failed(place, &error))?;
    // Ends when the sender and the body are dropped.
    tokio::spawn(driver);
    let request = Request::get(path)
        .header(HOST, "engine")
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed(place, &error))?;
    let response = sender.send_request(request).await;
    let response = response.map_err(|error| failed(place, &error))?;
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
        shown(place),
        path.split('?').next().unwrap_or_default(),
        said.unwrap_or_else(|| status.to_string())
    ))
}

fn failed(place: &Endpoint, error: &(impl std::fmt::Display + ?Sized)) -> String {
    format!("{}: {error}", shown(place))
}

/// A socket is known by its path.
fn shown(place: &Endpoint) -> String {
    match place {
        Endpoint::Unix(path) => Path::display(path).to_string(),
        Endpoint::Address(address) => address.to_string(),
    }
}
