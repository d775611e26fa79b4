//! The kernel calls that rustix does not wrap: taps and interfaces inside a
//! network namespace, the owner of a namespace, KVM's version, a session of
//! its own for a daemon. It decides nothing; see `tap.rs` and `daemons.rs`.
//!
//! Read first: Linux Documentation/networking/tuntap.rst, netdevice(7), ioctl_ns(2).
#![allow(unsafe_code, reason = "ioctl and pre_exec have no safe form")]

use std::ffi::c_void;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use control::mac::MacAddress;
use rustix::fs::{Mode, OFlags};
use rustix::ioctl::{IntegerSetter, Ioctl, IoctlOutput, Opcode, Updater, ioctl, opcode};

/// `struct ifreq` (linux/if.h): a name and a union of 24 bytes.
#[repr(C, align(8))]
struct InterfaceRequest {
    name: [u8; NAME_SIZE],
    data: [u8; 24],
}

/// `IFNAMSIZ`: an interface's name with its final zero.
const NAME_SIZE: usize = 16;

impl InterfaceRequest {
    fn new(name: &str, data: &[u8]) -> io::Result<Self> {
        let mut request = Self {
            name: [0; NAME_SIZE],
            data: [0; 24],
        };
        let wrong = || {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                "an interface name has 1 to 15 bytes",
            )
        };
        if name.is_empty()
            || name.len() >= NAME_SIZE
            || name.contains(['/', '\0'])
            || data.len() > 24
        {
            return Err(wrong());
        }
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        request.data[..data.len()].copy_from_slice(data);
        Ok(request)
    }
}

// linux/if_tun.h
const TUNSETIFF: Opcode = opcode::write::<i32>(b'T', 202);
const TUNSETVNETHDRSZ: Opcode = opcode::write::<i32>(b'T', 216);
const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
/// `sizeof(struct virtio_net_hdr_v1)`: what virtio 1 puts before each frame.
const VNET_HEADER_SIZE: i32 = 12;

/// Opens the tap `name` in the network namespace of this thread, makes it if it
/// is not there, and has each frame carry a virtio-net header of 12 bytes.
pub(crate) fn open_tap(name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let tap = rustix::fs::open("/dev/net/tun", flags, Mode::empty())?;
    let mut request =
        InterfaceRequest::new(name, &(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR).to_ne_bytes())?;
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, which the request is.
    unsafe {
        ioctl(
            &tap,
            Updater::<TUNSETIFF, InterfaceRequest>::new(&mut request),
        )
    }?;
    let mut size = VNET_HEADER_SIZE;
    // SAFETY: TUNSETVNETHDRSZ reads one int.
    unsafe { ioctl(&tap, Updater::<TUNSETVNETHDRSZ, i32>::new(&mut size)) }?;
    Ok(tap)
}

const TUNSETPERSIST: Opcode = opcode::write::<i32>(b'T', 203);
const TUNSETOWNER: Opcode = opcode::write::<i32>(b'T', 204);

/// Has a tap stay when it is closed, and lets a user open it.
pub(crate) fn keep_tap(tap: &OwnedFd, owner: u32) -> io::Result<()> {
    let owner = usize::try_from(owner).unwrap_or(usize::MAX);
    // SAFETY: both take a number by value.
    unsafe {
        ioctl(tap, IntegerSetter::<TUNSETOWNER>::new_usize(owner))?;
        ioctl(tap, IntegerSetter::<TUNSETPERSIST>::new_usize(1))?;
    }
    Ok(())
}

/// Removes an interface by its number (rtnetlink(7), RTM_DELLINK).
pub(crate) fn delete_interface(index: u32) -> io::Result<()> {
    use rustix::net::netlink::SocketAddrNetlink;
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
    const RTM_DELLINK: u16 = 17;
    const REQUEST_AND_ANSWER: u16 = 1 | 4;
    const LENGTH: u32 = 32;
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // struct nlmsghdr, struct ifinfomsg.
    let mut message = [0; LENGTH as usize];
    message[..4].copy_from_slice(&LENGTH.to_ne_bytes());
    message[4..6].copy_from_slice(&RTM_DELLINK.to_ne_bytes());
    message[6..8].copy_from_slice(&REQUEST_AND_ANSWER.to_ne_bytes());
    message[20..24].copy_from_slice(&index.to_ne_bytes());
    let kernel = SocketAddrNetlink::new(0, 0);
    rustix::net::sendto(&socket, &message, SendFlags::empty(), &kernel)?;
    let mut answer = [0_u8; 256];
    let (length, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty())?;
    // struct nlmsgerr: the errno, negative, behind the header; 0 is done.
    let error = answer.get(16..20).filter(|_| length >= 20);
    let error = error.and_then(|bytes| bytes.try_into().ok());
    match error.map_or(0, i32::from_ne_bytes) {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(-errno)),
    }
}

// linux/sockios.h: these numbers carry no direction and size.
const SIOCADDRT: Opcode = 0x890b;
const SIOCGIFFLAGS: Opcode = 0x8913;
const SIOCSIFFLAGS: Opcode = 0x8914;
const SIOCSIFADDR: Opcode = 0x8916;
const SIOCSIFNETMASK: Opcode = 0x891c;
const SIOCSIFMTU: Opcode = 0x8922;
const SIOCSIFHWADDR: Opcode = 0x8924;
const IFF_UP: u16 = 1;
const ARPHRD_ETHER: u16 = 1;
const AF_INET: u16 = 2;

/// An interface of the network namespace in which it was opened.
pub(crate) struct Interface<'n> {
    name: &'n str,
    socket: OwnedFd,
}

impl<'n> Interface<'n> {
    /// Any socket serves to ask the namespace for its interfaces.
    pub(crate) fn open(name: &'n str) -> io::Result<Self> {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
        let socket = socket_with(
            AddressFamily::INET,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok(Self { name, socket })
    }

    pub(crate) fn set_mac(&self, mac: MacAddress) -> io::Result<()> {
        let mut data = [0; 8];
        data[..2].copy_from_slice(&ARPHRD_ETHER.to_ne_bytes());
        data[2..].copy_from_slice(&mac.0);
        self.request::<SIOCSIFHWADDR>(&data).map(drop)
    }

    /// `mtu` in bytes, without the Ethernet header.
    pub(crate) fn set_mtu(&self, mtu: u16) -> io::Result<()> {
        self.request::<SIOCSIFMTU>(&i32::from(mtu).to_ne_bytes())
            .map(drop)
    }

    pub(crate) fn bring_up(&self) -> io::Result<()> {
        let now = self.request::<SIOCGIFFLAGS>(&[])?;
        let flags = u16::from_ne_bytes([now.data[0], now.data[1]]) | IFF_UP;
        self.request::<SIOCSIFFLAGS>(&flags.to_ne_bytes()).map(drop)
    }

    pub(crate) fn set_address(&self, address: Ipv4Addr, mask: Ipv4Addr) -> io::Result<()> {
        self.request::<SIOCSIFADDR>(&socket_address(address))?;
        self.request::<SIOCSIFNETMASK>(&socket_address(mask))
            .map(drop)
    }

    /// An IPv6 address beside those that are there.
    pub(crate) fn add_ipv6(&self, address: std::net::Ipv6Addr, prefix: u32) -> io::Result<()> {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};
        /// `struct in6_ifreq` (linux/ipv6.h).
        #[repr(C)]
        struct AddressRequest {
            address: [u8; 16],
            prefix: u32,
            index: u32,
        }
        let socket = socket_with(
            AddressFamily::INET6,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let mut request = AddressRequest {
            address: address.octets(),
            prefix,
            index: netdevice::name_to_index(&self.socket, self.name)?,
        };
        // SAFETY: on an IPv6 socket SIOCSIFADDR reads one `struct in6_ifreq`.
        unsafe {
            ioctl(
                &socket,
                Updater::<SIOCSIFADDR, AddressRequest>::new(&mut request),
            )
        }?;
        Ok(())
    }

    /// A default route; the interface must be up and have an address.
    pub(crate) fn add_default_route(&self, gateway: Ipv4Addr) -> io::Result<()> {
        const RTF_UP: u16 = 1;
        const RTF_GATEWAY: u16 = 2;
        /// `struct rtentry` (linux/route.h).
        #[repr(C)]
        struct RouteEntry {
            pad1: usize,
            destination: [u8; 16],
            gateway: [u8; 16],
            mask: [u8; 16],
            flags: u16,
            pad2: u16,
            pad3: usize,
            pad4: *const c_void,
            metric: u16,
            device: *const c_void,
            mtu: usize,
            window: usize,
            irtt: u16,
        }
        let mut entry = RouteEntry {
            pad1: 0,
            destination: socket_address(Ipv4Addr::UNSPECIFIED),
            gateway: socket_address(gateway),
            mask: socket_address(Ipv4Addr::UNSPECIFIED),
            flags: RTF_UP | RTF_GATEWAY,
            pad2: 0,
            pad3: 0,
            pad4: std::ptr::null(),
            metric: 0,
            device: std::ptr::null(),
            mtu: 0,
            window: 0,
            irtt: 0,
        };
        // SAFETY: SIOCADDRT reads one `struct rtentry`; a null device name is allowed.
        unsafe {
            ioctl(
                &self.socket,
                Updater::<SIOCADDRT, RouteEntry>::new(&mut entry),
            )
        }?;
        Ok(())
    }

    fn request<const CODE: Opcode>(&self, data: &[u8]) -> io::Result<InterfaceRequest> {
        let mut request = InterfaceRequest::new(self.name, data)?;
        // SAFETY: every CODE used in this file takes one `struct ifreq`.
        unsafe {
            ioctl(
                &self.socket,
                Updater::<CODE, InterfaceRequest>::new(&mut request),
            )
        }?;
        Ok(request)
    }
}

/// `struct sockaddr_in` with port 0.
fn socket_address(address: Ipv4Addr) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&AF_INET.to_ne_bytes());
    bytes[4..8].copy_from_slice(&address.octets());
    bytes
}

/// An ioctl without an argument whose return value is the answer.
struct Ask<const CODE: Opcode>;

// SAFETY: used only with NS_GET_USERNS and KVM_GET_API_VERSION, which take no
// argument, touch no memory of ours and return a number.
unsafe impl<const CODE: Opcode> Ioctl for Ask<CODE> {
    type Output = IoctlOutput;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        CODE
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> rustix::io::Result<IoctlOutput> {
        Ok(out)
    }
}

const NS_GET_USERNS: Opcode = opcode::none(0xb7, 1);
const KVM_GET_API_VERSION: Opcode = opcode::none(0xae, 0);

/// The user namespace that owns the namespace `fd`; `EPERM` when that is outside our own.
pub(crate) fn owning_user_namespace(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: see `Ask`.
    let raw = unsafe { ioctl(fd, Ask::<NS_GET_USERNS>) }?;
    // SAFETY: on success NS_GET_USERNS returns a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// The version KVM says it speaks; 12 since 2007.
pub(crate) fn kvm_api_version(kvm: impl AsFd) -> io::Result<i32> {
    // SAFETY: see `Ask`.
    Ok(unsafe { ioctl(kvm, Ask::<KVM_GET_API_VERSION>) }?)
}

/// Has the program start in a session of its own, so that neither a closed
/// terminal nor its Ctrl-C reaches it.
pub(crate) fn in_own_session(command: &mut Command) -> &mut Command {
    // SAFETY: setsid is async-signal-safe and the closure allocates nothing.
    unsafe { command.pre_exec(|| Ok(rustix::process::setsid().map(drop)?)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_kernels_sizes() {
        assert_eq!(size_of::<InterfaceRequest>(), 40);
        assert_eq!(TUNSETIFF, 0x4004_54ca);
        assert_eq!(TUNSETVNETHDRSZ, 0x4004_54d8);
        assert_eq!(NS_GET_USERNS, 0xb701);
    }

    #[test]
    fn interface_names_that_do_not_fit_are_refused() {
        for name in ["", "a/b", "sixteen-letters-", "nul\0"] {
            assert!(InterfaceRequest::new(name, &[]).is_err(), "{name:?}");
        }
        assert!(InterfaceRequest::new("fifteen-letters", &[0; 24]).is_ok());
    }

    #[test]
    fn own_network_namespace_belongs_to_a_user_namespace() {
        let own = std::fs::File::open("/proc/self/ns/net").unwrap();
        let owner = owning_user_namespace(own.as_fd()).unwrap();
        let owner = rustix::fs::fstat(&owner).unwrap();
        let mine = rustix::fs::stat("/proc/self/ns/user").unwrap();
        assert_eq!((owner.st_dev, owner.st_ino), (mine.st_dev, mine.st_ino));
    }
}
