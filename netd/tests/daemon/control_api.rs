//! The control API, hostile requests, reload, and the daemon's own life.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use control::api::{Changes, DaemonStatus, GuestAnswer, GuestStatus, NetworkStatus, PortStatus};
use control::failure::FailureKind;
use serde_json::{Value, json};

use crate::daemon::{LIMIT, Netd, wait_for};
use crate::fake_guest::FakeGuest;
use crate::guests::DEV;

const CONFIG: &str = r#"
[network.vmnet8]
type = "nat"
subnet = "10.77.3.0/24"
dns = ["127.0.0.1:9"]

[guest.dev]
mac = "52:54:00:00:00:01"
"#;

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

#[test]
fn ports_come_and_go_at_run_time() {
    let netd = Netd::start(CONFIG);
    let port = free_port();
    let request = json!({"guest": "dev", "spec": format!("{port}:80")});
    let status: PortStatus = netd.post("/v1/ports", &request).unwrap();
    let own = netd.guest("dev").host_address.unwrap();
    let listening: Vec<String> = status.listening.iter().map(ToString::to_string).collect();
    let mut expected = vec![format!("{own}:{port}"), format!("127.0.0.1:{port}")];
    if TcpListener::bind("[::1]:0").is_ok() {
        expected.push(format!("[::1]:{port}"));
    }
    assert_eq!(listening, expected);
    let again: PortStatus = netd.post("/v1/ports", &request).unwrap();
    assert_eq!(again, status);
    let all: Vec<PortStatus> = netd.get("/v1/ports").unwrap();
    let [listed] = &all[..] else {
        panic!("{all:?}")
    };
    assert_eq!(listed.listening, status.listening);
    assert_eq!(listed.leads[0].answers, GuestAnswer::Absent);
    assert!(TcpListener::bind((own, port)).is_err());

    netd.delete::<Changes>("/v1/ports", &request).unwrap();
    wait_for("the port to be free", || {
        TcpListener::bind((own, port)).ok()
    });
    let gone = netd.delete::<Changes>("/v1/ports", &request).unwrap_err();
    assert_eq!(gone.kind, FailureKind::NotFound);
    let kinds = netd.event_kinds();
    assert_eq!(kinds, ["started", "port-published", "port-removed"]);
}

#[test]
fn taken_port_names_its_owner_and_nothing_half_done_stays() {
    let netd = Netd::start(CONFIG);
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let request =
        json!({"guest": "dev", "spec": format!("127.0.0.1:{}-{port}:52-53/udp", port - 1)});
    let refused = netd.post::<PortStatus>("/v1/ports", &request).unwrap_err();
    assert_eq!(refused.kind, FailureKind::Conflict);
    assert!(
        refused.message.contains(&format!("127.0.0.1:{port}")),
        "{refused}"
    );
    assert!(refused.hint.is_some());
    wait_for("the first port of the range to be free", || {
        UdpSocket::bind(("127.0.0.1", port - 1)).ok()
    });
    let all: Vec<PortStatus> = netd.get("/v1/ports").unwrap();
    assert_eq!(all, []);
    netd.assert_well();
    let unknown = json!({"guest": "nobody", "spec": "8080"});
    assert_eq!(
        netd.post::<PortStatus>("/v1/ports", &unknown)
            .unwrap_err()
            .kind,
        FailureKind::NotFound
    );
}

#[test]
fn one_bad_port_of_the_file_does_not_stop_the_rest() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let (bad, good) = (taken.local_addr().unwrap().port(), free_port());
    let config = format!("{CONFIG}publish = [\"127.0.0.1:{bad}:80\", \"127.0.0.1:{good}:80\"]\n");
    let netd = Netd::start(&config);
    let status: DaemonStatus = netd.get("/v1/status").unwrap();
    assert_eq!(status.problems.len(), 1, "{:?}", status.problems);
    assert!(status.problems[0].contains(&bad.to_string()));
    let kinds: BTreeSet<String> = netd.event_kinds().into_iter().collect();
    assert!(kinds.contains("port-failed") && kinds.contains("port-published"));
    // Free again: a reload tries it again.
    drop(taken);
    let changes: Changes = netd.post("/v1/reload", &Value::Null).unwrap();
    assert_eq!(changes.changes.len(), 1, "{changes:?}");
    netd.assert_well();
}

#[test]
fn reload_touches_only_what_changed() {
    let netd = Netd::start(CONFIG);
    let path = netd.paths().runtime.join("guest/dev/link.sock");
    let mut dev = FakeGuest::new(UnixStream::connect(path).unwrap(), DEV);
    let address = dev.obtain_address();
    let port = free_port();
    netd.configure(&format!(
        "{CONFIG}names = [\"shop.example\"]\npublish = [\"127.0.0.1:{port}:80\"]\n[guest.new]\n[network.lab]\ntype = \"host-only\"\nsubnet = \"10.77.4.0/24\"\n"
    ));
    netd.signal(rustix::process::Signal::HUP);
    wait_for("the reload", || {
        netd.event_kinds()
            .contains(&"config-reloaded".to_owned())
            .then_some(())
    });
    let networks: Vec<NetworkStatus> = netd.get("/v1/networks").unwrap();
    assert_eq!(networks.len(), 2);
    assert!(
        netd.guest("dev")
            .names
            .iter()
            .any(|name| name.as_str() == "shop.example")
    );
    assert_eq!(netd.guest("dev").address, Some(address), "the lease stays");
    assert!(dev.is_plugged());
    assert!(netd.paths().runtime.join("guest/new/link.sock").exists());
    assert!(netd.paths().runtime.join("network/lab.sock").exists());
    assert_eq!(netd.get::<Vec<PortStatus>>("/v1/ports").unwrap().len(), 1);

    // A wrong file: everything goes on, the answer says why.
    netd.configure("[guest.dev]\nnetwork = \"nowhere\"\ncolour = 3\n");
    let refused = netd
        .post::<Changes>("/v1/reload", &Value::Null)
        .unwrap_err();
    assert_eq!(refused.kind, FailureKind::Invalid);
    assert!(refused.message.contains("config.toml"), "{refused}");
    assert_eq!(
        netd.get::<Vec<NetworkStatus>>("/v1/networks")
            .unwrap()
            .len(),
        2
    );
    assert!(dev.is_plugged());

    // Back again: what came goes, the guest stays plugged.
    netd.configure(CONFIG);
    // It follows the file by itself, too, and may have been first.
    let Changes { changes, .. } = netd.post("/v1/reload", &Value::Null).unwrap();
    let names_lab = changes.iter().any(|change| change.contains("lab"));
    assert!(changes.is_empty() || names_lab, "{changes:?}");
    assert_eq!(
        netd.get::<Vec<NetworkStatus>>("/v1/networks")
            .unwrap()
            .len(),
        1
    );
    assert!(dev.is_plugged());
    assert!(!netd.paths().runtime.join("guest/new/link.sock").exists());
    assert_eq!(netd.get::<Vec<PortStatus>>("/v1/ports").unwrap(), []);
    // The guest is removed: its wire goes.
    netd.configure(&CONFIG.replace("guest.dev", "guest.other"));
    netd.post::<Changes>("/v1/reload", &Value::Null).unwrap();
    wait_for("the removed guest's link to end", || {
        (!dev.is_plugged()).then_some(())
    });
}

#[test]
fn another_subnet_keeps_links_and_last_parts_and_ports_follow() {
    let port = free_port();
    let config = format!("{CONFIG}publish = [\"127.0.0.1:{port}:80\"]\n");
    let netd = Netd::start(&config);
    let path = netd.paths().runtime.join("guest/dev/link.sock");
    let mut guest = FakeGuest::new(UnixStream::connect(&path).unwrap(), DEV);
    let before = guest.obtain_address();
    netd.configure(&config.replace("10.77.3.0", "10.77.5.0"));
    netd.post::<Changes>("/v1/reload", &Value::Null).unwrap();
    assert!(guest.is_plugged());
    drop(guest);
    let mut guest = FakeGuest::new(UnixStream::connect(&path).unwrap(), DEV);
    let after = guest.obtain_address();
    assert_eq!(after.octets(), [10, 77, 5, before.octets()[3]]);
    let guests = netd.get::<Vec<GuestStatus>>("/v1/guests").unwrap();
    assert_eq!(guests[0].address, Some(after));
    assert_eq!(netd.get::<Vec<PortStatus>>("/v1/ports").unwrap().len(), 1);
    netd.assert_well();
}

#[test]
fn hostile_requests_are_answered_and_harm_nothing() {
    let netd = Netd::start(CONFIG);
    for request in [
        "\0\0\0\0".to_owned(),
        "GET /v1/status\r\n\r\n".to_owned(),
        "GET /v1/../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        "GET /v1/guests/..%2f..%2fx HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        "GET /v1/guests/%ff%00 HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        "GET /v1/flows?network=%0a HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        "GET /v1/events?since=99999999999999999999 HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        "DELETE /v1/guests/dev/link HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n{}}".to_owned(),
        post("/v1/ports", "{"),
        post("/v1/ports", r#"{"guest":"dev","spec":"0"}"#),
        post("/v1/ports", r#"{"guest":"dev","spec":"1-65535:1-65535"}"#)
            .replace("1-65535:1-65535", "65536"),
        post("/v1/ports", r#"{"guest":"dev","spec":"8080","more":1}"#),
        post("/v1/ports", &"[".repeat(100_000)),
        post(
            "/services/forwarder/expose",
            r#"{"local":":x","remote":"","protocol":"tcp"}"#,
        ),
        post(
            "/services/forwarder/expose",
            r#"{"local":":1","remote":"1.2.3.4:5","protocol":"npipe"}"#,
        ),
        "POST /v1/ports HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n".to_owned(),
    ] {
        let mut stream = UnixStream::connect(netd.control_socket()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(request.as_bytes()).ok();
        stream.shutdown(std::net::Shutdown::Write).ok();
        let mut answer = Vec::new();
        // A reset is an answer, too.
        stream.read_to_end(&mut answer).ok();
        let answer = String::from_utf8_lossy(&answer);
        let refused = answer.is_empty()
            || answer.starts_with("HTTP/1.1 4")
            || answer.starts_with("HTTP/1.1 5");
        let shown: String = request.chars().take(80).collect();
        assert!(refused, "{shown:?} was answered {answer}");
        assert!(!answer.starts_with("HTTP/1.1 500"), "{shown:?}: {answer}");
    }
    netd.assert_well();
}

fn post(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn gvproxys_scripts_find_their_routes() {
    let netd = Netd::start(CONFIG);
    let path = netd.paths().runtime.join("guest/dev/link.sock");
    let address = FakeGuest::new(UnixStream::connect(path).unwrap(), DEV).obtain_address();
    let leases: Value = netd.get("/services/dhcp/leases").unwrap();
    assert_eq!(leases, json!({address.to_string(): "52:54:00:00:00:01"}));
    let port = free_port();
    let forward = json!({"local": format!("127.0.0.1:{port}"), "remote": format!("{address}:80")});
    netd.post::<Value>("/services/forwarder/expose", &forward)
        .unwrap();
    let all: Value = netd.get("/services/forwarder/all").unwrap();
    assert_eq!(
        all,
        json!([{"local": format!("127.0.0.1:{port}"), "remote": format!("{address}:80"), "protocol": "tcp"}])
    );
    netd.post::<Value>(
        "/services/forwarder/unexpose",
        &json!({"local": format!("127.0.0.1:{port}")}),
    )
    .unwrap();
    assert_eq!(
        netd.get::<Value>("/services/forwarder/all").unwrap(),
        json!([])
    );
}

#[test]
fn second_netd_is_refused_and_a_stopped_one_leaves_no_socket() {
    let mut netd = Netd::start(CONFIG);
    let second = netd.command().output().unwrap();
    assert!(!second.status.success());
    assert!(
        netd.log()
            .contains(&format!("held by process {}", netd.pid())),
        "{}",
        netd.log()
    );
    netd.assert_well();
    let path = netd.paths().runtime.join("guest/dev/link.sock");
    let mut guest = FakeGuest::new(UnixStream::connect(path).unwrap(), DEV);
    let address = guest.obtain_address();
    netd.stop();
    let mut left = Vec::new();
    sockets_below(&netd.paths().runtime, &mut left);
    assert_eq!(left, Vec::<String>::new());
    netd.launch();
    let guests: Vec<GuestStatus> = netd.get("/v1/guests").unwrap();
    assert_eq!(guests[0].address, Some(address));
    assert!(guests[0].lease_until.is_some(), "a clean stop keeps leases");
}

fn sockets_below(folder: &std::path::Path, found: &mut Vec<String>) {
    use std::os::unix::fs::FileTypeExt;
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            sockets_below(&entry.path(), found);
        } else if kind.is_socket() {
            found.push(entry.path().display().to_string());
        }
    }
}

#[test]
fn idle_daemon_sleeps() {
    let netd = Netd::start(CONFIG);
    let path = netd.paths().runtime.join("guest/dev/link.sock");
    let mut guest = FakeGuest::new(UnixStream::connect(path).unwrap(), DEV);
    guest.obtain_address();
    netd.assert_well();
    // The kernel's own count of the times its threads went to sleep.
    let switches = || -> BTreeMap<PathBuf, u64> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", netd.pid())).unwrap();
        let of_task = |task: PathBuf| {
            let status = std::fs::read_to_string(task.join("status")).unwrap_or_default();
            let line = status
                .lines()
                .find(|line| line.starts_with("voluntary_ctxt_switches"));
            let count = line.and_then(|line| line.split_whitespace().last()?.parse().ok());
            (task, count.unwrap_or(0))
        };
        tasks.map(|task| of_task(task.unwrap().path())).collect()
    };
    // What follows a lease (router advertisements, a cache to age, a queue to drain) ends, and then it sleeps.
    let mut quietest = u64::MAX;
    for _window in 0..8 {
        let before = switches();
        std::thread::sleep(Duration::from_secs(2));
        // A thread that has nothing to do ends, and takes its count with it.
        let woken = switches().into_iter().map(|(task, count)| {
            let before = before.get(&task).copied().unwrap_or(0);
            count.saturating_sub(before)
        });
        quietest = quietest.min(woken.sum());
        if quietest <= 4 {
            return;
        }
    }
    panic!("an idle daemon woke {quietest} times in two seconds, and more often before");
}
