//! How links come about and come back, and what hostile ones do: nothing.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketType,
};
use serde_json::Value;

use crate::daemon::{Netd, wait_for};
use crate::fake_guest::FakeGuest;
use crate::guests::DEV;

const CONFIG: &str = r#"
[network.vmnet8]
type = "nat"
subnet = "10.77.2.0/24"
dns = ["127.0.0.1:9"]

[guest.dev]
mac = "52:54:00:00:00:01"
"#;

/// A VMM that listens, as QEMU does with `server=on`: an old socket file is replaced.
fn listen(path: &Path) -> UnixListener {
    std::fs::remove_file(path).ok();
    let listener = UnixListener::bind(path).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o777)).unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

fn accept(listener: &UnixListener) -> FakeGuest {
    let stream = wait_for("netd to dial", || listener.accept().ok()).0;
    FakeGuest::new(stream, DEV)
}

#[test]
fn vmm_is_dialled_whoever_comes_first_or_comes_again() {
    let mut netd = Netd::start(CONFIG);
    let dev = control::names::GuestName::parse("dev").unwrap();
    let path = netd.paths().guest_net_socket(&dev);
    // netd was first.
    let listener = listen(&path);
    let address = accept(&listener).obtain_address();
    drop(listener);
    // A VMM that died leaves its socket file; the next one replaces it.
    let listener = listen(&path);
    let mut guest = accept(&listener);
    assert_eq!(guest.obtain_address(), address);
    // netd dies and comes again: the running VMM is dialled.
    netd.kill();
    wait_for("the link to end", || (!guest.is_plugged()).then_some(()));
    netd.launch();
    let mut guest = accept(&listener);
    assert_eq!(guest.obtain_address(), address);
    // Unplugged by hand: the VMM that listens is dialled again.
    netd.delete::<Value>("/v1/guests/dev/link", &Value::Null)
        .unwrap();
    wait_for("the link to end", || (!guest.is_plugged()).then_some(()));
    assert_eq!(accept(&listener).obtain_address(), address);
    netd.assert_well();
}

#[test]
fn tcp_listener_takes_vmms() {
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let netd = Netd::start(&CONFIG.replace("dns =", &format!("listen = \"{free}\"\ndns =")));
    let stream = std::net::TcpStream::connect(free).unwrap();
    // The fake guest wants a unix stream; a descriptor is a descriptor.
    let stream = UnixStream::from(OwnedFd::from(stream));
    let mut guest = FakeGuest::new(stream, [2, 0, 0, 0, 0, 5]);
    guest.obtain_address();
    netd.assert_well();
}

#[test]
fn garbage_on_a_link_ends_that_link_only() {
    let netd = Netd::start(CONFIG);
    let dev = control::names::GuestName::parse("dev").unwrap();
    let path = netd.paths().guest_link_socket(&dev);
    let mut good = FakeGuest::new(UnixStream::connect(&path).unwrap(), DEV);
    good.obtain_address();
    for noise in [
        vec![0xff; 4096],
        vec![0; 64],
        (0..=255).cycle().take(70_000).collect::<Vec<u8>>(),
    ] {
        let mut bad = FakeGuest::new(UnixStream::connect(&path).unwrap(), [2, 0, 0, 0, 0, 9]);
        bad.send_raw(&noise);
        bad.poll();
    }
    // Frames of good length with nonsense in them.
    let mut odd = FakeGuest::new(UnixStream::connect(&path).unwrap(), [2, 0, 0, 0, 0, 8]);
    for length in [1_u32, 13, 14, 15, 34, 60, 1500] {
        let mut frame = length.to_be_bytes().to_vec();
        frame.extend((0..length).map(|number| number.to_le_bytes()[0].wrapping_mul(31)));
        odd.send_raw(&frame);
    }
    odd.poll();
    assert!(good.is_plugged());
    let mut again = FakeGuest::new(UnixStream::connect(&path).unwrap(), DEV);
    again.obtain_address();
    netd.assert_well();
}

/// One handover and its answer.
fn hand_over(path: &Path, message: &[u8], descriptors: &[&dyn AsFd]) -> Value {
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    rustix::net::connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    let borrowed: Vec<_> = descriptors
        .iter()
        .map(|descriptor| descriptor.as_fd())
        .collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() {
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&borrowed)));
    }
    rustix::net::sendmsg(
        &socket,
        &[IoSlice::new(message)],
        &mut ancillary,
        SendFlags::empty(),
    )
    .unwrap();
    let mut bytes = vec![0; 65_536];
    let mut none = RecvAncillaryBuffer::default();
    let received = rustix::net::recvmsg(
        &socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut none,
        RecvFlags::empty(),
    );
    serde_json::from_slice(&bytes[..received.unwrap().bytes]).unwrap()
}

#[test]
fn descriptor_is_handed_over_and_hostile_messages_are_answered() {
    let netd = Netd::start(CONFIG);
    let path = netd.paths().link_socket();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let good = br#"{"guest":"dev","kind":"stream","vnet_header":false}"#;
    let answer = hand_over(&path, good, &[&theirs]);
    assert_eq!(answer["ok"]["network"], "vmnet8", "{answer}");
    assert_eq!(answer["ok"]["mac"], "52:54:00:00:00:01");
    assert_eq!(answer["ok"]["prefix"], 24);
    drop(theirs);
    let mut guest = FakeGuest::new(ours, DEV);
    let address = guest.obtain_address();
    assert_eq!(answer["ok"]["address"], address.to_string());
    netd.delete::<Value>("/v1/guests/dev/link", &Value::Null)
        .unwrap();
    wait_for("the link to end", || (!guest.is_plugged()).then_some(()));

    let file = std::fs::File::open("/proc/self/status").unwrap();
    let (pair, _other) = UnixStream::pair().unwrap();
    let tap = br#"{"guest":"dev","kind":"tap","vnet_header":true}"#;
    for (message, descriptors, kind) in [
        (good.as_slice(), vec![], "invalid"),
        (good, vec![&pair as &dyn AsFd, &pair], "invalid"),
        (good, vec![&file as &dyn AsFd], "invalid"),
        (tap, vec![&file as &dyn AsFd], "invalid"),
        (tap, vec![&pair as &dyn AsFd], "invalid"),
        (
            br#"{"guest":"dev","kind":"stream","vnet_header":true}"#,
            vec![&pair as &dyn AsFd],
            "unsupported",
        ),
        (
            br#"{"guest":"nobody","kind":"stream","vnet_header":false}"#,
            vec![&pair as &dyn AsFd],
            "not-found",
        ),
        (
            br#"{"guest":"../x","kind":"stream","vnet_header":false}"#,
            vec![&pair as &dyn AsFd],
            "invalid",
        ),
        (b"\xff\xfe\0", vec![&pair as &dyn AsFd], "invalid"),
        (&[b' '; 9_000], vec![&pair as &dyn AsFd], "invalid"),
    ] {
        let answer = hand_over(&path, message, &descriptors);
        let text = String::from_utf8_lossy(&message[..message.len().min(60)]);
        assert_eq!(answer["error"]["kind"], kind, "{text}: {answer}");
    }
    netd.assert_well();
}
