//! QEMU's command line: the line that was typed in, the line with the guest's
//! network card and shares out. What the user wrote stays as it is, in front;
//! parts that are already there are not added twice. Pure: it does not look
//! whether sockets or programs exist.
//!
//! Read first: QEMU's docs/system/devices/vhost-user.rst (why memory must be
//! shared) and qemu-options.hx (`-netdev stream`).

mod line;

use std::ffi::OsString;
use std::path::Path;

use self::line::Given;
pub(crate) use self::line::parse_memory;
use control::config::{LinkChoice, SHARES_TAG};

use super::{Nic, Wiring};

/// The QEMU whose line is completed where none is named.
pub(crate) const PROGRAM: &str = "qemu-system-x86_64";
/// Requests a virtqueue of a share holds; virtiofsd's and libvirt's value.
const QUEUE_SIZE: u16 = 1024;
/// Request queues that sharefs serves.
const MOST_QUEUES: u32 = 4;

/// A line ready to run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Edited {
    /// Program and arguments.
    pub line: Vec<OsString>,
    /// How many words at the front are the user's own.
    pub own: usize,
    /// What the user may want to know about the outcome.
    pub notes: Vec<String>,
}

/// Why a line cannot be completed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LineError {
    #[error("the program to run is missing")]
    NoProgram,
    #[error("{0} is not a QEMU, and no other monitor's command line is known")]
    OtherMonitor(String),
    #[error("\"{0}\" is not a memory size as -m takes it")]
    MemorySize(String),
    #[error(
        "vhost-user devices need memory that can be shared, but memory backend \"{id}\" ({kind}) is private"
    )]
    PrivateMemory { id: String, kind: String },
    #[error("memory backend \"{0}\" is named on the line but not defined by any -object")]
    UnknownBackend(String),
    #[error("vhost-user devices need memory that can be shared, which {0} does not give")]
    OldMemoryOption(&'static str),
    #[error("a {0} card cannot be a vhost-user device")]
    NotVirtio(&'static str),
    #[error("machine \"{machine}\" has no PCI bus for an {nic} card")]
    NoPci { machine: String, nic: &'static str },
}

impl LineError {
    /// The next step.
    pub(crate) fn hint(&self) -> String {
        match self {
            Self::NoProgram => "write the whole line behind --, e.g. -- qemu-system-x86_64 -m 2G disk.qcow2".into(),
            Self::OtherMonitor(_) => {
                "`sharectl guest args NAME` prints the sockets to give to another monitor".into()
            }
            Self::MemorySize(_) => "write it like 2G, 512M or 2048 (MiB)".into(),
            Self::PrivateMemory { id, kind } if kind == "memory-backend-ram" => {
                format!("make it -object memory-backend-memfd,id={id},share=on,size=…")
            }
            Self::PrivateMemory { id, .. } => format!("add share=on to the -object with id={id}"),
            Self::UnknownBackend(id) => format!("add -object memory-backend-memfd,id={id},share=on,size=…"),
            Self::OldMemoryOption("-mem-path") => {
                "replace -mem-path FILE by -object memory-backend-file,id=mem,mem-path=FILE,share=on,size=… \
                 and -machine memory-backend=mem"
                    .into()
            }
            Self::OldMemoryOption(_) => "give each -numa node a memdev= with share=on instead of mem=".into(),
            Self::NotVirtio(_) => "use --nic virtio-net-pci, or --link stream".into(),
            Self::NoPci { .. } => "use --nic virtio-net-pci".into(),
        }
    }
}

/// Software emulation translates no memory barrier for a guest that can never have a second processor (`CF_PARALLEL` in QEMU's
/// `tcg_cpu_init_cflags`), though a device's thread reads the same rings: kicks get lost.
const ONE_PROCESSOR: &str = "where KVM does not run it, a guest that can have one processor only has no memory barriers, \
     and a virtio device of it may stand still: add -smp 2";

/// Adds to `words` what `wiring` asks for.
///
/// # Errors
/// When the line's own options make it impossible, see [`LineError`].
pub(crate) fn edit(words: &[OsString], wiring: &Wiring) -> Result<Edited, LineError> {
    let (program, arguments) = words.split_first().ok_or(LineError::NoProgram)?;
    let mut notes = check_program(program)?;
    let options = line::options(arguments);
    let machine = Machine::of(words, &options);
    let mut ids = Ids::of(&options);
    let mut parts = Vec::new();
    let link = link_of(&options, wiring, &machine)?;
    let card = (&machine, link);
    add_network(&options, wiring, card, &mut ids, &mut parts)?;
    if link == LinkChoice::VhostUser || !wiring.shares.is_empty() {
        share_memory(&options, &mut ids, &mut parts)?;
    }
    let other_cards = options.iter().any(|option| match option.name.as_str() {
        "nic" | "net" => option.field("") != Some("none"),
        "netdev" => !is_ours(option, &options, wiring),
        _ => false,
    });
    if other_cards {
        notes
            .push("the line has a network card of its own; the guest gets ours besides".to_owned());
    }
    add_shares(&options, wiring, &machine, &mut ids, &mut parts);
    if !machine.kvm && line::most_processors(&options) < 2 {
        notes.push(ONE_PROCESSOR.to_owned());
    }
    if options.iter().any(|option| option.name == "readconfig") {
        notes.push(
            "what -readconfig reads is not looked at; memory and ids must not be set there"
                .to_owned(),
        );
    }
    let mut line = words.to_vec();
    line.extend(parts);
    Ok(Edited {
        line,
        own: words.len(),
        notes,
    })
}

/// The words to add to a line that has nothing but `-m` with this many bytes.
///
/// # Errors
/// As [`edit`].
pub(crate) fn parts(wiring: &Wiring, memory: u64) -> Result<Vec<OsString>, LineError> {
    let line: [OsString; 3] = [PROGRAM.into(), "-m".into(), format!("{memory}b").into()];
    let edited = edit(&line, wiring)?;
    Ok(edited.line.into_iter().skip(edited.own).collect())
}

fn check_program(program: &OsString) -> Result<Vec<String>, LineError> {
    let name = Path::new(program)
        .file_name()
        .unwrap_or(program)
        .to_string_lossy();
    let others = [
        "cloud-hypervisor",
        "crosvm",
        "firecracker",
        "vfkit",
        "krunvm",
    ];
    if others.iter().any(|other| name.starts_with(other)) {
        return Err(LineError::OtherMonitor(name.into_owned()));
    }
    if name.starts_with("qemu") || name.starts_with("kvm") {
        return Ok(Vec::new());
    }
    Ok(vec![format!(
        "{name} is taken for a wrapper that hands its arguments to a QEMU"
    )])
}

/// How the machine's virtio devices are named.
struct Machine {
    kind: String,
    virtio_suffix: &'static str,
    /// The line says that the guest runs under KVM and nothing else.
    kvm: bool,
}

impl Machine {
    fn of(words: &[OsString], options: &[Given]) -> Self {
        let machine_options = options
            .iter()
            .filter(|o| matches!(o.name.as_str(), "machine" | "M"));
        let kind = machine_options
            .filter_map(|o| o.field_or_first("type"))
            .next_back();
        let s390x = words
            .iter()
            .any(|word| word.to_string_lossy().ends_with("qemu-system-s390x"));
        let virtio_suffix = match kind {
            Some("microvm") => "device",
            _ if s390x => "ccw",
            _ => "pci",
        };
        Self {
            kind: kind
                .unwrap_or(if s390x { "s390-ccw-virtio" } else { "default" })
                .to_owned(),
            virtio_suffix,
            kvm: uses_kvm(words, options),
        }
    }
}

fn uses_kvm(words: &[OsString], options: &[Given]) -> bool {
    let program = words.first().and_then(|word| Path::new(word).file_name());
    let mut accelerators: Vec<&str> = Vec::new();
    for option in options {
        match option.name.as_str() {
            "enable-kvm" => accelerators.push("kvm"),
            "accel" => accelerators.extend(option.field_or_first("accel")),
            "machine" | "M" => accelerators.extend(option.field("accel")),
            _other => {}
        }
    }
    if accelerators.is_empty() {
        return program.is_some_and(|name| name == "kvm");
    }
    accelerators.iter().all(|name| *name == "kvm")
}

/// The ids that are taken.
struct Ids(Vec<String>);

impl Ids {
    fn of(options: &[Given]) -> Self {
        let ids = options.iter().filter_map(|option| option.field("id"));
        Self(ids.map(str::to_owned).collect())
    }

    /// `wanted`, or with the first number that makes it free.
    fn take(&mut self, wanted: &str) -> String {
        let mut id = wanted.to_owned();
        let mut number = 1;
        while self.0.contains(&id) {
            number += 1;
            id = format!("{wanted}-{number}");
        }
        self.0.push(id.clone());
        id
    }
}

fn listens_at(option: &Given, socket: &Path) -> bool {
    option.name == "netdev"
        && option
            .field("addr.path")
            .or_else(|| option.field("path"))
            .is_some_and(|path| Path::new(path) == socket)
}

/// Whether a network back-end of the line leads to this guest's netd, in whichever way.
fn is_ours(option: &Given, options: &[Given], wiring: &Wiring) -> bool {
    let socket_of = |id: &str| {
        let chardev = |other: &&Given| other.name == "chardev" && other.field("id") == Some(id);
        options.iter().find(chardev)?.field("path")
    };
    let at = |path: Option<&str>, socket: &Path| path.is_some_and(|path| Path::new(path) == socket);
    listens_at(option, &wiring.net_socket)
        || at(option.field("remote.path"), &wiring.dgram_socket)
        || at(
            option.field("chardev").and_then(socket_of),
            &wiring.vhost_socket,
        )
}

/// `auto` costs no guest anything: memory that is shared anyway makes vhost-user free, else a stream asks for nothing.
/// QEMU 7.2 crashes with vhost-user cards and MSI-X in software emulation: there only who asks for one gets one.
fn link_of(options: &[Given], wiring: &Wiring, machine: &Machine) -> Result<LinkChoice, LineError> {
    let virtio = wiring.nic == Nic::VirtioNetPci && machine.virtio_suffix == "pci";
    match wiring.link {
        LinkChoice::VhostUser => match wiring.nic {
            Nic::VirtioNetPci => Ok(LinkChoice::VhostUser),
            Nic::E1000 => Err(LineError::NotVirtio("e1000")),
            Nic::E1000e => Err(LineError::NotVirtio("e1000e")),
        },
        LinkChoice::Auto if virtio && machine.kvm => {
            let free = !wiring.shares.is_empty() || has_shared_memory(options) == Ok(true);
            Ok(if free {
                LinkChoice::VhostUser
            } else {
                LinkChoice::Stream
            })
        }
        LinkChoice::Auto => Ok(LinkChoice::Stream),
        LinkChoice::Stream | LinkChoice::Dgram => Ok(wiring.link),
    }
}

fn add_network(
    options: &[Given],
    wiring: &Wiring,
    (machine, link): (&Machine, LinkChoice),
    ids: &mut Ids,
    parts: &mut Vec<OsString>,
) -> Result<(), LineError> {
    if options
        .iter()
        .any(|option| is_ours(option, options, wiring))
    {
        return Ok(());
    }
    let driver = match wiring.nic {
        Nic::VirtioNetPci => format!("virtio-net-{}", machine.virtio_suffix),
        Nic::E1000 | Nic::E1000e => {
            let nic = if wiring.nic == Nic::E1000 {
                "e1000"
            } else {
                "e1000e"
            };
            if machine.virtio_suffix != "pci" {
                return Err(LineError::NoPci {
                    machine: machine.kind.clone(),
                    nic,
                });
            }
            nic.to_owned()
        }
    };
    let id = ids.take("sharectl-net");
    match link {
        LinkChoice::VhostUser => {
            let chardev = ids.take("sharectl-link");
            // The VMM connects again when netd was away.
            let reconnect = wiring.reconnect.word();
            push(
                parts,
                "-chardev",
                &[
                    &format!("socket,id={chardev},{reconnect},path="),
                    &path(&wiring.vhost_socket),
                ],
            );
            let netdev = format!("vhost-user,id={id},chardev={chardev}");
            push(parts, "-netdev", &[&netdev]);
        }
        LinkChoice::Dgram => push(
            parts,
            "-netdev",
            &[
                &format!("dgram,id={id},local.type=unix,local.path="),
                &path(&wiring.dgram_peer),
                &",remote.type=unix,remote.path=",
                &path(&wiring.dgram_socket),
            ],
        ),
        LinkChoice::Stream | LinkChoice::Auto => push(
            parts,
            "-netdev",
            &[
                &format!("stream,id={id},server=on,addr.type=unix,addr.path="),
                &path(&wiring.net_socket),
            ],
        ),
    }
    let mtu = match (wiring.nic, wiring.host_mtu) {
        (Nic::VirtioNetPci, Some(mtu)) => format!(",host_mtu={mtu}"),
        // The Intel cards have no way to tell their driver; DHCP does.
        (Nic::VirtioNetPci, None) | (Nic::E1000 | Nic::E1000e, _) => String::new(),
    };
    // Without MSI-X, see `link_of`.
    let vectors = if link == LinkChoice::VhostUser && !machine.kvm {
        ",vectors=0"
    } else {
        ""
    };
    push(
        parts,
        "-device",
        &[&format!(
            "{driver},netdev={id},mac={}{mtu}{vectors}",
            wiring.mac
        )],
    );
    Ok(())
}

fn add_shares(
    options: &[Given],
    wiring: &Wiring,
    machine: &Machine,
    ids: &mut Ids,
    parts: &mut Vec<OsString>,
) {
    for share in &wiring.shares {
        let there = |option: &Given| {
            option.name == "device"
                && option
                    .field("")
                    .is_some_and(|driver| driver.starts_with("vhost-user-fs"))
                && option.field("tag") == Some(&share.tag)
        };
        if options.iter().any(there) {
            continue;
        }
        let id = match share.tag.as_str() {
            SHARES_TAG => ids.take("sharectl-fs"),
            tag => ids.take(&format!("sharectl-fs-{tag}")),
        };
        push(
            parts,
            "-chardev",
            &[&format!("socket,id={id},path="), &path(&share.socket)],
        );
        let driver = format!("vhost-user-fs-{}", machine.virtio_suffix);
        // Linux has a queue for each processor from 6.11 on, and uses one before.
        let queues = match line::processors(options).min(MOST_QUEUES) {
            0 | 1 => String::new(),
            several => format!(",num-request-queues={several}"),
        };
        push(
            parts,
            "-device",
            &[&format!(
                "{driver},chardev={id},tag={},queue-size={QUEUE_SIZE}{queues}",
                share.tag
            )],
        );
    }
}

/// Makes the guest's memory such that vhost-user devices can map it.
fn share_memory(
    options: &[Given],
    ids: &mut Ids,
    parts: &mut Vec<OsString>,
) -> Result<(), LineError> {
    if has_shared_memory(options)? {
        return Ok(());
    }
    let id = ids.take("sharectl-mem");
    let size = line::memory_text(line::memory(options)?);
    push(
        parts,
        "-object",
        &[&format!(
            "memory-backend-memfd,id={id},share=on,size={size}"
        )],
    );
    push(parts, "-machine", &[&format!("memory-backend={id}")]);
    Ok(())
}

/// Whether the guest's memory is already such that a vhost-user device can map it.
fn has_shared_memory(options: &[Given]) -> Result<bool, LineError> {
    let machine = options
        .iter()
        .filter(|o| matches!(o.name.as_str(), "machine" | "M"));
    let numa = options.iter().filter(|o| o.name == "numa");
    let named: Vec<&str> = machine
        .filter_map(|o| o.field("memory-backend"))
        .chain(numa.clone().filter_map(|o| o.field("memdev")))
        .collect();
    if named.is_empty() {
        if options.iter().any(|o| o.name == "mem-path") {
            return Err(LineError::OldMemoryOption("-mem-path"));
        }
        if numa.clone().any(|o| o.field("mem").is_some()) {
            return Err(LineError::OldMemoryOption("-numa node,mem="));
        }
        return Ok(false);
    }
    for id in named {
        let object = options
            .iter()
            .find(|o| o.name == "object" && o.field("id") == Some(id));
        let object = object.ok_or_else(|| LineError::UnknownBackend(id.to_owned()))?;
        let kind = object.field_or_first("qom-type").unwrap_or_default();
        let share = object.field("share");
        let shared = match kind {
            // Shared unless told otherwise (backends/hostmem-memfd.c, hostmem-shm.c).
            "memory-backend-memfd" | "memory-backend-shm" => {
                !matches!(share, Some("off" | "no" | "false" | "n"))
            }
            "memory-backend-file" => matches!(share, Some("on" | "yes" | "true" | "y")),
            // Anonymous memory has no descriptor to hand over, shared or not.
            _ => false,
        };
        if !shared {
            return Err(LineError::PrivateMemory {
                id: id.to_owned(),
                kind: kind.to_owned(),
            });
        }
    }
    Ok(true)
}

/// A path as a value: commas doubled.
fn path(path: &Path) -> OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let mut bytes = Vec::new();
    for byte in path.as_os_str().as_bytes() {
        bytes.push(*byte);
        if *byte == b',' {
            bytes.push(b',');
        }
    }
    OsString::from_vec(bytes)
}

fn push(parts: &mut Vec<OsString>, option: &str, value: &[&dyn AsRef<std::ffi::OsStr>]) {
    parts.push(option.into());
    let mut text = OsString::new();
    for piece in value {
        text.push(piece);
    }
    parts.push(text);
}

#[cfg(test)]
mod tests;
