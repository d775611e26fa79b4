//! Daemons that give canned answers over real control sockets, and note what
//! they were asked.

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use control::api::{
    Changes, DaemonStatus, DnsAnswer, DnsRecord, EndedName, FlowStatus, GuestAnswer, GuestPresence,
    GuestStatus, HostLine, HostsDiff, HostsFileStatus, LinkStatus, NameOrigin, NetworkStatus,
    NewName, PolicyAnswer, PortLead, PortRequest, PortStatus, ResolverStatus, ShareDevice,
    ShareDoor, ShareStatus, ShareTraffic, SourceStatus,
};
use control::config::{CachePolicy, NetworkKind};
use control::egress::Verdict;
use control::events::{EventBody, EventLog};
use control::failure::Failure;
use control::names::{GuestName, NetworkName};
use control::paths::Daemon;
use control::server::{Api, bind, serve};

use crate::place::Place;

/// What a fake daemon knows; tests change it before they start it.
#[derive(Clone, Default)]
pub(crate) struct Script {
    pub(crate) plugged: bool,
    /// 4711 unless it is a process of its own.
    pub(crate) pid: Option<u32>,
    /// The answer to a request for a port.
    pub(crate) port_refused: Option<Failure>,
    pub(crate) problems: Vec<String>,
    pub(crate) reload_problems: Vec<String>,
    pub(crate) sync: Changes,
    pub(crate) sources: Vec<SourceStatus>,
    pub(crate) resolver: ResolverStatus,
    /// The answer to a name for a time.
    pub(crate) name_refused: Option<Failure>,
}

pub(crate) struct Fake {
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    asked: Arc<Mutex<Vec<String>>>,
}

#[derive(Clone)]
struct State {
    daemon: Daemon,
    script: Script,
    asked: Arc<Mutex<Vec<String>>>,
    runtime: std::path::PathBuf,
}

impl State {
    fn note(&self, what: &str) {
        self.asked.lock().unwrap().push(what.to_owned());
    }
}

impl Fake {
    pub(crate) fn start(place: &Place, daemon: Daemon, script: Script) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let state = State {
            daemon,
            script,
            asked: Arc::clone(&asked),
            runtime: place.path("run"),
        };
        let socket = place.socket(daemon);
        std::fs::create_dir_all(place.path("run")).unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = bind(&socket).unwrap();
                ready.send(()).unwrap();
                serve(listener, api(state), async {
                    // Dropping the fake is as good as telling it.
                    stopped.await.ok();
                })
                .await;
            });
            std::fs::remove_file(socket).unwrap();
        });
        is_ready.recv().unwrap();
        Self {
            stop: Some(stop),
            thread: Some(thread),
            asked,
        }
    }

    /// The requests that change something, in order.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn api(state: State) -> Api<State> {
    let events = EventLog::new();
    events.publish(EventBody::Started {
        version: "1".to_owned(),
    });
    events.publish(EventBody::PortRemoved {
        guest: name("dev"),
        spec: "9:9".to_owned(),
    });
    let newest = events.newest();
    Api::new("fake", state)
        .get("/v1/status", "", move |state: State, _| async move {
            Ok(DaemonStatus {
                daemon: state.daemon.name().to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: state.script.pid.unwrap_or(4711),
                started: "2026-11-22T20:00:00.000Z".to_owned(),
                config: "/c".into(),
                newest_event: newest,
                problems: state.script.problems,
            })
        })
        .get("/v1/guests", "", |state: State, _| async move {
            Ok(vec![guest(state.script.plugged)])
        })
        .get("/v1/networks", "", |state: State, _| async move {
            Ok(vec![network(&state)])
        })
        .get(
            "/v1/networks/{network}/dns",
            "",
            |state: State, params| async move {
                let network: NetworkName = params.required("network")?;
                let name: String = params.required("name")?;
                let kind: Option<String> = params.optional("type")?;
                state.note(&format!("dns {name} {}", kind.as_deref().unwrap_or("-")));
                Ok(dns(network, &name))
            },
        )
        .get("/v1/flows", "", |state: State, _| async move {
            Ok(if state.script.plugged {
                vec![flow()]
            } else {
                Vec::new()
            })
        })
        .get(
            "/v1/guests/{name}/presence",
            "",
            |state: State, params: control::server::Params| async move {
                let plugged = state.script.plugged;
                Ok(GuestPresence {
                    guest: params.required("name")?,
                    plugged,
                    address: plugged.then(|| "192.168.130.5".parse().unwrap()),
                    answers: plugged,
                })
            },
        )
        .get(
            "/v1/guests/{name}/policy",
            "",
            |_, params: control::server::Params| async move {
                let flow: String = params.required("flow")?;
                Ok(PolicyAnswer {
                    guest: params.required("name")?,
                    verdict: if flow.contains("evil") {
                        Verdict::Deny
                    } else {
                        Verdict::Allow
                    },
                    flow,
                    reason: "guest dev has the rule \"allow good.example\"".to_owned(),
                    addresses: vec!["192.0.2.1".parse().unwrap()],
                })
            },
        )
        .stream(
            "/v1/captures/{id}",
            "",
            "application/x-pcapng",
            |state: State, params: control::server::Params| async move {
                let filter: String = params.optional("filter")?.unwrap_or_default();
                state.note(&format!("capture {filter:?}"));
                let (parts, receiver) = tokio::sync::mpsc::channel(2);
                for part in ["two ", "parts"] {
                    parts.send(part.into()).await.unwrap();
                }
                Ok(receiver)
            },
        )
        .get(
            "/v1/ports",
            "",
            |_, _| async move { Ok(vec![port("8080:80")]) },
        )
        .get("/v1/shares", "", |state: State, _| async move {
            Ok(vec![share(&state)])
        })
        .get("/v1/hosts", "", |_, _| async move { Ok(vec![host_line()]) })
        .get("/v1/sources", "", |state: State, _| async move {
            Ok(state.script.sources)
        })
        .get("/v1/dns", "", |state: State, _| async move {
            Ok(state.script.resolver)
        })
        .post(
            "/v1/names",
            "",
            |state: State, _, new: NewName| async move {
                state.note(&format!("add {} for {}", new.name, new.seconds));
                match state.script.name_refused {
                    Some(failure) => Err(failure),
                    None => Ok(Changes::default()),
                }
            },
        )
        .delete(
            "/v1/names",
            "",
            |state: State, _, ended: EndedName| async move {
                state.note(&format!("end {}", ended.name));
                match state.script.name_refused {
                    Some(failure) => Err(failure),
                    None => Ok(Changes::default()),
                }
            },
        )
        .get("/v1/files", "", |_, _| async move {
            Ok(vec![HostsFileStatus {
                file: "/etc/hosts".into(),
                way: "by the hosts writer".to_owned(),
                names: 1,
                notes: vec!["WSL writes it anew".to_owned()],
                problem: None,
            }])
        })
        .get("/v1/diff", "", |_, _| async move {
            Ok(vec![HostsDiff {
                file: "/etc/hosts".into(),
                diff: "+127.64.0.1 local.test\n".to_owned(),
                problem: None,
            }])
        })
        .post(
            "/v1/ports",
            "",
            |state: State, _, request: PortRequest| async move {
                state.note(&format!("publish {} {}", request.guest, request.spec));
                match state.script.port_refused {
                    Some(failure) => Err(failure),
                    None => Ok(port(&request.spec.to_string())),
                }
            },
        )
        .delete(
            "/v1/ports",
            "",
            |state: State, _, request: PortRequest| async move {
                state.note(&format!("unpublish {} {}", request.guest, request.spec));
                Ok(())
            },
        )
        .delete(
            "/v1/guests/{name}/link",
            "",
            |state: State, params, (): ()| async move {
                let name: GuestName = params.required("name")?;
                state.note(&format!("detach {name}"));
                Ok(Changes::default())
            },
        )
        .post("/v1/reload", "", |state: State, _, (): ()| async move {
            state.note("reload");
            Ok(Changes {
                changes: Vec::new(),
                problems: state.script.reload_problems,
            })
        })
        .post("/v1/sync", "", |state: State, _, (): ()| async move {
            Ok(state.script.sync)
        })
        .post("/v1/clear", "", |state: State, _, (): ()| async move {
            state.note("clear");
            Ok(Changes::default())
        })
        .events(events)
}

fn dns(network: NetworkName, name: &str) -> Vec<DnsAnswer> {
    let answer = |kind: &str, code: &str, source: &str, records| DnsAnswer {
        network: network.clone(),
        name: format!("{name}."),
        kind: kind.to_owned(),
        code: code.to_owned(),
        source: source.to_owned(),
        records,
    };
    if name != "dev.test" {
        return vec![answer("A", "NXDOMAIN", "reserved", Vec::new())];
    }
    let record = DnsRecord {
        name: "dev.test.".to_owned(),
        kind: "A".to_owned(),
        ttl: 10,
        data: "192.168.130.2".to_owned(),
    };
    vec![
        answer("A", "NOERROR", "guest dev", vec![record]),
        answer("AAAA", "NOERROR", "guest dev", Vec::new()),
    ]
}

fn name(text: &str) -> GuestName {
    GuestName::parse(text).unwrap()
}

fn guest(plugged: bool) -> GuestStatus {
    let link = LinkStatus {
        id: 3,
        transport: "stream".to_owned(),
        received_frames: 10,
        received_bytes: 1000,
        sent_frames: 20,
        sent_bytes: 2000,
        dropped_frames: 0,
    };
    GuestStatus {
        name: Some(name("dev")),
        network: "vmnet8".parse().unwrap(),
        mac: "52:54:00:00:00:01".parse().unwrap(),
        address: Some("192.168.130.5".parse().unwrap()),
        ipv6_address: None,
        host_address: Some("127.64.0.1".parse().unwrap()),
        names: vec!["dev.test".parse().unwrap(), "local.test".parse().unwrap()],
        lease_until: Some("2026-11-23T08:00:00.000Z".to_owned()),
        links: if plugged { vec![link] } else { Vec::new() },
    }
}

fn network(state: &State) -> NetworkStatus {
    NetworkStatus {
        name: "vmnet8".parse().unwrap(),
        kind: NetworkKind::Nat,
        dhcp: true,
        interface: None,
        subnet: "192.168.130.0/24".to_owned(),
        gateway: "192.168.130.1".parse().unwrap(),
        host_internal: "192.168.130.254".parse().unwrap(),
        ipv6: Some("fd00:0:0:8::/64".to_owned()),
        domain: "test".parse().unwrap(),
        guests: usize::from(state.script.plugged),
        socket: state.runtime.join("network/vmnet8.sock"),
        listen: None,
        resolvers: vec!["9.9.9.9:53".parse().unwrap()],
        counters: [("tcp_flows".to_owned(), 0)].into(),
    }
}

fn flow() -> FlowStatus {
    FlowStatus {
        network: "vmnet8".parse().unwrap(),
        protocol: "tcp".to_owned(),
        guest_name: Some(name("dev")),
        guest: "192.168.130.5:40000".parse().unwrap(),
        remote: "192.0.2.1:443".parse().unwrap(),
        name: Some("good.example".to_owned()),
        outbound: true,
        state: "open".to_owned(),
        age: 75,
        idle: 3,
        bytes_from_guest: 1_500,
        bytes_to_guest: 2_500_000,
        packets_from_guest: 4,
        packets_to_guest: 50,
        retransmits: 1,
    }
}

fn port(spec: &str) -> PortStatus {
    PortStatus {
        guest: name("dev"),
        spec: spec.parse().unwrap(),
        listening: vec!["127.64.0.1:8080".parse().unwrap()],
        leads: vec![PortLead {
            host: Some(8080),
            guest: 80,
            answers: GuestAnswer::Serves,
        }],
        problems: Vec::new(),
    }
}

fn share(state: &State) -> ShareStatus {
    ShareStatus {
        name: "src".parse().unwrap(),
        path: "/home/ann/src".into(),
        at: "/home/ann/src".into(),
        read_only: false,
        cache: CachePolicy::Auto,
        ninep: false,
        ninep_guests: Vec::new(),
        problem: None,
        devices: vec![ShareDevice {
            guest: name("dev"),
            socket: state.runtime.join("guest/dev/fs-src.sock"),
            connected: true,
            mounted: true,
            requests: 12,
            malformed: 0,
        }],
        mount: None,
        traffic: vec![ShareTraffic {
            guest: Some(name("dev")),
            door: ShareDoor::Virtiofs,
            operations: 12,
            bytes_read: 4096,
            bytes_written: 0,
        }],
    }
}

fn host_line() -> HostLine {
    HostLine {
        name: "local.test".parse().unwrap(),
        address: "127.64.0.1".parse().unwrap(),
        source: "guest dev on vmnet8".to_owned(),
        origin: Some(NameOrigin::Guest {
            guest: name("dev"),
            network: "vmnet8".parse().unwrap(),
        }),
        written: vec!["/etc/hosts".into()],
        left_out: Vec::new(),
        wildcard: false,
        priority: Some(100),
        since: None,
        until: None,
        hint: None,
    }
}
