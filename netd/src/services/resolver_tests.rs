//! The forwarder against name servers that lie, refuse, are silent or absent.

use super::*;
use tokio::net::UdpSocket as Socket;

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
}

async fn server(habit: Habit) -> SocketAddr {
    let socket = Socket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let asked = buffer[..length].to_vec();
            let query = Query::decode(&asked).unwrap();
            let mut good = query.answer(ResponseCode::NoError, false);
            good.address(Ipv4Addr::new(192, 0, 2, 1), 60);
            let good = good.finish();
            let answers = match habit {
                Habit::Silent => vec![],
                Habit::Refuse => vec![query.failure(ResponseCode::Refused)],
                Habit::Answer => vec![good],
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
    address
}

fn resolver(upstreams: Vec<SocketAddr>) -> (watch::Sender<Vec<SocketAddr>>, Resolver) {
    let (sender, receiver) = watch::channel(upstreams);
    (sender, Resolver::new(receiver))
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
        let (_sender, resolver) = resolver(vec![bad, good]);
        let answer = resolver
            .answer(&query(0x1234), Transport::Udp)
            .await
            .unwrap();
        assert_eq!((code(&answer), &answer[..2]), (0, [0x12, 0x34].as_slice()));
    }
}

#[tokio::test]
async fn guessed_answers_are_not_believed() {
    let (_sender, resolver) = resolver(vec![server(Habit::Lie).await]);
    let answer = resolver.answer(&query(7), Transport::Udp).await.unwrap();
    assert_eq!(code(&answer), 0);
    assert_eq!(&answer[12..12 + NAME.len()], NAME);
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
        let (_sender, resolver) = resolver(upstreams.clone());
        let started = tokio::time::Instant::now();
        let answer = resolver.answer(&query(7), Transport::Udp).await.unwrap();
        assert!(
            matches!(code(&answer), 2 | 5),
            "{upstreams:?}: {answer:02x?}"
        );
        assert!(
            started.elapsed() < Duration::from_millis(2_000),
            "{upstreams:?}"
        );
    }
}

#[tokio::test]
async fn flood_is_bounded() {
    let (_sender, resolver) = resolver(vec![server(Habit::Silent).await]);
    let resolver = std::sync::Arc::new(resolver);
    let mut asking = JoinSet::new();
    for id in 0..1_000 {
        let resolver = std::sync::Arc::clone(&resolver);
        asking.spawn(async move { resolver.answer(&query(id), Transport::Udp).await });
    }
    let mut failed = 0;
    while let Some(answer) = asking.join_next().await {
        failed += u64::from(code(&answer.unwrap().unwrap()) == 2);
    }
    assert_eq!(failed, 1_000);
    assert_eq!(resolver.counters().crowded, 1_000 - MOST_WAITING as u64);
}

#[tokio::test]
async fn other_resolvers_mean_another_cache() {
    let (sender, resolver) = resolver(vec![server(Habit::Answer).await]);
    for _ in 0..3 {
        resolver.answer(&query(1), Transport::Udp).await.unwrap();
    }
    assert_eq!(
        (resolver.counters().forwarded, resolver.counters().cached),
        (1, 2)
    );
    sender.send_replace(vec![nobody().await]);
    let answer = resolver.answer(&query(2), Transport::Udp).await.unwrap();
    assert_eq!(
        code(&answer),
        2,
        "an answer of another network's resolver was kept"
    );
}
