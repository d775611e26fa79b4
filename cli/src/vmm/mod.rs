//! Virtual machine monitors and what each wants on its command line. Pure:
//! nothing here starts a program or looks at the machine.

pub(crate) mod libvirt;
pub(crate) mod others;
pub(crate) mod qemu;

use std::path::PathBuf;

use clap::ValueEnum;
use control::config::LinkChoice;
use control::mac::MacAddress;

/// The monitors whose command line we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Vmm {
    /// QEMU 7.2 or newer (`-netdev stream`).
    Qemu,
    /// A `qemu:commandline` for the description of a domain of QEMU's.
    Libvirt,
    /// With shared memory; from its documentation.
    CloudHypervisor,
    /// From its documentation.
    Crosvm,
    /// On macOS; from its documentation.
    Vfkit,
    /// On macOS; from its documentation.
    Krunkit,
}

/// The network card the guest sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Nic {
    /// Paravirtual, fastest; every Linux since 2007 has the driver.
    VirtioNetPci,
    /// Intel 82540EM, for systems without a virtio driver.
    E1000,
    /// Intel 82574L, for systems that want PCI Express.
    E1000e,
}

/// What a guest's command line has to be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wiring {
    /// The guest's Ethernet address.
    pub mac: MacAddress,
    /// The card to add.
    pub nic: Nic,
    /// How frames travel.
    pub link: LinkChoice,
    /// Where the monitor listens for netd.
    pub net_socket: PathBuf,
    /// Where netd listens as a vhost-user device.
    pub vhost_socket: PathBuf,
    /// Where netd takes datagrams.
    pub dgram_socket: PathBuf,
    /// Where the monitor takes netd's.
    pub dgram_peer: PathBuf,
    /// How this QEMU is told to connect again.
    pub reconnect: Reconnect,
    /// Largest packet in bytes, told to the guest's driver where the card can.
    pub host_mtu: Option<u16>,
    /// One device for all shares, or one a share.
    pub shares: Vec<ShareSocket>,
}

/// How a QEMU spells after what time a socket that was closed is connected to again: `reconnect` was deprecated in
/// 9.2 in favour of `reconnect-ms`, which older ones do not know, and has gone since (docs/about/removed-features.rst).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Reconnect {
    #[default]
    Seconds,
    Milliseconds,
}

impl Reconnect {
    /// By what `qemu-system-… --version` prints; as older ones have it when that is not known.
    pub(crate) fn of_version(text: &str) -> Self {
        let Some(version) = text.strip_prefix("QEMU emulator version ") else {
            return Self::default();
        };
        let mut numbers = version
            .split(|sign: char| !sign.is_ascii_digit())
            .map(str::parse::<u32>);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= (9, 2) => Self::Milliseconds,
            _ => Self::Seconds,
        }
    }

    /// The option: after a second.
    fn word(self) -> &'static str {
        match self {
            Self::Seconds => "reconnect=1",
            Self::Milliseconds => "reconnect-ms=1000",
        }
    }
}

/// One virtiofs device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShareSocket {
    /// What the guest names in `mount -t virtiofs TAG`.
    pub tag: String,
    /// Where sharefs listens.
    pub socket: PathBuf,
}
