//! The two ends of the line against each other, and against ends that do not keep to it.

use std::os::fd::OwnedFd;
use std::sync::mpsc;

use rustix::net::{SendFlags, sendmsg};

use super::*;

fn line() -> (OwnedFd, OwnedFd) {
    rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap()
}

/// The daemon's end, with a helper that is played by the test.
fn mounter(socket: OwnedFd, patience: Duration) -> Mounter {
    Mounter {
        line: Mutex::new(Line {
            socket: Ok(socket),
            child: None,
            asked: 0,
            late: Vec::new(),
            patience,
        }),
    }
}

fn wish(folders: Vec<PathBuf>) -> MountAsk {
    MountAsk {
        source: "d".to_owned(),
        again: "sharectl share mount d".to_owned(),
        path: "/mnt/d".into(),
        users: MountUsers::Own,
        read_only: false,
        judge: Judge::Kernel,
        folders,
    }
}

fn answer(socket: &OwnedFd, number: u64, body: Answer, with_device: bool) {
    let message = serde_json::to_vec(&Numbered { number, body }).unwrap();
    let device = std::fs::File::open("/dev/null").unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = rustix::net::SendAncillaryBuffer::new(&mut space);
    let descriptors = [device.as_fd()];
    if with_device {
        beside.push(rustix::net::SendAncillaryMessage::ScmRights(&descriptors));
    }
    let parts = [io::IoSlice::new(&message)];
    sendmsg(socket, &parts, &mut beside, SendFlags::empty()).unwrap();
}

fn asked(socket: &OwnedFd) -> Numbered<Ask> {
    let (message, _) = receive(socket, None).unwrap().unwrap();
    serde_json::from_slice(&message).unwrap()
}

#[test]
fn a_mount_that_is_answered_too_late_is_taken_back_before_anything_else() {
    let (ours, theirs) = line();
    let mounter = mounter(ours, Duration::from_millis(50));
    let refusal = mounter.mount(wish(Vec::new())).unwrap_err();
    assert!(refusal.message.contains("does not serve"), "{refusal}");
    // It mounted after all, when nobody waited any more.
    let first = asked(&theirs);
    let place = Place {
        path: "/mnt/d".into(),
        device: 77,
    };
    answer(&theirs, first.number, Answer::Mounted(place), true);

    let (say, hear) = mpsc::sync_channel(8);
    let helper = std::thread::spawn(move || {
        for _ in 0..2 {
            let Numbered { number, body } = asked(&theirs);
            let reply = match &body {
                Ask::Mount(_) => Answer::Mounted(Place {
                    path: "/mnt/d".into(),
                    device: 78,
                }),
                Ask::Clean { .. } | Ask::Unmount { .. } => Answer::Done,
            };
            let has_device = matches!(body, Ask::Mount(_));
            say.send(body).unwrap();
            answer(&theirs, number, reply, has_device);
        }
    });
    mounter.line.lock().unwrap().patience = Duration::from_secs(20);
    let (place, _device) = mounter.mount(wish(Vec::new())).unwrap();
    assert_eq!(place.device, 78);
    let taken_back = hear.recv().unwrap();
    assert!(
        matches!(&taken_back, Ask::Unmount { device: 77, path } if path == std::path::Path::new("/mnt/d")),
        "{taken_back:?}"
    );
    assert!(matches!(hear.recv().unwrap(), Ask::Mount(_)));
    helper.join().unwrap();
}

#[test]
fn what_the_helper_cannot_read_is_answered_and_not_its_end() {
    let (ours, theirs) = line();
    let helper = std::thread::spawn(move || helper::serve_all(theirs));
    let refused = |message: &[u8]| {
        rustix::net::send(&ours, message, SendFlags::NOSIGNAL).unwrap();
        let (answer, _) = receive(&ours, Duration::from_secs(20)).unwrap().unwrap();
        let answer: Numbered<Answer> = serde_json::from_slice(&answer).unwrap();
        let Answer::Refused(refusal) = answer.body else {
            panic!("{answer:?}");
        };
        (answer.number, refusal.message)
    };
    let (number, said) = refused(br#"{"number":5,"body":{"Fly":{}}}"#);
    assert!(
        number == 5 && said.contains("unknown variant `Fly`"),
        "{said}"
    );
    let (number, _) = refused(b"not json");
    assert_eq!(number, u64::MAX, "whoever waits");
    let (number, said) = refused(&vec![b' '; LONGEST + 1]);
    assert!(number == u64::MAX && said.contains("too long"), "{said}");
    // It is there still, for the daemon's own end too.
    let mounter = mounter(ours, Duration::from_secs(20));
    let refusal = mounter.mount(wish(vec!["/".into()])).map(drop).unwrap_err();
    assert!(
        refusal.message.contains("is in the shared folder /"),
        "{refusal}"
    );
    let many = (0..20_000).map(|number| PathBuf::from(format!("/shared/{number}")));
    let refusal = mounter.mount(wish(many.collect())).map(drop).unwrap_err();
    assert!(refusal.message.contains("more than 131072"), "{refusal}");
    let place = Place {
        path: "/nowhere".into(),
        device: 1,
    };
    mounter.unmount(&place).unwrap();
    drop(mounter);
    helper.join().unwrap().unwrap();
}
