//! The few kernel calls that rustix has no safe form of: tap ioctls, the error queue of datagram sockets,
//! and anonymous pages that go back to the kernel when dropped. Nothing here decides anything.
//! See tun.rst, netdevice(7), ip(7) (IP_RECVERR), mmap(2).
#![allow(
    unsafe_code,
    reason = "the only file of this crate that calls the kernel by hand"
)]

use std::ffi::c_int;
use std::io::{self, IoSlice};
use std::mem::{MaybeUninit, size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use tokio::io::unix::AsyncFd;

pub mod packet;

const TUN_F_CSUM: c_int = 1;
const TUN_F_TSO4: c_int = 2;
const TUN_F_TSO6: c_int = 4;
const TUN_F_TSO_ECN: c_int = 8;
const TUN_F_USO4: c_int = 0x20;
const TUN_F_USO6: c_int = 0x40;

fn checked(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Opens `/dev/net/tun` and makes (or takes) the tap `name` in the caller's network namespace.
pub fn open_tap(name: &str, vnet_header: bool) -> io::Result<OwnedFd> {
    let device = rustix::fs::open(
        "/dev/net/tun",
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC | rustix::fs::OFlags::NONBLOCK,
        rustix::fs::Mode::empty(),
    )?;
    // SAFETY: `ifreq` is plain data for which all zeroes is valid.
    let mut request: libc::ifreq = unsafe { zeroed() };
    if name.len() >= request.ifr_name.len() || name.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{name:?} is no interface name"),
        ));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let header = if vnet_header { libc::IFF_VNET_HDR } else { 0 };
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | header;
    request.ifr_ifru.ifru_flags =
        i16::from_ne_bytes([flags.to_ne_bytes()[0], flags.to_ne_bytes()[1]]);
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which lives through the call.
    checked(unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    Ok(device)
}

/// Tells a tap which work we take off its kernel's hands, and the size of the header that says so.
/// UDP segmentation needs Linux 6.2; without it the rest is set.
pub fn set_tap_offload(tap: BorrowedFd<'_>, header: usize) -> io::Result<()> {
    let size = c_int::try_from(header).unwrap_or(10);
    // SAFETY: TUNSETVNETHDRSZ reads one int, which lives through the call.
    checked(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const size) })?;
    let base = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
    // SAFETY: TUNSETOFFLOAD takes its flags by value.
    let full = checked(unsafe {
        libc::ioctl(
            tap.as_raw_fd(),
            libc::TUNSETOFFLOAD,
            base | TUN_F_USO4 | TUN_F_USO6,
        )
    });
    if full.is_err() {
        // SAFETY: as above.
        checked(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETOFFLOAD, base) })?;
    }
    Ok(())
}

/// Whether the descriptor is a tap with the virtio-net header, or nothing if it is no tap.
pub fn tap_has_header(tap: BorrowedFd<'_>) -> io::Result<bool> {
    // SAFETY: `ifreq` is plain data for which all zeroes is valid.
    let mut request: libc::ifreq = unsafe { zeroed() };
    // SAFETY: TUNGETIFF writes one `ifreq`, which lives through the call.
    checked(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNGETIFF, &raw mut request) })?;
    // SAFETY: TUNGETIFF filled the flags member of the union.
    let flags = c_int::from(unsafe { request.ifr_ifru.ifru_flags });
    if flags & libc::IFF_TAP == 0 || flags & libc::IFF_NO_PI == 0 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a tap device opened with IFF_TAP | IFF_NO_PI",
        ));
    }
    Ok(flags & libc::IFF_VNET_HDR != 0)
}

/// Asks for ICMP errors on a datagram socket's error queue (IP_RECVERR, IPV6_RECVERR).
pub fn receive_errors(socket: BorrowedFd<'_>, ipv6: bool) -> io::Result<()> {
    let (level, option) = if ipv6 {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
    } else {
        (libc::IPPROTO_IP, libc::IP_RECVERR)
    };
    switch_on(socket, level, option)
}

/// Sets a socket option that is an int to 1.
fn switch_on(socket: BorrowedFd<'_>, level: c_int, option: c_int) -> io::Result<()> {
    let on: c_int = 1;
    let length = libc::socklen_t::try_from(size_of::<c_int>()).unwrap_or(4);
    // SAFETY: the option is one int, which lives through the call.
    checked(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const on).cast(),
            length,
        )
    })?;
    Ok(())
}

/// Asks to be told to which address of ours each datagram went (IP_PKTINFO, ip(7); IPV6_RECVPKTINFO, RFC 3542 section 6.1).
pub fn receive_destination(socket: impl AsFd, ipv6: bool) -> io::Result<()> {
    let (level, option) = if ipv6 {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
    } else {
        (libc::IPPROTO_IP, libc::IP_PKTINFO)
    };
    switch_on(socket.as_fd(), level, option)
}

/// Room for one `in6_pktinfo` with its header, aligned as headers must be.
const PACKET_INFO: usize = 64;

/// A datagram, who sent it, and the address of ours it went to (`None` unless [`receive_destination`] asked for it).
pub fn receive_from(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<(usize, SocketAddr, Option<IpAddr>)> {
    let mut address = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut control = [0_u64; PACKET_INFO / 8];
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: `msghdr` is plain data for which all zeroes is valid.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_name = address.as_mut_ptr().cast();
    message.msg_namelen =
        libc::socklen_t::try_from(size_of::<libc::sockaddr_storage>()).unwrap_or(128);
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: every pointer in `message` is to a value that outlives the call, with its true length.
    let count = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: zeroed at first and maybe filled by the kernel: initialised either way.
    let address = unsafe { address.assume_init() };
    let from = socket_address(&address).ok_or(io::ErrorKind::InvalidData)?;
    let mut to = None;
    // SAFETY: `message` describes the control buffer that the kernel just filled.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while let Some(present) = NonNull::new(header) {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR only give headers that lie inside the buffer, aligned by `[u64]`.
        let entry = unsafe { present.as_ref() };
        let holds = |size: usize| entry.cmsg_len >= size_of::<libc::cmsghdr>() + size;
        if (entry.cmsg_level, entry.cmsg_type) == (libc::IPPROTO_IP, libc::IP_PKTINFO)
            && holds(size_of::<libc::in_pktinfo>())
        {
            // SAFETY: the entry says that it holds an `in_pktinfo`, and its length was checked.
            let info = unsafe {
                libc::CMSG_DATA(header)
                    .cast::<libc::in_pktinfo>()
                    .read_unaligned()
            };
            to = Some(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)).into());
        } else if (entry.cmsg_level, entry.cmsg_type) == (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO)
            && holds(size_of::<libc::in6_pktinfo>())
        {
            // SAFETY: the entry says that it holds an `in6_pktinfo`, and its length was checked.
            let info = unsafe {
                libc::CMSG_DATA(header)
                    .cast::<libc::in6_pktinfo>()
                    .read_unaligned()
            };
            to = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
        }
        // SAFETY: as for CMSG_FIRSTHDR.
        header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
    }
    Ok((count, from, to))
}

/// What the kernel wrote, if it is an address of the internet.
fn socket_address(address: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match c_int::from(address.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says which it is, and the storage is large enough and aligned for each.
            let address = unsafe { &*(&raw const *address).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(address.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let address = unsafe { &*(&raw const *address).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(address.sin6_addr.s6_addr);
            let port = u16::from_be(address.sin6_port);
            Some(SocketAddrV6::new(ip, port, 0, address.sin6_scope_id).into())
        }
        _none_of_ours => None,
    }
}

/// Sends one datagram from an address of ours (RFC 1123 section 4.1.3.5 wants the one that was asked).
pub fn send_from(
    socket: BorrowedFd<'_>,
    payload: &[u8],
    from: IpAddr,
    to: SocketAddr,
) -> io::Result<()> {
    let mut control = [0_u64; PACKET_INFO / 8];
    let part = IoSlice::new(payload);
    // SAFETY: plain data for which all zeroes is valid, all three.
    let (mut address4, mut address6, mut message): (
        libc::sockaddr_in,
        libc::sockaddr_in6,
        libc::msghdr,
    ) = unsafe { (zeroed(), zeroed(), zeroed()) };
    match to {
        SocketAddr::V4(to) => {
            address4.sin_family = libc::sa_family_t::try_from(libc::AF_INET).unwrap_or_default();
            address4.sin_port = to.port().to_be();
            address4.sin_addr.s_addr = u32::from(*to.ip()).to_be();
            message.msg_name = (&raw mut address4).cast();
            message.msg_namelen =
                libc::socklen_t::try_from(size_of::<libc::sockaddr_in>()).unwrap_or(16);
        }
        SocketAddr::V6(to) => {
            address6.sin6_family = libc::sa_family_t::try_from(libc::AF_INET6).unwrap_or_default();
            address6.sin6_port = to.port().to_be();
            address6.sin6_addr.s6_addr = to.ip().octets();
            address6.sin6_scope_id = to.scope_id();
            message.msg_name = (&raw mut address6).cast();
            message.msg_namelen =
                libc::socklen_t::try_from(size_of::<libc::sockaddr_in6>()).unwrap_or(28);
        }
    }
    // The kernel only reads through this pointer; `IoSlice` has the layout of `iovec`.
    message.msg_iov = (&raw const part).cast::<libc::iovec>().cast_mut();
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    let size = match from {
        IpAddr::V4(_) => size_of::<libc::in_pktinfo>(),
        IpAddr::V6(_) => size_of::<libc::in6_pktinfo>(),
    };
    let size = u32::try_from(size).unwrap_or(u32::MAX);
    // SAFETY: CMSG_SPACE and CMSG_LEN are arithmetic on their argument.
    let (space, length) = unsafe { (libc::CMSG_SPACE(size), libc::CMSG_LEN(size)) };
    message.msg_controllen = space as usize;
    // SAFETY: `message` describes `control`, which is long enough for one header and either structure
    // (64 >= CMSG_SPACE(20)) and aligned by `[u64]`; the structures are plain data, valid as zeroes.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_len = length as usize;
        match from {
            IpAddr::V4(from) => {
                (*header).cmsg_level = libc::IPPROTO_IP;
                (*header).cmsg_type = libc::IP_PKTINFO;
                let mut info: libc::in_pktinfo = zeroed();
                info.ipi_spec_dst.s_addr = u32::from(from).to_be();
                libc::CMSG_DATA(header)
                    .cast::<libc::in_pktinfo>()
                    .write_unaligned(info);
            }
            IpAddr::V6(from) => {
                (*header).cmsg_level = libc::IPPROTO_IPV6;
                (*header).cmsg_type = libc::IPV6_PKTINFO;
                let mut info: libc::in6_pktinfo = zeroed();
                info.ipi6_addr.s6_addr = from.octets();
                libc::CMSG_DATA(header)
                    .cast::<libc::in6_pktinfo>()
                    .write_unaligned(info);
            }
        }
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: every pointer in `message` is to a value that outlives the call, with its true length.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) };
    if sent < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// One entry of a datagram socket's error queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueuedError {
    /// Where the failed datagram was going.
    pub destination: SocketAddr,
    /// The errno.
    pub errno: i32,
    /// The type and code, if an ICMP or ICMPv6 message (by the family of `destination`) caused it.
    pub icmp: Option<(u8, u8)>,
    /// For "fragmentation needed": the MTU.
    pub info: u32,
    /// Bytes of the failed datagram that came with it.
    pub payload: usize,
}

/// Takes one entry off the error queue, with as much of the failed datagram as came back and fits; `None` = empty.
pub fn next_error(socket: BorrowedFd<'_>, payload: &mut [u8]) -> Option<QueuedError> {
    // `sockaddr_in6` has room for both families and is aligned for both.
    let mut address = MaybeUninit::<libc::sockaddr_in6>::zeroed();
    let mut control = [0_u64; 32];
    // SAFETY: `msghdr` is plain data for which all zeroes is valid.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_name = address.as_mut_ptr().cast();
    message.msg_namelen = libc::socklen_t::try_from(size_of::<libc::sockaddr_in6>()).unwrap_or(28);
    let mut part = libc::iovec {
        iov_base: payload.as_mut_ptr().cast(),
        iov_len: payload.len(),
    };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: every pointer in `message` is to a local or to `payload`, which outlive the call, with its true length.
    let received = unsafe {
        libc::recvmsg(
            socket.as_raw_fd(),
            &raw mut message,
            libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT,
        )
    };
    // Negative: nothing there.
    let received = usize::try_from(received).ok()?;
    // SAFETY: zeroed at first and maybe filled by the kernel: initialised either way.
    let address = unsafe { address.assume_init() };
    let destination = if c_int::from(address.sin6_family) == libc::AF_INET6 {
        let ip = Ipv6Addr::from(address.sin6_addr.s6_addr);
        SocketAddr::from((ip, u16::from_be(address.sin6_port)))
    } else {
        // SAFETY: the kernel wrote a `sockaddr_in` (or nothing, and zeroes are valid) into the larger structure,
        // whose alignment is no less.
        let address = unsafe { (&raw const address).cast::<libc::sockaddr_in>().read() };
        let ip = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
        SocketAddr::from((ip, u16::from_be(address.sin_port)))
    };
    // SAFETY: `message` describes the control buffer that the kernel just filled.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while let Some(present) = NonNull::new(header) {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR only give headers that lie inside the buffer, aligned by `[u64]`.
        let entry = unsafe { present.as_ref() };
        let room = size_of::<libc::sock_extended_err>() + size_of::<libc::cmsghdr>();
        let kind = (entry.cmsg_level, entry.cmsg_type);
        if (kind == (libc::IPPROTO_IP, libc::IP_RECVERR)
            || kind == (libc::IPPROTO_IPV6, libc::IPV6_RECVERR))
            && entry.cmsg_len >= room
        {
            // SAFETY: the entry says that it holds a `sock_extended_err`, and its length was checked.
            let error = unsafe {
                libc::CMSG_DATA(header)
                    .cast::<libc::sock_extended_err>()
                    .read_unaligned()
            };
            let from_network =
                [libc::SO_EE_ORIGIN_ICMP, libc::SO_EE_ORIGIN_ICMP6].contains(&error.ee_origin);
            let icmp = from_network.then_some((error.ee_type, error.ee_code));
            return Some(QueuedError {
                destination,
                errno: i32::try_from(error.ee_errno).unwrap_or(0),
                icmp,
                info: error.ee_info,
                payload: received,
            });
        }
        // SAFETY: as for CMSG_FIRSTHDR.
        header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
    }
    Some(QueuedError {
        destination,
        errno: 0,
        icmp: None,
        info: 0,
        payload: received,
    })
}

/// Sends datagrams of `size` bytes each (the last may be shorter), given as one run of slices, by one call
/// (UDP_SEGMENT, udp(7)). Not every device can: the caller must be ready to send them one by one.
pub fn send_segments(
    socket: BorrowedFd<'_>,
    parts: &[IoSlice<'_>],
    size: u16,
    to: SocketAddr,
) -> io::Result<()> {
    const CONTROL: usize = 32;
    // SAFETY: `sockaddr_in` and `sockaddr_in6` are plain data for which all zeroes is valid.
    let (mut v4, mut v6): (libc::sockaddr_in, libc::sockaddr_in6) = unsafe { zeroed() };
    let (name, name_length): (*mut libc::c_void, usize) = match to {
        SocketAddr::V4(to) => {
            v4.sin_family = libc::sa_family_t::try_from(libc::AF_INET).unwrap_or_default();
            v4.sin_port = to.port().to_be();
            v4.sin_addr.s_addr = u32::from(*to.ip()).to_be();
            ((&raw mut v4).cast(), size_of_val(&v4))
        }
        SocketAddr::V6(to) => {
            v6.sin6_family = libc::sa_family_t::try_from(libc::AF_INET6).unwrap_or_default();
            v6.sin6_port = to.port().to_be();
            v6.sin6_addr.s6_addr = to.ip().octets();
            v6.sin6_scope_id = to.scope_id();
            ((&raw mut v6).cast(), size_of_val(&v6))
        }
    };
    let mut control = [0_u64; CONTROL / 8];
    // SAFETY: `msghdr` is plain data for which all zeroes is valid.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_name = name;
    message.msg_namelen = libc::socklen_t::try_from(name_length).unwrap_or_default();
    // The kernel only reads through this pointer; `IoSlice` has the layout of `iovec`.
    message.msg_iov = parts.as_ptr().cast::<libc::iovec>().cast_mut();
    message.msg_iovlen = parts.len();
    message.msg_control = control.as_mut_ptr().cast();
    // SAFETY: CMSG_SPACE and CMSG_LEN are arithmetic on their argument.
    let (space, length) = unsafe { (libc::CMSG_SPACE(2), libc::CMSG_LEN(2)) };
    message.msg_controllen = space as usize;
    // SAFETY: `message` describes `control`, which is long enough for one header and two bytes (32 >= CMSG_SPACE(2))
    // and aligned by `[u64]`.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_UDP;
        (*header).cmsg_type = libc::UDP_SEGMENT;
        (*header).cmsg_len = length as usize;
        libc::CMSG_DATA(header).cast::<u16>().write_unaligned(size);
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: every pointer in `message` is to a value that outlives the call, with its true length.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) };
    if sent < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Anonymous zeroed pages, given back to the kernel when dropped (an allocator would keep them).
#[derive(Debug)]
pub struct Pages {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the pages are owned by this value alone; nothing in them is tied to a thread.
unsafe impl Send for Pages {}

impl Pages {
    /// `length` bytes.
    pub fn new(length: usize) -> io::Result<Self> {
        // SAFETY: a fresh private anonymous mapping aliases nothing.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                length,
                rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE,
                rustix::mm::MapFlags::PRIVATE,
            )?
        };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, length })
    }
}

impl Deref for Pages {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping is `length` readable, initialised (zeroed) bytes and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` is the only way to the pages.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping that `new` made; no slice of it outlives `self`. It cannot fail for
        // a mapping that exists, and there is nothing to do if it did.
        unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.length) }.ok();
    }
}

/// Registers a descriptor with tokio's reactor, which must be running.
///
/// # Errors
/// When epoll does not take it (a regular file, or no memory).
pub fn watched(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the `AsyncFd` owns the descriptor, and nobody can replace or close what is inside an
    // `OwnedFd` while it lives. There is no safe way to register a descriptor that is no socket of tokio's.
    unsafe { Ok(AsyncFd::register(descriptor)?) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_zeroed_and_writable() {
        let mut pages = Pages::new(1 << 16).unwrap();
        assert!(pages.iter().all(|byte| *byte == 0));
        pages[65_535] = 7;
        assert_eq!(pages[65_535], 7);
    }

    #[test]
    fn one_call_sends_many_datagrams() {
        for loopback in ["127.0.0.1:0", "[::1]:0"] {
            let receiver = std::net::UdpSocket::bind(loopback).unwrap();
            let sender = std::net::UdpSocket::bind(loopback).unwrap();
            let parts = [IoSlice::new(b"onetwo"), IoSlice::new(b"thr")];
            let to = receiver.local_addr().unwrap();
            send_segments(sender.as_fd(), &parts, 3, to).unwrap();
            let mut buffer = [0; 16];
            for expected in [b"one", b"two", b"thr"] {
                let count = receiver.recv(&mut buffer).unwrap();
                assert_eq!(&buffer[..count], expected);
            }
        }
    }

    #[test]
    fn an_answer_leaves_from_the_address_that_was_asked() {
        for (any, asked) in [("0.0.0.0:0", "127.0.0.2"), ("[::]:0", "::1")] {
            let server = std::net::UdpSocket::bind(any).unwrap();
            receive_destination(&server, any.starts_with('[')).unwrap();
            let asked: IpAddr = asked.parse().unwrap();
            let client = std::net::UdpSocket::bind((asked, 0)).unwrap();
            let at = SocketAddr::new(asked, server.local_addr().unwrap().port());
            client.send_to(b"question", at).unwrap();
            let mut buffer = [0; 32];
            let (count, from, to) = receive_from(server.as_fd(), &mut buffer).unwrap();
            assert_eq!((&buffer[..count], to), (&b"question"[..], Some(asked)));
            assert_eq!(from, client.local_addr().unwrap());
            send_from(server.as_fd(), b"answer", asked, from).unwrap();
            assert_eq!(client.recv_from(&mut buffer).unwrap(), (6, at));
        }
    }

    #[test]
    fn a_refused_datagram_is_read_from_the_error_queue() {
        for (any, loopback, icmp) in [
            ("0.0.0.0:0", "127.0.0.1:0", (3, 3)),
            ("[::]:0", "[::1]:0", (1, 4)),
        ] {
            let closed = std::net::UdpSocket::bind(loopback).unwrap();
            let destination = closed.local_addr().unwrap();
            drop(closed);
            let socket = std::net::UdpSocket::bind(any).unwrap();
            receive_errors(socket.as_fd(), destination.is_ipv6()).unwrap();
            let mut payload = [0; 4];
            assert_eq!(next_error(socket.as_fd(), &mut payload), None);
            socket.send_to(b"xyz", destination).unwrap();
            let error = next_error(socket.as_fd(), &mut payload).unwrap();
            assert_eq!(payload[..error.payload], *b"xyz");
            assert_eq!(error.destination, destination);
            assert_eq!((error.errno, error.icmp), (libc::ECONNREFUSED, Some(icmp)));
        }
    }
}
