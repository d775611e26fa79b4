//! The control server: HTTP/1.1 and JSON over a unix socket.
//!
//! A daemon lists its routes once, in an [`Api`]; dispatch and the OpenAPI
//! description at `GET /v1/openapi.json` both come from that list. Everything
//! a client can send is bounded: head time, body size and time, connections.
//! Only the daemon's own user and root are heard (`SO_PEERCRED`, `unix(7)`).

mod openapi;
mod routes;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::events::{Event, EventLog};
use crate::failure::{Failure, FailureKind};

pub use routes::{Api, Params};
use routes::{Found, Reply};

/// A configuration fits many times over.
const LARGEST_BODY: usize = 1 << 20;
/// A client that has not sent its request by then is gone or hostile.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// Clients are a person's commands and the other daemons: few.
const MOST_CONNECTIONS: usize = 64;
/// How long open requests may take to end when the daemon stops.
const STOP_LIMIT: Duration = Duration::from_secs(2);
/// `accept` failing again and again (no descriptors left) must not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

type Body = BoxBody<Bytes, Infallible>;

/// Takes the place of a dead daemon's socket; hold the daemon's lock first.
///
/// # Errors
/// When something else than a socket is there, or the folder cannot be written.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    use std::os::unix::fs::FileTypeExt;
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path)?,
        Ok(_) => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!("{} is there and is no socket", path.display()),
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    UnixListener::bind(path)
}

/// Serves until `stop` is done; then open requests have two seconds to end.
/// It never fails: what goes wrong with a connection ends that connection.
pub async fn serve<S>(listener: UnixListener, api: Api<S>, stop: impl Future<Output = ()>)
where
    S: Clone + Send + Sync + 'static,
{
    let api = Arc::new(api);
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let (stopping, stopped) = watch::channel(false);
    let mut stop = pin!(stop);
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            accepted = async {
                // The place is taken first, so that the queue waits in the kernel.
                let place = Arc::clone(&places).acquire_owned().await;
                (listener.accept().await, place)
            } => accepted,
        };
        match accepted {
            (Ok((stream, _)), Ok(place)) => {
                failing = false;
                let connection = serve_connection(stream, Arc::clone(&api), stopped.clone());
                tokio::spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            (Err(error), _) => {
                // Out of descriptors this comes ten times a second: once says it.
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "control socket: accept failed, trying on");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            // The semaphore is never closed.
            (_, Err(_)) => break,
        }
    }
    stopping.send_replace(true);
    let all_places = u32::try_from(MOST_CONNECTIONS).unwrap_or(u32::MAX);
    if tokio::time::timeout(STOP_LIMIT, places.acquire_many(all_places))
        .await
        .is_err()
    {
        tracing::debug!("control socket: requests were still open at the end");
    }
}

async fn serve_connection<S>(stream: UnixStream, api: Arc<Api<S>>, stopped: watch::Receiver<bool>)
where
    S: Clone + Send + Sync + 'static,
{
    let allowed = is_allowed(&stream);
    let stopped_for_service = stopped.clone();
    let service = service_fn(move |request| {
        let api = Arc::clone(&api);
        let stopped = stopped_for_service.clone();
        async move {
            let response = if allowed {
                answer(request, &api, stopped).await
            } else {
                failure(&Failure::new(
                    FailureKind::Forbidden,
                    "only the daemon's own user and root may use this socket",
                ))
            };
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = pin!(
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST_LIMIT)
            .half_close(true)
            .serve_connection(TokioIo::new(stream), service)
    );
    let mut stopped = stopped;
    let ended = tokio::select! {
        outcome = connection.as_mut() => Some(outcome),
        () = told(&mut stopped) => None,
    };
    let outcome = match ended {
        Some(outcome) => outcome,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "control connection ended");
    }
}

/// Waits until the daemon stops; that the sender is gone means the same.
async fn told(stopped: &mut watch::Receiver<bool>) {
    drop(stopped.wait_for(|s| *s).await);
}

fn is_allowed(stream: &UnixStream) -> bool {
    let ours = rustix::process::geteuid().as_raw();
    stream
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == ours || peer.uid() == 0)
}

async fn answer<S>(
    request: Request<Incoming>,
    api: &Api<S>,
    stopped: watch::Receiver<bool>,
) -> Response<Body>
where
    S: Clone + Send + Sync + 'static,
{
    let (head, body) = request.into_parts();
    let route = match api.find(&head.method, head.uri.path()) {
        Found::Route(route) => route,
        Found::OpenApi => return json(StatusCode::OK, &api.describe()),
        Found::OtherMethods(methods) => {
            return method_not_allowed(&head.method, head.uri.path(), &methods);
        }
        Found::Nothing => {
            return failure(
                &Failure::not_found(format!("no {} here", head.uri.path().escape_debug()))
                    .with_hint("GET /v1/openapi.json lists what there is"),
            );
        }
    };
    // What announces its length need not be waited for.
    if body.size_hint().lower() > u64::try_from(LARGEST_BODY).unwrap_or(u64::MAX) {
        return failure(&Failure::invalid(format!(
            "the request's body is over {LARGEST_BODY} bytes"
        )));
    }
    let collected =
        tokio::time::timeout(REQUEST_LIMIT, Limited::new(body, LARGEST_BODY).collect()).await;
    let body = match collected {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => {
            return failure(&Failure::invalid(format!(
                "the request's body cannot be read, or is over {LARGEST_BODY} bytes: {error}"
            )));
        }
        Err(_) => {
            return failure(&Failure::invalid(
                "the request's body did not arrive in time",
            ));
        }
    };
    let query = head.uri.query().unwrap_or_default();
    match route.call(api.state().clone(), query, body).await {
        Ok(Reply::Json(value)) => json(StatusCode::OK, &value),
        Ok(Reply::Text(text)) => respond(
            StatusCode::OK,
            "text/plain; version=0.0.4; charset=utf-8",
            text.into(),
        ),
        Ok(Reply::Events { log, since, follow }) => events(log, since, follow, stopped),
        Ok(Reply::Stream {
            content_type,
            parts,
        }) => stream(content_type, parts, stopped),
        Err(error) => failure(&error),
    }
}

fn method_not_allowed(method: &Method, path: &str, allowed: &[Method]) -> Response<Body> {
    let allowed = allowed
        .iter()
        .map(Method::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    let error = Failure::invalid(format!(
        "{} takes {allowed}, not {method}",
        path.escape_debug()
    ));
    let mut response = json(StatusCode::METHOD_NOT_ALLOWED, &error);
    if let Ok(value) = allowed.parse() {
        response.headers_mut().insert(ALLOW, value);
    }
    response
}

fn failure(error: &Failure) -> Response<Body> {
    let status =
        StatusCode::from_u16(error.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    json(status, error)
}

fn json(status: StatusCode, value: &impl serde::Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(mut text) => {
            text.push(b'\n');
            respond(status, "application/json", text.into())
        }
        Err(error) => respond(
            StatusCode::INTERNAL_SERVER_ERROR,
            "text/plain; charset=utf-8",
            format!("the answer cannot be written as JSON: {error}\n").into(),
        ),
    }
}

fn respond(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Full::new(body).boxed());
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        hyper::header::HeaderValue::from_static(content_type),
    );
    response
}

/// Bytes as they come, until their sender, the client or the daemon ends it.
fn stream(
    content_type: &'static str,
    parts: mpsc::Receiver<Bytes>,
    stopped: watch::Receiver<bool>,
) -> Response<Body> {
    let body = futures_util::stream::unfold((parts, stopped), |(mut parts, mut stopped)| async {
        let part = tokio::select! {
            biased;
            part = parts.recv() => part?,
            () = told(&mut stopped) => return None,
        };
        Some((Ok(Frame::data(part)), (parts, stopped)))
    });
    let mut response = Response::new(BodyExt::boxed(http_body_util::StreamBody::new(body)));
    response.headers_mut().insert(
        CONTENT_TYPE,
        hyper::header::HeaderValue::from_static(content_type),
    );
    response
}

/// JSON lines: what is kept above `since`, then, when following, each new event
/// until the client or the daemon ends it.
fn events(
    log: EventLog,
    since: u64,
    follow: bool,
    stopped: watch::Receiver<bool>,
) -> Response<Body> {
    let body = EventBodyStream {
        pending: None,
        log,
        seen: since,
        follow,
        stopped,
    };
    let mut response = Response::new(BodyExt::boxed(http_body_util::StreamBody::new(
        body.into_stream(),
    )));
    response.headers_mut().insert(
        CONTENT_TYPE,
        hyper::header::HeaderValue::from_static("application/jsonl"),
    );
    response
}

struct EventBodyStream {
    /// Events that were taken from the ring and not yet sent.
    pending: Option<std::vec::IntoIter<Event>>,
    log: EventLog,
    seen: u64,
    follow: bool,
    stopped: watch::Receiver<bool>,
}

impl EventBodyStream {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let batch = self
                .pending
                .get_or_insert_with(|| self.log.since(self.seen).into_iter());
            if let Some(event) = batch.next() {
                self.seen = event.seq;
                let mut line = serde_json::to_vec(&event).ok()?;
                line.push(b'\n');
                return Some(line.into());
            }
            self.pending = None;
            if self.log.newest() > self.seen {
                continue;
            }
            if !self.follow {
                return None;
            }
            tokio::select! {
                () = self.log.wait_past(self.seen) => {}
                () = told(&mut self.stopped) => return None,
            }
        }
    }

    fn into_stream(self) -> impl futures_core::Stream<Item = Result<Frame<Bytes>, Infallible>> {
        futures_util::stream::unfold(self, |mut source| async move {
            let line = source.next().await?;
            Some((Ok(Frame::data(line)), source))
        })
    }
}
