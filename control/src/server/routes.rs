//! The list of routes: paths with `{parameters}`, typed handlers, their schemas.

use std::future::Future;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use hyper::Method;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::events::{Event, EventLog};
use crate::failure::Failure;

/// What a handler answers with.
pub(super) enum Reply {
    Json(serde_json::Value),
    Text(String),
    Events {
        log: EventLog,
        since: u64,
        follow: bool,
    },
    Stream {
        content_type: &'static str,
        parts: mpsc::Receiver<Bytes>,
    },
}

type Answer = Pin<Box<dyn Future<Output = Result<Reply, Failure>> + Send>>;
type Handler<S> = Arc<dyn Fn(S, Params, Bytes) -> Answer + Send + Sync>;
type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// Path and query parameters of one request.
#[derive(Debug, Clone, Default)]
pub struct Params {
    pairs: Vec<(String, String)>,
}

impl Params {
    /// The parameter as a value of its type.
    ///
    /// # Errors
    /// [`Failure`] of kind invalid when it is missing or does not parse.
    pub fn required<T>(&self, name: &str) -> Result<T, Failure>
    where
        T: FromStr,
        T::Err: std::fmt::Display,
    {
        self.optional(name)?
            .ok_or_else(|| Failure::invalid(format!("the parameter {name} is missing")))
    }

    /// The parameter as a value of its type, if it is there.
    ///
    /// # Errors
    /// [`Failure`] of kind invalid when it does not parse.
    pub fn optional<T>(&self, name: &str) -> Result<Option<T>, Failure>
    where
        T: FromStr,
        T::Err: std::fmt::Display,
    {
        let found = self.pairs.iter().find(|(n, _)| n == name);
        found
            .map(|(_, text)| {
                text.parse().map_err(|error| {
                    Failure::invalid(format!(
                        "the parameter {name} = \"{}\": {error}",
                        text.escape_debug()
                    ))
                })
            })
            .transpose()
    }
}

pub(super) struct Route<S> {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) summary: &'static str,
    pub(super) request: Option<SchemaOf>,
    pub(super) response: Option<SchemaOf>,
    handler: Handler<S>,
}

/// A daemon's routes and the state that its handlers share.
pub struct Api<S> {
    title: &'static str,
    state: S,
    routes: Vec<Route<S>>,
}

impl<S> std::fmt::Debug for Api<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let routes = self.routes.iter().map(|r| (&r.method, r.path));
        f.debug_list().entries(routes).finish()
    }
}

/// What stands at a method and path.
pub(super) enum Found<'a, S> {
    Route(Call<'a, S>),
    OpenApi,
    OtherMethods(Vec<Method>),
    Nothing,
}

/// A route with the values of its path's parameters.
pub(super) struct Call<'a, S> {
    route: &'a Route<S>,
    params: Params,
}

impl<S> Call<'_, S> {
    pub(super) fn call(mut self, state: S, query: &str, body: Bytes) -> Answer {
        let pairs = query.split('&').filter(|p| !p.is_empty());
        self.params.pairs.extend(pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, "true"));
            (percent_decoded(name), percent_decoded(value))
        }));
        (self.route.handler)(state, self.params, body)
    }
}

impl<S> Api<S>
where
    S: Clone + Send + Sync + 'static,
{
    /// No routes yet; `title` heads the description.
    pub fn new(title: &'static str, state: S) -> Self {
        Self {
            title,
            state,
            routes: Vec::new(),
        }
    }

    pub(super) fn title(&self) -> &'static str {
        self.title
    }

    pub(super) fn state(&self) -> &S {
        &self.state
    }

    pub(super) fn routes(&self) -> &[Route<S>] {
        &self.routes
    }

    /// Answers `GET path`.
    #[must_use]
    pub fn get<R, F, A>(self, path: &'static str, summary: &'static str, handler: F) -> Self
    where
        R: Serialize + JsonSchema,
        F: Fn(S, Params) -> A + Send + Sync + 'static,
        A: Future<Output = Result<R, Failure>> + Send + 'static,
    {
        self.add::<R, _>(
            Method::GET,
            (path, summary),
            None,
            move |state, params, _| {
                let answer = handler(state, params);
                Box::pin(async move { to_json(answer.await?) })
            },
        )
    }

    /// Answers `POST path`; an empty body reads as `null`.
    #[must_use]
    pub fn post<B, R, F, A>(self, path: &'static str, summary: &'static str, handler: F) -> Self
    where
        B: DeserializeOwned + JsonSchema + Send + 'static,
        R: Serialize + JsonSchema,
        F: Fn(S, Params, B) -> A + Send + Sync + 'static,
        A: Future<Output = Result<R, Failure>> + Send + 'static,
    {
        self.with_body(Method::POST, path, summary, handler)
    }

    /// Answers `DELETE path`; an empty body reads as `null`.
    #[must_use]
    pub fn delete<B, R, F, A>(self, path: &'static str, summary: &'static str, handler: F) -> Self
    where
        B: DeserializeOwned + JsonSchema + Send + 'static,
        R: Serialize + JsonSchema,
        F: Fn(S, Params, B) -> A + Send + Sync + 'static,
        A: Future<Output = Result<R, Failure>> + Send + 'static,
    {
        self.with_body(Method::DELETE, path, summary, handler)
    }

    /// Answers `GET path` with plain text, for `/metrics`.
    #[must_use]
    pub fn text<F, A>(self, path: &'static str, summary: &'static str, handler: F) -> Self
    where
        F: Fn(S) -> A + Send + Sync + 'static,
        A: Future<Output = Result<String, Failure>> + Send + 'static,
    {
        let handler: Handler<S> = Arc::new(move |state, _, _| {
            let answer = handler(state);
            Box::pin(async move { answer.await.map(Reply::Text) })
        });
        self.push(Method::GET, (path, summary), (None, None), handler)
    }

    /// Answers `GET path` with bytes that come as they are sent, until the sender is dropped. A reader
    /// that goes away is seen by the sender as a closed channel.
    #[must_use]
    pub fn stream<F, A>(
        self,
        path: &'static str,
        summary: &'static str,
        content_type: &'static str,
        handler: F,
    ) -> Self
    where
        F: Fn(S, Params) -> A + Send + Sync + 'static,
        A: Future<Output = Result<mpsc::Receiver<Bytes>, Failure>> + Send + 'static,
    {
        let handler: Handler<S> = Arc::new(move |state, params, _| {
            let answer = handler(state, params);
            Box::pin(async move {
                answer.await.map(|parts| Reply::Stream {
                    content_type,
                    parts,
                })
            })
        });
        self.push(Method::GET, (path, summary), (None, None), handler)
    }

    /// Answers `GET /v1/events?since=NUMBER&follow=true` with JSON lines.
    #[must_use]
    pub fn events(self, log: EventLog) -> Self {
        let handler: Handler<S> = Arc::new(move |_, params, _| {
            let log = log.clone();
            Box::pin(async move {
                Ok(Reply::Events {
                    log,
                    since: params.optional("since")?.unwrap_or(0),
                    follow: params.optional("follow")?.unwrap_or(false),
                })
            })
        });
        let summary = "Events as JSON lines, those after the number `since`; with `follow`, also those to come";
        let schemas: (Option<SchemaOf>, Option<SchemaOf>) = (None, Some(schema_of::<Event>));
        self.push(Method::GET, ("/v1/events", summary), schemas, handler)
    }

    fn with_body<B, R, F, A>(
        self,
        method: Method,
        path: &'static str,
        summary: &'static str,
        handler: F,
    ) -> Self
    where
        B: DeserializeOwned + JsonSchema + Send + 'static,
        R: Serialize + JsonSchema,
        F: Fn(S, Params, B) -> A + Send + Sync + 'static,
        A: Future<Output = Result<R, Failure>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        self.add::<R, _>(
            method,
            (path, summary),
            Some(schema_of::<B>),
            move |state, params, body| {
                let handler = Arc::clone(&handler);
                Box::pin(async move {
                    let text: &[u8] = if body.is_empty() { b"null" } else { &body };
                    let body = serde_json::from_slice(text).map_err(|error| {
                        Failure::invalid(format!("the request's body: {error}"))
                    })?;
                    to_json(handler(state, params, body).await?)
                })
            },
        )
    }

    fn add<R, H>(
        self,
        method: Method,
        (path, summary): (&'static str, &'static str),
        request: Option<SchemaOf>,
        handler: H,
    ) -> Self
    where
        R: JsonSchema,
        H: Fn(S, Params, Bytes) -> Answer + Send + Sync + 'static,
    {
        self.push(
            method,
            (path, summary),
            (request, Some(schema_of::<R>)),
            Arc::new(handler),
        )
    }

    fn push(
        mut self,
        method: Method,
        (path, summary): (&'static str, &'static str),
        (request, response): (Option<SchemaOf>, Option<SchemaOf>),
        handler: Handler<S>,
    ) -> Self {
        self.routes.push(Route {
            method,
            path,
            summary,
            request,
            response,
            handler,
        });
        self
    }

    pub(super) fn find(&self, method: &Method, path: &str) -> Found<'_, S> {
        if path == "/v1/openapi.json" && method == Method::GET {
            return Found::OpenApi;
        }
        let mut others = Vec::new();
        for route in &self.routes {
            let Some(params) = matched(route.path, path) else {
                continue;
            };
            if route.method == *method {
                return Found::Route(Call { route, params });
            }
            others.push(route.method.clone());
        }
        if others.is_empty() {
            Found::Nothing
        } else {
            Found::OtherMethods(others)
        }
    }
}

fn schema_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

fn to_json(value: impl Serialize) -> Result<Reply, Failure> {
    serde_json::to_value(value)
        .map(Reply::Json)
        .map_err(|error| {
            Failure::internal(format!("the answer cannot be written as JSON: {error}"))
        })
}

/// The values of `{name}` segments, when the path has the pattern's form.
fn matched(pattern: &str, path: &str) -> Option<Params> {
    let mut params = Params::default();
    let mut segments = path.split('/');
    for expected in pattern.split('/') {
        let segment = segments.next()?;
        match expected.strip_prefix('{').and_then(|e| e.strip_suffix('}')) {
            Some(name) => params
                .pairs
                .push((name.to_owned(), percent_decoded(segment))),
            None if expected == segment => {}
            None => return None,
        }
    }
    segments.next().is_none().then_some(params)
}

/// RFC 3986 section 2.1; what is no escape stays as it is, bytes that are no text become U+FFFD.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escape = (first == b'%')
            .then(|| after.get(..2))
            .flatten()
            .filter(|hex| hex.iter().all(u8::is_ascii_hexdigit))
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match escape {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn patterns_take_whole_segments() {
        let name = |path| {
            matched("/v1/guests/{name}/link", path).map(|p| p.required::<String>("name").unwrap())
        };
        assert_eq!(name("/v1/guests/dev/link").as_deref(), Some("dev"));
        assert_eq!(name("/v1/guests/a%2Fb/link").as_deref(), Some("a/b"));
        assert_eq!(name("/v1/guests/dev"), None);
        assert_eq!(name("/v1/guests/dev/link/more"), None);
    }

    #[test]
    fn bad_escapes_stay() {
        for (text, expected) in [
            ("%", "%"),
            ("%4", "%4"),
            ("%zz", "%zz"),
            ("%41%", "A%"),
            ("%ff", "\u{fffd}"),
            ("%+1", "%+1"),
        ] {
            assert_eq!(percent_decoded(text), expected);
        }
    }
}
