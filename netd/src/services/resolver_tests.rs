//! The forwarder against name servers that lie, refuse, are silent or absent.

use super::*;
use crate::services::upstream::LONGEST;
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket as Socket};
use tokio::task::JoinSet;

const NAME: &[u8] = b"\x07example\x03com\0";

fn query(id: u16) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    bytes.extend_from_slice(NAME);
    bytes.extend_from_slice(&[0, 1, 0, 1]);
    bytes
}

fn code(answer: &[u8]) -> u8 {
    answer[3] & 0x0f
}

/// What a name server of the test does with a query.
#[derive(Clone, Copy)]
enum Habit {
    Answer,
    Refuse,
    Silent,
    /// Wrong id, wrong question, then the truth.
    Lie,
    /// The question in lower case, and the truth over TCP.
    Fold,
    /// Nothing but "come by TCP".
    Cut,
    /// After a tenth of a second.
    Slow,
}

async fn server(habit: Habit) -> SocketAddr {
    counted_server(habit).await.0
}

/// The truth, with an address that tells how it came.
fn truth(asked: &[u8], last: u8) -> Vec<u8> {
    let query = Query::decode(asked).unwrap();
    let mut good = query.answer(ResponseCode::NoError, false);
    good.address(Ipv4Addr::new(192, 0, 2, last), 60);
    good.finish()
}

async fn counted_server(habit: Habit) -> (SocketAddr, Arc<AtomicU64>) {
    let (tcp, socket) = loop {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        // Somebody else may have the same port of UDP.
        if let Ok(socket) = Socket::bind(tcp.local_addr().unwrap()).await {
            break (tcp, socket);
        }
    };
    let address = tcp.local_addr().unwrap();
    let asked_here = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&asked_here);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = tcp.accept().await {
            let length = stream.read_u16().await.unwrap();
            let mut asked = vec![0; length.into()];
            stream.read_exact(&mut asked).await.unwrap();
            let answer = truth(&asked, 2);
            stream
                .write_u16(answer.len().try_into().unwrap())
                .await
                .unwrap();
            stream.write_all(&answer).await.unwrap();
        }
    });
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            count.fetch_add(1, Ordering::SeqCst);
            let asked = buffer[..length].to_vec();
            let query = Query::decode(&asked).unwrap();
            let good = truth(&asked, 1);
            let answers = match habit {
                Habit::Silent => vec![],
                Habit::Refuse => vec![query.failure(ResponseCode::Refused)],
                Habit::Answer => vec![good],
                Habit::Fold => {
                    let mut folded = good;
                    folded[HEADER..].make_ascii_lowercase();
                    vec![folded]
                }
                Habit::Cut => vec![query.truncated(&good)],
                Habit::Slow => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    vec![good]
                }
                Habit::Lie => {
                    let mut other_id = good.clone();
                    other_id[0] ^= 1;
                    let mut other_name = good.clone();
                    other_name[14] = b'z';
                    let mut no_answer = good.clone();
                    no_answer[2] &= 0x7f;
                    vec![other_id, other_name, no_answer, vec![0; 3], good]
                }
            };
            for answer in answers {
                socket.send_to(&answer, from).await.unwrap();
            }
        }
    });
    (address, asked_here)
}

fn resolver(upstreams: Vec<SocketAddr>) -> Resolver {
    Resolver::new(Forwarding::everything_to(upstreams))
}

async fn ask(resolver: &Resolver, id: u16) -> Vec<u8> {
    let asked = query(id);
    resolver.answer(&Query::decode(&asked).unwrap()).await.0
}

/// The last byte of the answer's address.
fn last_byte(answer: &[u8]) -> Option<u8> {
    (code(answer) == 0).then(|| *answer.last().unwrap())
}

/// A loopback port where nobody listens.
async fn nobody() -> SocketAddr {
    Socket::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
}

#[tokio::test]
async fn next_resolver_is_asked_when_one_refuses_is_absent_or_silent() {
    let good = server(Habit::Answer).await;
    for bad in [
        server(Habit::Refuse).await,
        nobody().await,
        server(Habit::Silent).await,
    ] {
        let resolver = resolver(vec![bad, good]);
        let answer = ask(&resolver, 0x1234).await;
        assert_eq!((code(&answer), &answer[..2]), (0, [0x12, 0x34].as_slice()));
    }
}

#[tokio::test]
async fn guessed_answers_are_not_believed() {
    let resolver = resolver(vec![server(Habit::Lie).await]);
    let answer = ask(&resolver, 7).await;
    assert_eq!(code(&answer), 0);
    assert_eq!(&answer[12..12 + NAME.len()], NAME);
    assert_eq!(resolver.counters().forged, 4);
}

#[tokio::test]
async fn failure_is_told_in_time_and_never_as_no_such_name() {
    let silent = server(Habit::Silent).await;
    for upstreams in [
        vec![],
        vec![nobody().await],
        vec![silent, silent],
        vec![server(Habit::Refuse).await],
    ] {
        let resolver = resolver(upstreams.clone());
        let started = tokio::time::Instant::now();
        let answer = ask(&resolver, 7).await;
        assert!(
            matches!(code(&answer), 2 | 5),
            "{upstreams:?}: {answer:02x?}"
        );
        assert!(
            started.elapsed() < LONGEST + Duration::from_secs(2),
            "{upstreams:?}"
        );
    }
}

#[tokio::test]
async fn flood_is_bounded() {
    let resolver = Arc::new(resolver(vec![server(Habit::Silent).await]));
    let mut asking = JoinSet::new();
    for id in 0..1_000 {
        let resolver = Arc::clone(&resolver);
        asking.spawn(async move {
            // Another name each.
            let mut asked = query(id);
            let [high, low] = id.to_be_bytes();
            asked[13..15].copy_from_slice(&[b'a' + high, b'a' + low % 16]);
            asked[15] = b'a' + low / 16;
            let query = Query::decode(&asked).unwrap();
            resolver.answer(&query).await.0
        });
    }
    let mut failed = 0;
    while let Some(answer) = asking.join_next().await {
        failed += u64::from(code(&answer.unwrap()) == 2);
    }
    assert_eq!(failed, 1_000);
    assert_eq!(resolver.counters().crowded, 1_000 - MOST_WAITING as u64);
}

#[tokio::test]
async fn same_question_is_asked_once_at_a_time() {
    let address = server(Habit::Slow).await;
    let resolver = Arc::new(resolver(vec![address]));
    let mut asking = JoinSet::new();
    for id in 0..100 {
        let resolver = Arc::clone(&resolver);
        asking.spawn(async move { (id, ask(&resolver, id).await) });
    }
    while let Some(answer) = asking.join_next().await {
        let (id, answer) = answer.unwrap();
        assert_eq!(answer[..2], id.to_be_bytes());
        assert_eq!(last_byte(&answer), Some(1));
    }
    let counters = resolver.counters();
    assert_eq!((counters.forwarded, counters.joined), (1, 99));
}

#[tokio::test]
async fn cut_answer_is_fetched_whole_by_tcp() {
    let resolver = resolver(vec![server(Habit::Cut).await]);
    let answer = ask(&resolver, 7).await;
    assert_eq!(
        (last_byte(&answer), is_truncated(&answer)),
        (Some(2), false)
    );
}

#[tokio::test]
async fn server_that_folds_the_question_is_believed_over_tcp_and_then_known() {
    let resolver = resolver(vec![server(Habit::Fold).await]);
    let mut lasts = Vec::new();
    for first in *b"abcdefgh" {
        let mut bytes = query(7);
        bytes[13] = first;
        bytes[14..20].copy_from_slice(b"LETTER");
        let (answer, _) = resolver.answer(&Query::decode(&bytes).unwrap()).await;
        assert_eq!(&answer[13..20], &bytes[13..20], "the client's own spelling");
        lasts.push(last_byte(&answer).unwrap());
    }
    // Its spelling may be right by chance once, hardly twice: TCP then, and no more once it is known.
    let over_tcp = lasts.iter().filter(|last| **last == 2).count();
    assert_eq!(over_tcp, 1, "{lasts:?}");
    assert_eq!(lasts.last(), Some(&1), "{lasts:?}");
}

#[tokio::test]
async fn silent_server_is_asked_last_for_a_while() {
    let (silent, asked) = counted_server(Habit::Silent).await;
    let resolver = resolver(vec![nobody().await, silent, server(Habit::Answer).await]);
    for name in *b"abcdefgh" {
        let mut bytes = query(7);
        bytes[13] = name;
        let (answer, _) = resolver.answer(&Query::decode(&bytes).unwrap()).await;
        assert_eq!(code(&answer), 0);
    }
    assert!(
        asked.load(Ordering::SeqCst) <= 3,
        "outrun three times is enough"
    );
    assert_eq!(resolver.silent().len(), 2);
}

#[tokio::test]
async fn other_resolvers_mean_another_cache() {
    let resolver = resolver(vec![server(Habit::Answer).await]);
    for _ in 0..3 {
        ask(&resolver, 1).await;
    }
    assert_eq!(
        (resolver.counters().forwarded, resolver.counters().cached),
        (1, 2)
    );
    resolver.set_forwarding(Forwarding::everything_to(vec![nobody().await]));
    let answer = ask(&resolver, 2).await;
    assert_eq!(
        code(&answer),
        2,
        "an answer of another network's resolver was kept"
    );
}
