//! Server and client together over a real socket, and hostile bytes by hand.

use std::io::{Read, Write};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::*;
use crate::client::Client;
use crate::events::EventBody;

#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Sum {
    left: u32,
    right: u32,
}

fn api(log: EventLog) -> Api<u32> {
    Api::new("test", 7)
        .get(
            "/v1/state",
            "The state",
            |state, _| async move { Ok(state) },
        )
        .get("/v1/double/{number}", "Twice", |_, params| async move {
            let number: u32 = params.required("number")?;
            Ok(number * 2)
        })
        .post("/v1/sum", "Adds", |_, _, sum: Sum| async move {
            sum.left
                .checked_add(sum.right)
                .ok_or_else(|| Failure::conflict("too large").with_hint("take smaller numbers"))
        })
        .text("/metrics", "Counters", |state| async move {
            Ok(format!("state {state}\n"))
        })
        .stream(
            "/v1/bytes",
            "Bytes as they come",
            "application/octet-stream",
            |_, params| async move {
                let (parts, receiver) = mpsc::channel(1);
                if params.optional("endless")?.unwrap_or(false) {
                    // It ends with its reader.
                    tokio::spawn(async move { while parts.send("x".into()).await.is_ok() {} });
                } else {
                    tokio::spawn(async move {
                        for part in ["one", "two"] {
                            parts.send(part.into()).await.unwrap();
                        }
                    });
                }
                Ok(receiver)
            },
        )
        .events(log)
}

/// Runs `body` beside a server on a socket in a folder of its own.
fn with_server<F: Future<Output = ()>>(body: impl FnOnce(PathBuf, EventLog) -> F) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sock");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let log = EventLog::new();
        let listener = bind(&path).unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = serve(listener, api(log.clone()), async {
            stopped.await.ok();
        });
        let client = async {
            body(path.clone(), log).await;
            stop.send(()).unwrap();
        };
        tokio::join!(server, client);
    });
}

#[test]
fn a_client_that_only_reads_sends_nothing_else() {
    with_server(|path, _log| async move {
        let client = Client::new(path).only_reading();
        assert_eq!(client.get::<u32>("/v1/state").await, Ok(7));
        let sum = Sum { left: 1, right: 2 };
        let answer: Result<u32, Failure> = client.post("/v1/sum", &sum).await;
        let failure = answer.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Unsupported);
        assert!(failure.message.contains("/v1/sum was held back"));
        let answer: Result<(), Failure> = client.delete("/v1/sum", &()).await;
        assert_eq!(answer.unwrap_err().kind, FailureKind::Unsupported);
    });
}

#[test]
fn bytes_come_as_they_are_sent_until_either_end_goes() {
    with_server(|path, _| async move {
        let client = Client::new(path);
        let mut stream = client.stream("/v1/bytes").await.unwrap();
        let mut all = Vec::new();
        while let Some(bytes) = stream.next().await.unwrap() {
            all.extend_from_slice(&bytes);
        }
        assert_eq!(all, b"onetwo");
        let mut endless = client.stream("/v1/bytes?endless=true").await.unwrap();
        assert_eq!(endless.next().await.unwrap().unwrap()[0], b'x');
        // The server ends below although this reader is still there.
        assert!(client.stream("/v1/nothing").await.is_err());
        drop(endless);
    });
}

#[test]
fn values_errors_and_text_cross() {
    with_server(|path, _| async move {
        let client = Client::new(path);
        assert_eq!(client.get::<u32>("/v1/state").await, Ok(7));
        assert_eq!(client.get::<u32>("/v1/double/21").await, Ok(42));
        assert_eq!(
            client
                .post::<_, u32>("/v1/sum", &Sum { left: 1, right: 2 })
                .await,
            Ok(3)
        );
        assert_eq!(client.get_text("/metrics").await.unwrap(), "state 7\n");
        let error = client
            .post::<_, u32>(
                "/v1/sum",
                &Sum {
                    left: u32::MAX,
                    right: 2,
                },
            )
            .await
            .unwrap_err();
        assert_eq!(
            error,
            Failure::conflict("too large").with_hint("take smaller numbers")
        );
        let error = client.get::<u32>("/v1/double/x").await.unwrap_err();
        assert_eq!(error.kind, FailureKind::Invalid);
        assert!(error.message.contains("number = \"x\""), "{error}");
        let error = client
            .post::<_, u32>("/v1/sum", &serde_json::json!({"left": 1, "rihgt": 2}))
            .await
            .unwrap_err();
        assert!(error.message.contains("rihgt"), "{error}");
        assert_eq!(
            client.get::<u32>("/nope").await.unwrap_err().kind,
            FailureKind::NotFound
        );
        let error = client.delete::<_, u32>("/v1/sum", &()).await.unwrap_err();
        assert_eq!(error.message, "/v1/sum takes POST, not DELETE");
    });
}

#[test]
fn absent_daemon_is_not_running() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let error = runtime
        .block_on(Client::new("/nowhere/netd.sock").get::<u32>("/v1/status"))
        .unwrap_err();
    assert_eq!(error.kind, FailureKind::NotRunning);
    assert!(error.message.starts_with("netd is not running"), "{error}");
}

#[test]
fn events_resume_and_follow() {
    with_server(|path, log| async move {
        let started = || EventBody::Started {
            version: "1".to_owned(),
        };
        log.publish(started());
        log.publish(started());
        let client = Client::new(path);
        let mut past = client.events(1, false).await.unwrap();
        assert_eq!(past.next().await.unwrap().unwrap().seq, 2);
        assert_eq!(past.next().await.unwrap(), None);
        let mut live = client.events(2, true).await.unwrap();
        log.publish(started());
        assert_eq!(live.next().await.unwrap().unwrap().seq, 3);
    });
}

#[test]
fn description_lists_every_route() {
    with_server(|path, _| async move {
        let value: serde_json::Value = Client::new(path).get("/v1/openapi.json").await.unwrap();
        assert!(
            value["paths"]["/v1/sum"]["post"]["requestBody"].is_object(),
            "{value}"
        );
        assert!(
            value["paths"]["/v1/double/{number}"]["get"].is_object(),
            "{value}"
        );
        assert!(value["components"]["schemas"]["Sum"].is_object(), "{value}");
    });
}

#[test]
fn a_body_announced_too_large_is_refused_before_it_comes() {
    with_server(|path, _| async move {
        let answer = tokio::task::spawn_blocking(move || {
            let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
            stream
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            stream
                .write_all(
                    b"POST /v1/sum HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n{",
                )
                .unwrap();
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).map(|()| answer)
        })
        .await
        .unwrap();
        assert_eq!(answer.unwrap(), *b"HTTP/1.1 400");
    });
}

#[test]
fn hostile_bytes_end_their_own_connection_only() {
    with_server(|path, _| async move {
        let huge = vec![b'a'; LARGEST_BODY + 10];
        let long_head = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(1 << 20)).into_bytes();
        let mut large = format!(
            "POST /v1/sum HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
            huge.len()
        )
        .into_bytes();
        large.extend_from_slice(&huge);
        for bytes in [
            b"\0\xff\xfe garbage\r\n\r\n".to_vec(),
            b"GET\r\n\r\n".to_vec(),
            b"GET /v1/../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_vec(),
            b"POST /v1/sum HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n".to_vec(),
            b"POST /v1/sum HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_vec(),
            b"POST /v1/sum HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 4\r\n\r\n{{{{".to_vec(),
            long_head,
            large,
        ] {
            let path = path.clone();
            let answer = tokio::task::spawn_blocking(move || {
                let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                // The server may well close before all is written.
                stream.write_all(&bytes).ok();
                stream.shutdown(std::net::Shutdown::Write).ok();
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).ok();
                String::from_utf8_lossy(&answer).into_owned()
            })
            .await
            .unwrap();
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
        }
        assert_eq!(Client::new(path).get::<u32>("/v1/state").await, Ok(7));
    });
}
