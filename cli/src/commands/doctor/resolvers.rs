//! Whether the resolvers that guests' questions are forwarded to answer: each is asked for `localhost`, which a
//! resolver answers by itself (RFC 6761, section 6.3), and nobody else is asked anything.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use control::config::{Config, NetworkKind};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::facts::Facts;
use super::finding::{Finding, Subject};
use super::nothing;

const DNS_PORT: u16 = 53;
/// For one try; a lost datagram is no fault of a resolver.
const TRY_LIMIT: Duration = Duration::from_millis(900);
const TRIES: u16 = 2;
/// RFC 1035, 4.1.1: response codes 0 to 5.
const CODES: [&str; 6] = [
    "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED",
];

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let (host, bad) = parse(&facts.read("etc/resolv.conf"));
    let mut findings = Vec::new();
    for word in bad {
        findings.push(Subject::of("resolver", &word).fails(
            format!("/etc/resolv.conf names \"{word}\", which is no address"),
            "mend /etc/resolv.conf",
        ));
    }
    let servers = servers(facts.config.as_ref().ok(), &host);
    if servers.is_empty() && findings.is_empty() {
        let bridged = |config: &Config| {
            let mut networks = config.networks.values();
            networks.all(|network| network.kind != NetworkKind::Nat)
        };
        if facts.config.as_ref().is_ok_and(bridged) {
            return nothing("resolver", "no network forwards questions");
        }
        return vec![Finding::about("resolver", "resolvers").warns(
            "/etc/resolv.conf names none: guests resolve only each other and this host's names",
            "name some in the file: dns = [\"ADDRESS\"] in [network.NAME]",
        )];
    }
    let asked = facts.context().wait(async {
        let questions: Vec<_> = servers
            .keys()
            .map(|server| tokio::spawn(ask(*server)))
            .collect();
        let mut answers = Vec::new();
        for question in questions {
            answers.push(
                question
                    .await
                    .unwrap_or_else(|error| Err(error.to_string())),
            );
        }
        answers
    });
    let answers = match asked {
        Ok(answers) => answers,
        Err(error) => {
            return vec![Finding::about("resolver", "resolvers").skipped(error.message)];
        }
    };
    let some_answer = answers.iter().any(Result::is_ok);
    for ((server, from), answer) in servers.into_iter().zip(answers) {
        let subject = Subject::of("resolver", server);
        findings.push(match answer {
            Ok(code) => subject.ok(format!("answers ({code}); it is of {from}")),
            Err(why) => {
                let evidence = format!("{why}; it is of {from}");
                let fix =
                    "mend what names it, or name others: dns = [\"ADDRESS\"] in [network.NAME]";
                match some_answer {
                    true => subject.warns(evidence, fix),
                    false => subject.fails(evidence, fix),
                }
            }
        });
    }
    findings
}

/// Who is asked, and where that is said. A network without `dns` asks the host's.
fn servers(config: Option<&Config>, host: &[SocketAddr]) -> BTreeMap<SocketAddr, String> {
    let mut found = BTreeMap::new();
    let mut add = |servers: &[SocketAddr], from: &str| {
        for server in servers {
            found.entry(*server).or_insert_with(|| from.to_owned());
        }
    };
    let Some(config) = config else {
        add(host, "/etc/resolv.conf");
        return found;
    };
    for network in config.networks.values() {
        if network.kind != NetworkKind::Nat {
            continue;
        }
        match network.dns.as_slice() {
            [] => add(host, "/etc/resolv.conf"),
            own => add(own, &format!("[network.{}] dns", network.name)),
        }
        for (domain, servers) in &network.names.rules {
            add(
                servers,
                &format!("[network.{}] dns-rules for {domain}", network.name),
            );
        }
    }
    found
}

/// resolv.conf(5): its `nameserver` lines, and the words on them that are no addresses.
fn parse(text: &str) -> (Vec<SocketAddr>, Vec<String>) {
    let (mut servers, mut bad) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        let word = words.next().unwrap_or_default();
        match address(word) {
            Some(server) if !servers.contains(&server) => servers.push(server),
            Some(_twice) => {}
            None => bad.push(word.escape_debug().to_string()),
        }
    }
    bad.sort();
    bad.dedup();
    (servers, bad)
}

fn address(word: &str) -> Option<SocketAddr> {
    match word.parse::<IpAddr>() {
        // As glibc reads it.
        Ok(address) if address.is_unspecified() => Some((Ipv4Addr::LOCALHOST, DNS_PORT).into()),
        Ok(address) => Some((address, DNS_PORT).into()),
        Err(_) => {
            // Only an address with a zone, which asks nobody: fe80::1%eth0.
            let (address, _zone) = word.split_once('%')?;
            address.parse::<Ipv6Addr>().ok()?;
            (word, DNS_PORT).to_socket_addrs().ok()?.next()
        }
    }
}

/// The code of its answer, or why there is none.
async fn ask(server: SocketAddr) -> Result<String, String> {
    let mut why = String::new();
    for number in 1..=TRIES {
        match timeout(TRY_LIMIT, exchange(server, number)).await {
            Ok(Ok(code)) => return Ok(code),
            Ok(Err(error)) => why = format!("{server}: {error}"),
            Err(_) => {
                let all = TRY_LIMIT * u32::from(TRIES);
                why = format!("{server} does not answer within {:.1} s", all.as_secs_f32());
            }
        }
    }
    Err(why)
}

async fn exchange(server: SocketAddr, number: u16) -> std::io::Result<String> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    // From here on only this server is heard.
    socket.connect(server).await?;
    socket.send(&question(number)).await?;
    let mut answer = [0; 512];
    loop {
        let length = socket.recv(&mut answer).await?;
        if let Some(code) = code(answer.get(..length).unwrap_or_default(), number) {
            return Ok(code);
        }
    }
}

/// `localhost. IN A`, recursion desired (RFC 1035, 4.1).
fn question(number: u16) -> Vec<u8> {
    let mut message = number.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    message.extend(b"\x09localhost\0");
    message.extend([0, 1, 0, 1]);
    message
}

/// None where it is no answer to this question.
fn code(message: &[u8], number: u16) -> Option<String> {
    let &[first, second, flags, code, ..] = message else {
        return None;
    };
    let ours = [first, second] == number.to_be_bytes() && flags & 0x80 != 0 && message.len() >= 12;
    let code = code & 0xf;
    let name = CODES
        .get(usize::from(code))
        .map_or_else(|| format!("code {code}"), |name| (*name).to_owned());
    ours.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::super::facts::tests::Bed;
    use super::super::finding::State;
    use super::*;

    #[test]
    fn resolv_conf_is_read_as_its_manual_says() {
        let text = "# x\nnameserver 10.0.0.1\nsearch test\nnameserver ::1\nnameserver 10.0.0.1\n\
                    nameserver 0.0.0.0\nnameserver fe80::1%lo\nnameserver gateway\nnameserver\n";
        let (servers, bad) = parse(text);
        let shown: Vec<String> = servers
            .iter()
            .map(|server| server.ip().to_string())
            .collect();
        assert_eq!(shown, ["10.0.0.1", "::1", "127.0.0.1", "fe80::1"]);
        assert_eq!(bad, ["", "gateway"]);
    }

    #[test]
    fn who_answers_is_well_who_refuses_and_who_is_silent_is_told() {
        let server = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let [good, quiet, gone] =
            [&server, &silent, &closed].map(|socket| socket.local_addr().unwrap());
        drop(closed);
        let bed = Bed::with(&format!(
            "[network.vmnet8]\ndns = [\"{good}\", \"{quiet}\"]\n[network.vmnet8.dns-rules]\n\"corp.test\" = [\"{gone}\"]\n"
        ));
        let answering = std::thread::spawn(move || {
            let mut buffer = [0; 512];
            let (length, from) = server.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[12..length], b"\x09localhost\0\0\x01\0\x01");
            // An answer to another question comes first.
            let mut other = buffer;
            other[1] ^= 0xff;
            other[2] |= 0x80;
            server.send_to(&other[..length], from).unwrap();
            buffer[2] |= 0x80;
            buffer[3] = 3;
            server.send_to(&buffer[..length], from).unwrap();
        });
        let findings = check(&bed.facts);
        answering.join().unwrap();
        let of = |server: SocketAddr| {
            let id = format!("resolver.{server}");
            findings
                .iter()
                .find(|found| found.id == id)
                .unwrap()
                .clone()
        };
        assert_eq!(of(good).state, State::Ok);
        assert!(of(good).evidence.contains("NXDOMAIN"), "{findings:?}");
        assert_eq!(of(quiet).state, State::Warn);
        assert!(of(quiet).evidence.contains("does not answer within 1.8 s"));
        assert!(of(gone).evidence.contains("refused"), "{findings:?}");
        assert!(of(gone).evidence.contains("dns-rules for corp.test"));
    }

    #[test]
    fn a_host_without_resolvers_is_a_warning_and_a_wrong_word_is_named() {
        let bed = Bed::with("");
        assert_eq!(check(&bed.facts)[0].state, State::Warn);
        bed.file("etc/resolv.conf", "nameserver gateway\n");
        let found = &check(&bed.facts)[0];
        assert_eq!(
            (found.id.as_str(), found.state),
            ("resolver.gateway", State::Fail)
        );
    }
}
