//! Packet sockets (packet(7)): the options that rustix does not know, and many frames by one call.

use std::ffi::{c_int, c_void};
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd};

use control::mac::MacAddress;

/// Frames taken by one call.
pub const BATCH: usize = 16;

/// linux/if_packet.h; not in libc.
const PACKET_IGNORE_OUTGOING: c_int = 23;
/// Classic BPF (linux/filter.h): the kernel's own fields lie from here on.
const SKF_AD_OFF: u32 = 0xffff_f000;
const SKF_AD_PKTTYPE: u32 = 4;

/// A frame that was received into its slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrived {
    /// Bytes in the slot, header included.
    pub length: usize,
    /// Longer than the slot; the rest is lost.
    pub cut: bool,
    /// The VLAN tag that the kernel took out of the frame: protocol and control information.
    pub vlan: Option<(u16, u16)>,
}

/// What a membership asks of the interface (packet(7), PACKET_ADD_MEMBERSHIP).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    /// Frames to this address too.
    Unicast(MacAddress),
    /// Every group's frames.
    AllGroups,
    /// Every frame.
    Everything,
}

fn checked(result: c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn set<T>(socket: BorrowedFd<'_>, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0);
    let value: *const T = value;
    // SAFETY: `value` is a reference to `length` bytes that the kernel only reads during the call; every T
    // used in this file is the plain type that the option takes.
    checked(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.cast::<c_void>(),
            length,
        )
    })
}

/// Header with checksum and segmentation in front of each frame, VLAN tags told, nothing of what the host
/// sends itself, and of what it receives only what is not for the host alone: with that, traffic of the host
/// does not wake us.
pub fn prepare(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: c_int = 1;
    set(socket, libc::SOL_PACKET, libc::PACKET_VNET_HDR, &on)?;
    set(socket, libc::SOL_PACKET, libc::PACKET_AUXDATA, &on)?;
    // Since Linux 4.20; the filter says the same a little later in the kernel.
    set(socket, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &on).ok();
    let step = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter {
        code: u16::try_from(code).unwrap_or(0),
        jt,
        jf,
        k,
    };
    let (host, outgoing) = (
        u32::from(libc::PACKET_HOST),
        u32::from(libc::PACKET_OUTGOING),
    );
    let equals = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let mut program = [
        step(
            libc::BPF_LD | libc::BPF_B | libc::BPF_ABS,
            0,
            0,
            SKF_AD_OFF + SKF_AD_PKTTYPE,
        ),
        step(equals, 2, 0, host),
        step(equals, 1, 0, outgoing),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ];
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap_or(0),
        filter: program.as_mut_ptr(),
    };
    set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter)
}

/// Frames of every protocol, of this interface.
pub fn bind(socket: BorrowedFd<'_>, interface: u32) -> io::Result<()> {
    // SAFETY: `sockaddr_ll` is plain data for which all zeroes is valid.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::sa_family_t::try_from(libc::AF_PACKET).unwrap_or_default();
    address.sll_protocol = u16::try_from(libc::ETH_P_ALL).unwrap_or(3).to_be();
    address.sll_ifindex = c_int::try_from(interface).unwrap_or(0);
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or(0);
    // SAFETY: the address lives through the call and `length` is its true size.
    checked(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) })
}

/// Asks the interface for more frames; it ends with the socket.
pub fn join(socket: BorrowedFd<'_>, interface: u32, what: Membership) -> io::Result<()> {
    // SAFETY: `packet_mreq` is plain data for which all zeroes is valid.
    let mut request: libc::packet_mreq = unsafe { zeroed() };
    request.mr_ifindex = c_int::try_from(interface).unwrap_or(0);
    let kind = match what {
        Membership::Unicast(mac) => {
            request.mr_alen = 6;
            request.mr_address[..6].copy_from_slice(&mac.0);
            libc::PACKET_MR_UNICAST
        }
        Membership::AllGroups => libc::PACKET_MR_ALLMULTI,
        Membership::Everything => libc::PACKET_MR_PROMISC,
    };
    request.mr_type = u16::try_from(kind).unwrap_or(0);
    set(
        socket,
        libc::SOL_PACKET,
        libc::PACKET_ADD_MEMBERSHIP,
        &request,
    )
}

/// Receives up to [`BATCH`] frames, each into a slot of `slot` bytes of `buffer`; says how many.
pub fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    slot: usize,
    arrived: &mut [Arrived; BATCH],
) -> io::Result<usize> {
    /// CMSG_SPACE of a `tpacket_auxdata` is 40 bytes.
    const CONTROL: usize = 8;
    let mut controls = [[0_u64; CONTROL]; BATCH];
    // SAFETY: `iovec` and `mmsghdr` are plain data for which all zeroes is valid.
    let (mut vectors, mut messages): ([libc::iovec; BATCH], [libc::mmsghdr; BATCH]) =
        unsafe { (zeroed(), zeroed()) };
    let mut count = 0;
    let places = buffer.chunks_exact_mut(slot).zip(&mut controls);
    for ((place, control), (vector, message)) in places.zip(vectors.iter_mut().zip(&mut messages)) {
        vector.iov_base = place.as_mut_ptr().cast();
        vector.iov_len = place.len();
        message.msg_hdr.msg_iov = vector;
        message.msg_hdr.msg_iovlen = 1;
        message.msg_hdr.msg_control = control.as_mut_ptr().cast();
        message.msg_hdr.msg_controllen = size_of_val(control);
        count += 1;
    }
    // SAFETY: the first `count` messages point to vectors, slots and control buffers that outlive the call,
    // each with its true length; none overlaps another.
    let received = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            messages.as_mut_ptr(),
            count,
            libc::MSG_DONTWAIT,
            std::ptr::null_mut(),
        )
    };
    checked(received)?;
    let received = usize::try_from(received).unwrap_or(0);
    for (message, arrived) in messages.iter().zip(arrived.iter_mut()).take(received) {
        *arrived = Arrived {
            length: message.msg_len as usize,
            cut: message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
            vlan: vlan(&message.msg_hdr),
        };
    }
    Ok(received)
}

/// The tag in a message's PACKET_AUXDATA.
fn vlan(message: &libc::msghdr) -> Option<(u16, u16)> {
    let message: *const libc::msghdr = message;
    // SAFETY: the caller's message describes the control buffer that the kernel just filled.
    let header = unsafe { libc::CMSG_FIRSTHDR(message) };
    if header.is_null() {
        return None;
    }
    // SAFETY: CMSG_FIRSTHDR only gives a header that lies inside the buffer, which `[u64]` aligns.
    let entry = unsafe { &*header };
    let room = size_of::<libc::tpacket_auxdata>() + size_of::<libc::cmsghdr>();
    if entry.cmsg_level != libc::SOL_PACKET
        || entry.cmsg_type != libc::PACKET_AUXDATA
        || entry.cmsg_len < room
    {
        return None;
    }
    // SAFETY: the entry says that it holds a `tpacket_auxdata`, and its length was checked.
    let told = unsafe {
        libc::CMSG_DATA(header)
            .cast::<libc::tpacket_auxdata>()
            .read_unaligned()
    };
    if told.tp_status & libc::TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    let protocol = if told.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0 {
        told.tp_vlan_tpid
    } else {
        0x8100
    };
    Some((protocol, told.tp_vlan_tci))
}
