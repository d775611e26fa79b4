//! Lines as data: what was typed in, what is added out.

use std::path::PathBuf;

use expect_test::{Expect, expect};

use super::super::{Reconnect, ShareSocket};
use super::*;

fn wiring(shares: &[&str]) -> Wiring {
    Wiring {
        mac: "52:54:00:12:34:56".parse().unwrap(),
        nic: Nic::VirtioNetPci,
        link: LinkChoice::Auto,
        net_socket: "/run/s/guest/dev/net.sock".into(),
        vhost_socket: "/run/s/guest/dev/vhost.sock".into(),
        dgram_socket: "/run/s/guest/dev/dgram.sock".into(),
        dgram_peer: "/run/s/guest/dev/dgram-vm.sock".into(),
        reconnect: Reconnect::Seconds,
        host_mtu: None,
        shares: shares
            .iter()
            .map(|tag| ShareSocket {
                tag: (*tag).to_owned(),
                socket: PathBuf::from(format!("/run/s/guest/dev/fs-{tag}.sock")),
            })
            .collect(),
    }
}

fn words(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(OsString::from).collect()
}

fn added(line: &str, wiring: &Wiring) -> Result<String, LineError> {
    let words = words(line);
    let edited = edit(&words, wiring)?;
    assert_eq!(
        edited.line[..edited.own],
        words,
        "the user's own words stay as they are"
    );
    let mut text = String::new();
    for pair in edited.line[edited.own..].chunks(2) {
        let pair: Vec<_> = pair.iter().map(|word| word.to_str().unwrap()).collect();
        text.push_str(&pair.join(" "));
        text.push('\n');
    }
    // Of most lines here; it has a test of its own.
    for note in edited.notes.iter().filter(|note| *note != ONE_PROCESSOR) {
        text.push_str(&format!("note: {note}\n"));
    }
    Ok(text)
}

fn check(line: &str, wiring: &Wiring, expected: Expect) {
    expected.assert_eq(&added(line, wiring).unwrap());
}

#[test]
fn plain_line_gets_card_memory_and_shares() {
    let mut wiring = wiring(&["d", "src"]);
    wiring.host_mtu = Some(65520);
    check(
        "qemu-system-x86_64 -m 2G disk.qcow2",
        &wiring,
        expect![[r#"
            -netdev stream,id=sharectl-net,server=on,addr.type=unix,addr.path=/run/s/guest/dev/net.sock
            -device virtio-net-pci,netdev=sharectl-net,mac=52:54:00:12:34:56,host_mtu=65520
            -object memory-backend-memfd,id=sharectl-mem,share=on,size=2G
            -machine memory-backend=sharectl-mem
            -chardev socket,id=sharectl-fs-d,path=/run/s/guest/dev/fs-d.sock
            -device vhost-user-fs-pci,chardev=sharectl-fs-d,tag=d,queue-size=1024
            -chardev socket,id=sharectl-fs-src,path=/run/s/guest/dev/fs-src.sock
            -device vhost-user-fs-pci,chardev=sharectl-fs-src,tag=src,queue-size=1024
        "#]],
    );
}

#[test]
fn guest_without_shares_keeps_its_memory() {
    let mut wiring = wiring(&[]);
    wiring.nic = Nic::E1000;
    wiring.host_mtu = Some(65520);
    check(
        "qemu-system-x86_64 -mem-path /dev/hugepages",
        &wiring,
        expect![[r#"
            -netdev stream,id=sharectl-net,server=on,addr.type=unix,addr.path=/run/s/guest/dev/net.sock
            -device e1000,netdev=sharectl-net,mac=52:54:00:12:34:56
        "#]],
    );
}

#[test]
fn memory_is_sized_by_every_spelling_of_m() {
    for (line, size) in [
        ("qemu -m 2G", "2G"),
        ("qemu --m 2048", "2G"),
        ("qemu -m size=2G,slots=3,maxmem=8G", "2G"),
        ("qemu -m 1536,slots=2,maxmem=4G", "1536M"),
        ("qemu -m 1G -m 3G", "3G"),
        ("qemu -m 1G -m slots=2,maxmem=4G", "1G"),
        ("qemu disk.img", "128M"),
        ("qemu -append -m -m 512", "512M"),
    ] {
        let text = added(line, &wiring(&["d"])).unwrap();
        assert!(
            text.contains(&format!("share=on,size={size}\n")),
            "{line}: {text}"
        );
    }
    assert_eq!(
        added("qemu -m lots", &wiring(&["d"])),
        Err(LineError::MemorySize("lots".into()))
    );
}

#[test]
fn memory_that_can_be_shared_is_used_as_it_is() {
    for line in [
        "qemu -m 2G -object memory-backend-memfd,id=mem,size=2G -machine q35,memory-backend=mem",
        "qemu -m 2G -object memory-backend-file,id=mem,size=2G,mem-path=/dev/shm,share=on -numa node,memdev=mem",
        r#"qemu -m 2G -object {"qom-type":"memory-backend-memfd","id":"mem","size":1,"share":true} -M pc,memory-backend=mem"#,
    ] {
        let text = added(line, &wiring(&["d"])).unwrap();
        assert!(
            !text.contains("-object") && !text.contains("-machine"),
            "{text}"
        );
        assert!(text.contains("vhost-user-fs-pci"), "{text}");
    }
}

#[test]
fn memory_that_cannot_be_shared_is_refused_with_a_way_out() {
    let cases = [
        "qemu -object memory-backend-ram,id=mem,size=2G -machine memory-backend=mem",
        "qemu -object memory-backend-file,id=mem,size=2G,mem-path=/dev/shm -numa node,memdev=mem",
        "qemu -object memory-backend-memfd,id=mem,size=2G,share=off -machine memory-backend=mem",
        "qemu -machine memory-backend=nowhere",
        "qemu -m 2G -mem-path /dev/hugepages",
        "qemu -m 2G -numa node,mem=1G -numa node,mem=1G",
    ];
    let mut text = String::new();
    for line in cases {
        let error = added(line, &wiring(&["d"])).unwrap_err();
        text.push_str(&format!("{error}\n  hint: {}\n", error.hint()));
    }
    expect![[r#"
        vhost-user devices need memory that can be shared, but memory backend "mem" (memory-backend-ram) is private
          hint: make it -object memory-backend-memfd,id=mem,share=on,size=…
        vhost-user devices need memory that can be shared, but memory backend "mem" (memory-backend-file) is private
          hint: add share=on to the -object with id=mem
        vhost-user devices need memory that can be shared, but memory backend "mem" (memory-backend-memfd) is private
          hint: add share=on to the -object with id=mem
        memory backend "nowhere" is named on the line but not defined by any -object
          hint: add -object memory-backend-memfd,id=nowhere,share=on,size=…
        vhost-user devices need memory that can be shared, which -mem-path does not give
          hint: replace -mem-path FILE by -object memory-backend-file,id=mem,mem-path=FILE,share=on,size=… and -machine memory-backend=mem
        vhost-user devices need memory that can be shared, which -numa node,mem= does not give
          hint: give each -numa node a memdev= with share=on instead of mem=
    "#]]
    .assert_eq(&text);
}

#[test]
fn ids_that_are_taken_are_not_taken_again() {
    check(
        "qemu-system-x86_64 -netdev user,id=sharectl-net -device rtl8139,netdev=sharectl-net -chardev null,id=sharectl-fs-d -object rng-builtin,id=sharectl-mem -m 1G",
        &wiring(&["d"]),
        expect![[r#"
            -netdev stream,id=sharectl-net-2,server=on,addr.type=unix,addr.path=/run/s/guest/dev/net.sock
            -device virtio-net-pci,netdev=sharectl-net-2,mac=52:54:00:12:34:56
            -object memory-backend-memfd,id=sharectl-mem-2,share=on,size=1G
            -machine memory-backend=sharectl-mem-2
            -chardev socket,id=sharectl-fs-d-2,path=/run/s/guest/dev/fs-d.sock
            -device vhost-user-fs-pci,chardev=sharectl-fs-d-2,tag=d,queue-size=1024
            note: the line has a network card of its own; the guest gets ours besides
        "#]],
    );
}

#[test]
fn finished_line_stays_as_it_is() {
    for shares in [&[][..], &["d"], &["d", "src"]] {
        let wiring = wiring(shares);
        let once = edit(
            &words("qemu-system-x86_64 -m 2G -smp 2 -nodefaults disk.qcow2"),
            &wiring,
        )
        .unwrap();
        let twice = edit(&once.line, &wiring).unwrap();
        assert_eq!(twice.line, once.line);
        assert_eq!(twice.notes, Vec::<String>::new());
    }
}

#[test]
fn one_processor_without_kvm_is_told_of_its_barriers() {
    for (line, is_told) in [
        ("qemu -nodefaults", true),
        ("qemu -nodefaults -accel tcg -smp 1", true),
        ("qemu -nodefaults -accel kvm -accel tcg", true),
        ("qemu -nodefaults -accel kvm", false),
        ("qemu -nodefaults -smp 2", false),
        ("qemu -nodefaults -smp 1,maxcpus=2", false),
    ] {
        let notes = edit(&words(line), &wiring(&["d"])).unwrap().notes;
        let told = notes.iter().any(|note| note == ONE_PROCESSOR);
        assert_eq!(told, is_told, "{line}: {notes:?}");
    }
}

#[test]
fn line_without_default_cards_needs_no_note() {
    for line in ["qemu -nic none", "qemu -net none", "qemu -nodefaults"] {
        assert!(
            !added(line, &wiring(&[])).unwrap().contains("note"),
            "{line}"
        );
    }
    assert!(
        added("qemu -nic user", &wiring(&[]))
            .unwrap()
            .contains("besides")
    );
}

#[test]
fn machines_without_pci_get_devices_of_their_own_bus() {
    check(
        "qemu-system-x86_64 -M microvm -m 1G",
        &wiring(&["d"]),
        expect![[r#"
            -netdev stream,id=sharectl-net,server=on,addr.type=unix,addr.path=/run/s/guest/dev/net.sock
            -device virtio-net-device,netdev=sharectl-net,mac=52:54:00:12:34:56
            -object memory-backend-memfd,id=sharectl-mem,share=on,size=1G
            -machine memory-backend=sharectl-mem
            -chardev socket,id=sharectl-fs-d,path=/run/s/guest/dev/fs-d.sock
            -device vhost-user-fs-device,chardev=sharectl-fs-d,tag=d,queue-size=1024
        "#]],
    );
    let text = added("/usr/bin/qemu-system-s390x -m 1G", &wiring(&["d"])).unwrap();
    assert!(
        text.contains("virtio-net-ccw") && text.contains("vhost-user-fs-ccw"),
        "{text}"
    );
    let mut wiring = wiring(&[]);
    wiring.nic = Nic::E1000;
    let error = added(
        "qemu-system-x86_64 -machine type=microvm,x-option-roms=off",
        &wiring,
    )
    .unwrap_err();
    expect![[r#"machine "microvm" has no PCI bus for an e1000 card"#]]
        .assert_eq(&error.to_string());
}

#[test]
fn commas_in_paths_are_doubled() {
    let mut wiring = wiring(&[]);
    wiring.net_socket = "/run/a,b/net.sock".into();
    assert!(
        added("qemu", &wiring)
            .unwrap()
            .contains("addr.path=/run/a,,b/net.sock\n")
    );
    let once = edit(&words("qemu"), &wiring).unwrap();
    assert_eq!(edit(&once.line, &wiring).unwrap().line, once.line);
}

#[test]
fn parts_alone_are_those_of_a_line_of_that_size() {
    let parts = parts(&wiring(&["d"]), 3 << 29).unwrap();
    let text: Vec<_> = parts.iter().map(|word| word.to_str().unwrap()).collect();
    assert!(
        text.contains(&"memory-backend-memfd,id=sharectl-mem,share=on,size=1536M"),
        "{text:?}"
    );
    assert_eq!(text[0], "-netdev");
}

#[test]
fn monitors_we_do_not_know_are_refused_and_wrappers_named() {
    assert_eq!(
        added("/usr/bin/crosvm run", &wiring(&[])),
        Err(LineError::OtherMonitor("crosvm".into()))
    );
    assert_eq!(edit(&[], &wiring(&[])), Err(LineError::NoProgram));
    assert!(
        added("sudo qemu-system-x86_64", &wiring(&[]))
            .unwrap()
            .contains("note: sudo is taken for a wrapper")
    );
}

#[test]
fn share_of_a_guest_with_processors_has_as_many_queues_and_four_at_most() {
    let queues = |smp: &str| {
        let text = added(&format!("qemu-system-x86_64 {smp}"), &wiring(&["d"])).unwrap();
        let at = text.find("num-request-queues=");
        at.map(|at| text[at..].lines().next().unwrap().to_owned())
    };
    assert_eq!(queues("-smp 1"), None);
    assert_eq!(queues("-smp 2").unwrap(), "num-request-queues=2");
    assert_eq!(queues("-smp cores=16").unwrap(), "num-request-queues=4");
}

#[test]
fn newer_qemus_are_told_in_milliseconds_when_to_connect_again() {
    let mut wiring = wiring(&[]);
    wiring.link = LinkChoice::VhostUser;
    for (version, word) in [
        (
            "QEMU emulator version 7.2.22 (Debian 1:7.2)",
            "reconnect=1,",
        ),
        ("QEMU emulator version 9.1.0", "reconnect=1,"),
        ("QEMU emulator version 9.2.0", "reconnect-ms=1000,"),
        (
            "QEMU emulator version 10.0.2 (Debian)\nCopyright",
            "reconnect-ms=1000,",
        ),
        ("QEMU emulator version 11.1.50", "reconnect-ms=1000,"),
        ("somebody's wrapper", "reconnect=1,"),
        ("", "reconnect=1,"),
    ] {
        wiring.reconnect = Reconnect::of_version(version);
        let text = added("qemu-system-x86_64", &wiring).unwrap();
        assert!(text.contains(word), "{version}: {text}");
    }
}

#[test]
fn vhost_user_is_for_memory_that_is_shared_anyway_or_for_who_asks() {
    let mut wiring = wiring(&["d"]);
    check(
        "qemu-system-x86_64 -accel kvm -m 1G",
        &wiring,
        expect![[r#"
            -chardev socket,id=sharectl-link,reconnect=1,path=/run/s/guest/dev/vhost.sock
            -netdev vhost-user,id=sharectl-net,chardev=sharectl-link
            -device virtio-net-pci,netdev=sharectl-net,mac=52:54:00:12:34:56
            -object memory-backend-memfd,id=sharectl-mem,share=on,size=1G
            -machine memory-backend=sharectl-mem
            -chardev socket,id=sharectl-fs-d,path=/run/s/guest/dev/fs-d.sock
            -device vhost-user-fs-pci,chardev=sharectl-fs-d,tag=d,queue-size=1024
        "#]],
    );
    wiring.shares.clear();
    check(
        "qemu-system-x86_64 -enable-kvm -object memory-backend-memfd,id=m,size=1G -machine q35,memory-backend=m",
        &wiring,
        expect![[r#"
            -chardev socket,id=sharectl-link,reconnect=1,path=/run/s/guest/dev/vhost.sock
            -netdev vhost-user,id=sharectl-net,chardev=sharectl-link
            -device virtio-net-pci,netdev=sharectl-net,mac=52:54:00:12:34:56
        "#]],
    );
    for line in [
        "qemu-system-x86_64 -accel kvm",
        "qemu-system-x86_64 -accel kvm -accel tcg",
    ] {
        let text = added(line, &wiring).unwrap();
        assert!(text.starts_with("-netdev stream"), "{text}");
    }
    wiring.link = LinkChoice::VhostUser;
    check(
        "qemu-system-x86_64",
        &wiring,
        expect![[r#"
        -chardev socket,id=sharectl-link,reconnect=1,path=/run/s/guest/dev/vhost.sock
        -netdev vhost-user,id=sharectl-net,chardev=sharectl-link
        -device virtio-net-pci,netdev=sharectl-net,mac=52:54:00:12:34:56,vectors=0
        -object memory-backend-memfd,id=sharectl-mem,share=on,size=128M
        -machine memory-backend=sharectl-mem
    "#]],
    );
    wiring.nic = Nic::E1000;
    assert_eq!(
        added("qemu-system-x86_64", &wiring),
        Err(LineError::NotVirtio("e1000"))
    );
    wiring.link = LinkChoice::Dgram;
    check(
        "qemu-system-x86_64",
        &wiring,
        expect![[r#"
        -netdev dgram,id=sharectl-net,local.type=unix,local.path=/run/s/guest/dev/dgram-vm.sock,remote.type=unix,remote.path=/run/s/guest/dev/dgram.sock
        -device e1000,netdev=sharectl-net,mac=52:54:00:12:34:56
    "#]],
    );
}
