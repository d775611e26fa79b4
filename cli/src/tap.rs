//! A tap inside a network namespace, made with the caller's own right to it,
//! and its way to netd: one message with the descriptor on netd's link socket.
//! After [`open`] this process stays inside the namespace.
//!
//! Read first: setns(2), user_namespaces(7), unix(7) on SCM_RIGHTS.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use control::api::{LinkAnswer, LinkHandover, LinkKind, LinkPlugged};
use control::mac::MacAddress;
use control::names::GuestName;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::error::{CliError, Outcome};
use crate::sys::{self, Interface};

/// How long netd may take to answer.
const ANSWER_LIMIT: std::time::Duration = std::time::Duration::from_secs(10);
/// The most bytes of an answer.
const ANSWER_SIZE: usize = 64 << 10;

/// A network namespace and where it was found.
pub(crate) struct Namespace {
    file: File,
    shown: PathBuf,
}

impl Namespace {
    /// By path, by the name `ip netns` gave it, or by the id of a process in it.
    pub(crate) fn find(text: &str) -> Outcome<Self> {
        let shown = if text.contains('/') {
            PathBuf::from(text)
        } else if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            PathBuf::from(format!("/proc/{text}/ns/net"))
        } else {
            Path::new("/run/netns").join(text)
        };
        match File::open(&shown) {
            Ok(file) => Ok(Self { file, shown }),
            Err(error) => Err(CliError::failure(
                format!(
                    "cannot open the network namespace {}: {error}",
                    shown.display()
                ),
                "name a path, a namespace of `ip netns ls`, or the id of a process that is yours",
            )),
        }
    }

    /// Moves this process in; a foreign user namespace that owns it comes first,
    /// for the right to make a tap is had there.
    fn enter(&self) -> Outcome {
        let failed = |step: &str, error: io::Error| {
            CliError::failure(
                format!("cannot enter {} ({step}): {error}", self.shown.display()),
                "run the command as the user who made the namespace, or as root",
            )
        };
        let owner = sys::owning_user_namespace(self.file.as_fd())
            .map_err(|error| failed("its user namespace", error))?;
        let same = |own: &Path| -> io::Result<bool> {
            let (own, owner) = (rustix::fs::stat(own)?, rustix::fs::fstat(&owner)?);
            Ok((own.st_dev, own.st_ino) == (owner.st_dev, owner.st_ino))
        };
        if !same(Path::new("/proc/self/ns/user"))
            .map_err(|error| failed("its user namespace", error))?
        {
            move_into_link_name_space(owner.as_fd(), Some(LinkNameSpaceType::User))
                .map_err(|errno| failed("its user namespace", errno.into()))?;
        }
        move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|errno| failed("as a network namespace", errno.into()))
    }
}

/// A tap in the namespace this process has entered.
pub(crate) struct Tap<'n> {
    /// What netd is given.
    pub descriptor: OwnedFd,
    name: &'n str,
    interface: Interface<'n>,
}

/// Enters the namespace and makes the tap there, with the guest's address, still down.
pub(crate) fn open<'n>(namespace: &Namespace, name: &'n str, mac: MacAddress) -> Outcome<Tap<'n>> {
    namespace.enter()?;
    let failed = |error: io::Error| {
        let hint = match Errno::from_io_error(&error) {
            Some(Errno::NOENT | Errno::NODEV) => {
                "the tun module is missing: modprobe tun, or mknod /dev/net/tun c 10 200"
            }
            Some(Errno::BUSY) => "another program has that tap; name another: --ifname tap1",
            None | Some(Errno::INVAL) => {
                "a tap's name has 1 to 15 bytes and no slash, and no interface of another kind has it"
            }
            Some(Errno::ACCESS) => "sudo chmod 666 /dev/net/tun, or run the command as root",
            Some(_) => {
                "the right to make a tap is needed in the namespace: run the command as its owner or as root"
            }
        };
        CliError::failure(
            format!(
                "cannot make the tap {name} in {}: {error}",
                namespace.shown.display()
            ),
            hint,
        )
    };
    let descriptor = sys::open_tap(name).map_err(failed)?;
    let interface = Interface::open(name).map_err(failed)?;
    interface.set_mac(mac).map_err(failed)?;
    Ok(Tap {
        descriptor,
        name,
        interface,
    })
}

impl Tap<'_> {
    fn failed(&self, what: &str, error: io::Error) -> CliError {
        CliError::failure(
            format!("cannot set the {what} of {}: {error}", self.name),
            "sharectl doctor",
        )
    }

    pub(crate) fn set_mtu(&self, mtu: u16) -> Outcome {
        self.interface
            .set_mtu(mtu)
            .map_err(|error| self.failed("MTU", error))
    }

    pub(crate) fn bring_up(&self) -> Outcome {
        self.interface
            .bring_up()
            .map_err(|error| self.failed("state", error))
    }

    /// Address, default route, and the loopback that new namespaces have down.
    pub(crate) fn configure(&self, address: Ipv4Addr, prefix: u8, gateway: Ipv4Addr) -> Outcome {
        let mask = Ipv4Addr::from(u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0));
        self.interface
            .set_address(address, mask)
            .map_err(|error| self.failed("address", error))?;
        self.interface
            .add_default_route(gateway)
            .map_err(|error| self.failed("default route", error))?;
        let loopback = Interface::open("lo").and_then(|lo| lo.bring_up());
        loopback.map_err(|error| self.failed("namespace's loopback", error))
    }
}

/// A connection to netd's link socket.
pub(crate) struct Handover {
    socket: OwnedFd,
    path: PathBuf,
}

impl Handover {
    pub(crate) fn connect(path: &Path) -> Outcome<Self> {
        let connect = || -> io::Result<OwnedFd> {
            let socket = rustix::net::socket_with(
                AddressFamily::UNIX,
                SocketType::SEQPACKET,
                SocketFlags::CLOEXEC,
                None,
            )?;
            rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
            rustix::net::sockopt::set_socket_timeout(
                &socket,
                rustix::net::sockopt::Timeout::Recv,
                Some(ANSWER_LIMIT),
            )?;
            Ok(socket)
        };
        match connect() {
            Ok(socket) => Ok(Self {
                socket,
                path: path.to_owned(),
            }),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                Err(CliError::not_running(
                    format!(
                        "netd is not running (cannot reach {}: {error})",
                        path.display()
                    ),
                    "start it: sharectl up",
                ))
            }
            Err(error) => Err(CliError::failure(
                format!("cannot reach {}: {error}", path.display()),
                "run the command as the user who ran sharectl up, or as root",
            )),
        }
    }

    /// Hands the tap over and waits for netd's word.
    pub(crate) fn send(&self, guest: &GuestName, tap: &OwnedFd) -> Outcome<LinkPlugged> {
        let message = serde_json::to_vec(&LinkHandover {
            guest: guest.clone(),
            kind: LinkKind::Tap,
            vnet_header: true,
        })?;
        match self.exchange(&message, tap)? {
            LinkAnswer::Ok(plugged) => Ok(plugged),
            LinkAnswer::Error(failure) => Err(failure.into()),
            LinkAnswer::Bridged(network) => Err(CliError::failure(
                format!("netd took the tap for the uplink of {network}"),
                "are netd and sharectl of the same version? sharectl status",
            )),
        }
    }

    /// Hands a descriptor over with its message.
    pub(crate) fn exchange(&self, message: &[u8], descriptor: &OwnedFd) -> Outcome<LinkAnswer> {
        let failed = |what: &str, error: io::Error| {
            CliError::failure(
                format!("cannot {what} {}: {error}", self.path.display()),
                "sharectl logs netd",
            )
        };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors: [BorrowedFd<'_>; 1] = [descriptor.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        rustix::net::sendmsg(
            &self.socket,
            &[IoSlice::new(message)],
            &mut control,
            SendFlags::NOSIGNAL,
        )
        .map_err(|errno| failed("hand the descriptor to", errno.into()))?;
        let mut answer = vec![0; ANSWER_SIZE];
        let mut none = RecvAncillaryBuffer::default();
        let received = rustix::net::recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(&mut answer)],
            &mut none,
            RecvFlags::empty(),
        )
        .map_err(|errno| failed("get an answer from", errno.into()))?;
        let answer: Result<LinkAnswer, _> =
            serde_json::from_slice(answer.get(..received.bytes).unwrap_or_default());
        answer.map_err(|error| {
            CliError::failure(
                format!(
                    "netd's answer on {} is not understood: {error}",
                    self.path.display()
                ),
                "are netd and sharectl of the same version? sharectl status",
            )
        })
    }
}
