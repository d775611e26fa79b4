//! What monitors other than QEMU want on their command lines, from their documentation; none of them was run with it.
//! cloud-hypervisor: docs/vhost-user-net-testing.md, docs/fs.md. crosvm: book, "Vhost-user devices" and "Fs".
//! vfkit: doc/usage.md. krunkit: docs/usage.md.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use super::{Vmm, Wiring};

/// Two rings, which is one pair of queues.
const QUEUES: u32 = 2;

/// Words to add to a line, and what to know about them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Added {
    pub words: Vec<OsString>,
    pub notes: Vec<String>,
}

/// What to add for a monitor that is not QEMU.
pub(crate) fn parts(vmm: Vmm, wiring: &Wiring, memory: Option<u64>) -> Added {
    match vmm {
        // QEMU's line is read and completed, see `qemu`.
        Vmm::Qemu | Vmm::Libvirt => Added {
            words: Vec::new(),
            notes: Vec::new(),
        },
        Vmm::CloudHypervisor => cloud_hypervisor(wiring, memory),
        Vmm::Crosvm => crosvm(wiring),
        Vmm::Vfkit => {
            let socket = [
                "virtio-net,unixSocketPath=".as_ref(),
                wiring.dgram_socket.as_os_str(),
            ];
            mac_device(&socket, wiring, "")
        }
        Vmm::Krunkit => {
            let socket = [
                "virtio-net,type=unixgram,path=".as_ref(),
                wiring.dgram_socket.as_os_str(),
            ];
            // Frames come without a virtio-net header, so with no work left on them.
            mac_device(&socket, wiring, ",offloading=off,vfkitMagic=off")
        }
    }
}

fn cloud_hypervisor(wiring: &Wiring, memory: Option<u64>) -> Added {
    let mut words: Vec<OsString> = Vec::new();
    if let Some(bytes) = memory {
        words.extend(["--memory".into(), format!("size={bytes},shared=on").into()]);
    }
    words.push("--net".into());
    let mtu = wiring
        .host_mtu
        .map_or_else(String::new, |mtu| format!(",mtu={mtu}"));
    words.push(joined(&[
        "vhost_user=true,vhost_mode=client,socket=".as_ref(),
        wiring.vhost_socket.as_os_str(),
        format!(",mac={},num_queues={QUEUES}{mtu}", wiring.mac).as_ref(),
    ]));
    if !wiring.shares.is_empty() {
        // One option for all: it may not be repeated.
        words.push("--fs".into());
    }
    for share in &wiring.shares {
        words.push(joined(&[
            format!("tag={},socket=", share.tag).as_ref(),
            share.socket.as_os_str(),
            ",num_queues=1,queue_size=1024".as_ref(),
        ]));
    }
    let shared = "the VM's memory must be shared: --memory size=…,shared=on; say --memory SIZE to have it printed";
    Added {
        words,
        notes: memory
            .is_none()
            .then(|| shared.to_owned())
            .into_iter()
            .collect(),
    }
}

fn crosvm(wiring: &Wiring) -> Added {
    let device = |kind: &str, socket: &Path| {
        let socket = socket.as_os_str();
        [
            "--vhost-user".into(),
            joined(&[kind.as_ref(), ",socket=".as_ref(), socket]),
        ]
    };
    let mut words = device("net", &wiring.vhost_socket).to_vec();
    let mut notes = Vec::new();
    for share in &wiring.shares {
        words.extend([
            "--vhost-user-fs".into(),
            joined(&[
                share.socket.as_os_str(),
                format!(",tag={}", share.tag).as_ref(),
            ]),
        ]);
    }
    if !wiring.shares.is_empty() {
        notes.push("--vhost-user-fs is for crosvm builds that take a tag there; newer ones ask the device, which sharefs does not answer".to_owned());
    }
    Added { words, notes }
}

fn mac_device(socket: &[&OsStr], wiring: &Wiring, more: &str) -> Added {
    let mut pieces = socket.to_vec();
    let tail = format!(",mac={}{more}", wiring.mac);
    pieces.push(tail.as_ref());
    let mut notes = Vec::new();
    if !wiring.shares.is_empty() {
        notes.push(
            "this monitor has no vhost-user devices: it serves folders itself (--device virtio-fs,sharedDir=…,mountTag=…), not by sharefs"
                .to_owned(),
        );
    }
    Added {
        words: vec!["--device".into(), joined(&pieces)],
        notes,
    }
}

fn joined(pieces: &[&OsStr]) -> OsString {
    pieces.iter().copied().collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use control::config::LinkChoice;
    use expect_test::{Expect, expect};

    use super::*;
    use crate::vmm::{Nic, Reconnect, ShareSocket};

    fn check(vmm: Vmm, tags: &[&str], memory: Option<u64>, expected: Expect) {
        let wiring = Wiring {
            mac: "52:54:00:12:34:56".parse().unwrap(),
            nic: Nic::VirtioNetPci,
            link: LinkChoice::Auto,
            net_socket: "/r/net.sock".into(),
            vhost_socket: "/r/vhost.sock".into(),
            dgram_socket: "/r/dgram.sock".into(),
            dgram_peer: "/r/dgram-vm.sock".into(),
            reconnect: Reconnect::default(),
            host_mtu: Some(1500),
            shares: tags
                .iter()
                .map(|tag| ShareSocket {
                    tag: (*tag).to_owned(),
                    socket: PathBuf::from(format!("/r/fs-{tag}.sock")),
                })
                .collect(),
        };
        let added = parts(vmm, &wiring, memory);
        let words: Vec<_> = added
            .words
            .iter()
            .map(|word| word.to_str().unwrap())
            .collect();
        let notes = added.notes.iter().map(|note| format!("note: {note}\n"));
        let text = format!("{}\n{}", words.join(" "), notes.collect::<String>());
        expected.assert_eq(&text);
    }

    #[test]
    fn cloud_hypervisor_gets_shared_memory_one_card_and_all_shares_in_one_option() {
        check(
            Vmm::CloudHypervisor,
            &["d", "src"],
            Some(1 << 30),
            expect![[r#"
                --memory size=1073741824,shared=on --net vhost_user=true,vhost_mode=client,socket=/r/vhost.sock,mac=52:54:00:12:34:56,num_queues=2,mtu=1500 --fs tag=d,socket=/r/fs-d.sock,num_queues=1,queue_size=1024 tag=src,socket=/r/fs-src.sock,num_queues=1,queue_size=1024
            "#]],
        );
        check(
            Vmm::CloudHypervisor,
            &[],
            None,
            expect![[r#"
                --net vhost_user=true,vhost_mode=client,socket=/r/vhost.sock,mac=52:54:00:12:34:56,num_queues=2,mtu=1500
                note: the VM's memory must be shared: --memory size=…,shared=on; say --memory SIZE to have it printed
            "#]],
        );
    }

    #[test]
    fn crosvm_gets_a_vhost_user_card() {
        check(
            Vmm::Crosvm,
            &["d"],
            None,
            expect![[r#"
                --vhost-user net,socket=/r/vhost.sock --vhost-user-fs /r/fs-d.sock,tag=d
                note: --vhost-user-fs is for crosvm builds that take a tag there; newer ones ask the device, which sharefs does not answer
            "#]],
        );
    }

    #[test]
    fn vfkit_and_krunkit_get_datagrams() {
        check(
            Vmm::Vfkit,
            &["d"],
            None,
            expect![[r#"
                --device virtio-net,unixSocketPath=/r/dgram.sock,mac=52:54:00:12:34:56
                note: this monitor has no vhost-user devices: it serves folders itself (--device virtio-fs,sharedDir=…,mountTag=…), not by sharefs
            "#]],
        );
        check(
            Vmm::Krunkit,
            &[],
            None,
            expect![[r#"
                --device virtio-net,type=unixgram,path=/r/dgram.sock,mac=52:54:00:12:34:56,offloading=off,vfkitMagic=off
            "#]],
        );
    }
}
