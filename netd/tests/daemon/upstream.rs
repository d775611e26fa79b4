//! A name server of our own, for netd to forward to: UDP and TCP on one loopback port.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{A, TXT};
use hickory_proto::rr::{RData, Record, RecordType};

/// Answers A with 192.0.2.7, TXT with 3,000 bytes; its threads end with the test program.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl Upstream {
    pub(crate) fn start() -> Self {
        let (tcp, udp) = loop {
            let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
            // Somebody else may have the same port of UDP.
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()) {
                break (tcp, udp);
            }
        };
        let address = tcp.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = udp.recv_from(&mut buffer) {
                count.fetch_add(1, Ordering::SeqCst);
                let mut answer = answer(&buffer[..length]);
                if answer.len() > 1232 {
                    // Header and question only, TC set.
                    let question = Message::from_vec(&answer).unwrap();
                    let mut short = question.clone();
                    short.answers.clear();
                    short.metadata.truncation = true;
                    answer = short.to_vec().unwrap();
                }
                udp.send_to(&answer, from).ok();
            }
        });
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = tcp.accept() {
                let mut length = [0; 2];
                if stream.read_exact(&mut length).is_ok() {
                    let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
                    stream.read_exact(&mut query).unwrap();
                    let answer = answer(&query);
                    let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
                    stream.write_all(&length).ok();
                    stream.write_all(&answer).ok();
                }
            }
        });
        Self { address, asked }
    }

    /// UDP queries so far.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn answer(query: &[u8]) -> Vec<u8> {
    let query = Message::from_vec(query).unwrap();
    let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
    let question = query.queries[0].clone();
    let name = question.name().clone();
    let data = if question.query_type() == RecordType::A {
        Some(RData::A(A::new(192, 0, 2, 7)))
    } else if question.query_type() == RecordType::TXT {
        Some(RData::TXT(TXT::new(vec!["x".repeat(250); 12])))
    } else {
        None
    };
    answer.add_query(question);
    match data {
        Some(data) => {
            answer.add_answer(Record::from_rdata(name, 60, data));
        }
        None => answer.metadata.response_code = ResponseCode::NXDomain,
    }
    answer.to_vec().unwrap()
}
