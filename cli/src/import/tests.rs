//! Files as VMware and Lima write them, and what is made of them.

use control::config::{Config, Surroundings};
use std::path::Path;

use super::*;

fn config(text: &str) -> Config {
    Config::parse(text, Path::new("c.toml"), &Surroundings::of_process()).unwrap()
}

/// The text that comes out, which is a good configuration, and what is left out.
fn applied(plan: Plan, before: &str) -> (String, Vec<String>) {
    let mut document: DocumentMut = before.parse().unwrap();
    let left = plan.apply(&mut document, &config(before)).unwrap();
    let text = document.to_string();
    config(&text);
    let left = left
        .iter()
        .map(|left| format!("{}: {}", left.line, left.what))
        .collect();
    (text, left)
}

/// Applying the same again changes nothing.
fn check(read: impl Fn() -> Plan, before: &str, after: &str, left_out: &[&str]) {
    let (text, left) = applied(read(), before);
    assert_eq!(text, after);
    assert_eq!(left, left_out);
    let (again, _) = applied(read(), &text);
    assert_eq!(again, text);
}

const VMX: &str = r#".encoding = "UTF-8"
# a comment
displayName = "Dev Box (2)"
ethernet0.present = "TRUE"
ethernet0.connectionType = "nat"
ethernet0.generatedAddress = "00:0c:29:08:6c:dd"
ethernet1.present = "TRUE"
sharedFolder0.present = "TRUE"
sharedFolder0.enabled = "TRUE"
sharedFolder0.readAccess = "TRUE"
sharedFolder0.writeAccess = "TRUE"
sharedFolder0.hostPath = "D:\My |22Proj|22"
sharedFolder0.guestName = "proj"
sharedFolder1.hostPath = "/home/ann/docs"
sharedFolder1.guestName = "docs"
sharedFolder2.enabled = "FALSE"
sharedFolder2.hostPath = "/home/ann/off"
"#;

#[test]
fn a_vmx_becomes_a_guest_with_its_folders() {
    let before = "# mine\n[guest.old] # stays\n\n[hosts]\nfiles = []\n";
    let after = r#"# mine
[guest.old] # stays

[guest.dev-box-2]
network = "vmnet8"
mac = "00:0c:29:08:6c:dd"

[hosts]
files = []

[share.proj]
path = 'D:\My "Proj"'
at = "/mnt/hgfs/proj"
guests = ["dev-box-2"]

[share.docs]
path = "/home/ann/docs"
at = "/mnt/hgfs/docs"
read-only = true
guests = ["dev-box-2"]
"#;
    check(
        || vmx::read(VMX, None).unwrap(),
        before,
        after,
        &[
            "7: the network card ethernet1",
            "17: the folder /home/ann/off",
        ],
    );
    // A guest that is there gets its MAC, and a share of that name that leads elsewhere stays.
    let before = "[guest.dev]\nmac = \"52:54:00:00:00:01\" # old\n\n[share.proj]\npath = \"/x\"\n";
    let (text, left) = applied(
        vmx::read(VMX, Some(GuestName::parse("dev").unwrap())).unwrap(),
        before,
    );
    assert!(
        text.starts_with(
            "[guest.dev]\nmac = \"00:0c:29:08:6c:dd\" # old\n\n[share.proj]\npath = \"/x\"\n"
        ),
        "{text}"
    );
    assert_eq!(left[1], "12: the folder D:\\My \"Proj\"");
}

#[test]
fn bad_vmx_files_name_the_line() {
    for (text, line, message) in [
        (
            "a = \"1\"\nnonsense\n",
            2,
            "\"nonsense\" is not key = \"value\"",
        ),
        ("displayName = \"x\n", 1, "has no quote at its end"),
        (
            "displayName = \"x\"\nethernet0.present = \"TRUE\"\nethernet0.connectionType = \"wifi\"\n",
            3,
            "is none of bridged",
        ),
        (
            "displayName = \"x\"\nethernet0.present = \"TRUE\"\nethernet0.address = \"00:zz\"\n",
            3,
            "00:zz",
        ),
        ("encryption.data = \"x\"\n", 1, "encrypted"),
        ("x = \"\"\ndisplayName = \"…\"\n", 2, "--guest NAME"),
    ] {
        let error = vmx::read(text, None).unwrap_err();
        assert_eq!(error.line, line, "{text}");
        assert!(error.message.contains(message), "{}", error.message);
    }
}

const NETWORKING: &str = "VERSION=1,0
answer VNET_1_DHCP no
answer VNET_1_HOSTONLY_NETMASK 255.255.255.0
answer VNET_1_HOSTONLY_SUBNET 172.16.40.0
answer VNET_1_VIRTUAL_ADAPTER yes
answer VNET_8_DHCP yes
answer VNET_8_DHCP_CFG_HASH 12AB
answer VNET_8_HOSTONLY_NETMASK 255.255.255.0
answer VNET_8_HOSTONLY_SUBNET 172.16.41.0
answer VNET_8_NAT yes
add_bridge_mapping eth0 0
add_nat_portfwd 8 tcp 2222 172.16.41.129 22 my ssh
add_nat_portfwd 8 udp 5353 172.16.41.7 53
add_dhcp_mac_to_ip 8 52:54:00:00:00:01 172.16.41.129
something else
";

#[test]
fn vmwares_networks_and_ports_come_over() {
    let before = "[network.vmnet8]\nsubnet = \"172.16.41.0/24\" # as ever\n\n[guest.dev]\nmac = \"52:54:00:00:00:01\"\naddress = \"172.16.41.129\"\npublish = [\"8080:80\"]\n";
    let after = r#"[network.vmnet8]
subnet = "172.16.41.0/24" # as ever
type = "nat"

[network.vmnet0]
type = "bridged"
interface = "eth0"

[network.vmnet1]
subnet = "172.16.40.0/24"

[guest.dev]
mac = "52:54:00:00:00:01"
address = "172.16.41.129"
publish = ["8080:80", "0.0.0.0:2222:22"]
"#;
    let left = [
        "2: vmnet1 without DHCP",
        "5: the host's interface on vmnet1",
        "13: the forwarded port 0.0.0.0:5353:53/udp of 172.16.41.7",
        "15: something else",
    ];
    check(
        || networking::read(NETWORKING, None).unwrap(),
        before,
        after,
        &left,
    );
    for (text, line) in [
        ("answer VNET_8_HOSTONLY_SUBNET x\n", 1),
        ("# c\nadd_nat_portfwd 8 tcp 99999 1.2.3.4 22\n", 2),
        ("add_nat_portfwd 8\n", 1),
        ("add_nat_portfwd 8 sctp 1 1.2.3.4 2\n", 1),
        (
            "answer VNET_8_HOSTONLY_SUBNET 10.0.0.0\nanswer VNET_8_HOSTONLY_NETMASK 255.0.255.0\n",
            1,
        ),
    ] {
        assert_eq!(
            networking::read(text, None).unwrap_err().line,
            line,
            "{text}"
        );
    }
}

#[test]
fn nat_conf_is_known_by_its_sections() {
    let text = "# VMware NAT\n[host]\nip = 172.16.3.2/24\nnetmask=255.255.255.0\n[incomingtcp]\n# 80 = x\n8080 = 172.16.3.128:80\n[incomingudp]\n53 = 172.16.3.128:53\n";
    let dev = GuestName::parse("dev").unwrap();
    check(
        || networking::read(text, Some(&dev)).unwrap(),
        "[guest.dev]\n",
        "[guest.dev]\npublish = [\"0.0.0.0:8080:80\", \"0.0.0.0:53:53/udp\"]\n",
        &["3: the section [host]"],
    );
    let (_, left) = applied(networking::read(text, None).unwrap(), "[guest.dev]\n");
    assert_eq!(left.len(), 3);
    for (text, line) in [
        ("[incomingtcp]\n80\n", 2),
        ("[incomingtcp\n", 1),
        ("[incomingtcp]\n80 = 1.2.3.4\n", 2),
        ("[incomingtcp]\n0 = 1.2.3.4:5\n", 2),
    ] {
        assert_eq!(
            networking::read(text, None).unwrap_err().line,
            line,
            "{text}"
        );
    }
}

const LIMA: &str = r#"images:
- location: "https://example.org/x.img"
mounts:
- location: "~"
- location: "/tmp/lima"
  mountPoint: "/mnt/l"
  writable: true
- location: "{{.Dir}}/x"
portForwards:
- guestPort: 80
  hostPort: 8080
- guestPortRange: [3000, 3002]
  hostIP: "0.0.0.0"
  proto: any
- guestSocket: "/run/docker.sock"
  hostSocket: "{{.Dir}}/sock/docker.sock"
- guestPort: 9
  ignore: true
networks:
- lima: host
  macAddress: "52:55:55:12:34:56"
- vzNAT: true
"#;

#[test]
fn a_lima_machine_becomes_a_guest() {
    let dev = || GuestName::parse("dev").unwrap();
    let after = r#"[network.vmnet1]

[guest.dev]
network = "vmnet1"
mac = "52:55:55:12:34:56"
publish = ["8080:80", "0.0.0.0:3000-3002:3000-3002", "0.0.0.0:3000-3002:3000-3002/udp"]

[share.home]
path = "~"
read-only = true
guests = ["dev"]

[share.lima]
path = "/tmp/lima"
at = "/mnt/l"
guests = ["dev"]
"#;
    let left = [
        "8: the mount {{.Dir}}/x",
        "15: the socket /run/docker.sock",
        "17: a port that is not forwarded",
        "22: the network vzNAT",
    ];
    let (text, found) = applied(lima::read(LIMA, dev()).unwrap(), "");
    assert_eq!(text.trim_start(), after);
    assert_eq!(found, left);
    let (again, _) = applied(lima::read(LIMA, dev()).unwrap(), &text);
    assert_eq!(again, text);
    for (text, line) in [
        ("mounts:\n- location: [\n", 2),
        ("mounts: 5\n", 1),
        ("portForwards:\n- guestPort: 80\n- guestPort: 99999\n", 3),
        ("portForwards:\n- hostIP: \"127.0.0.1\"\n", 2),
        (
            "portForwards:\n- guestPortRange: [3, 4]\n  hostPort: 5\n",
            2,
        ),
        ("networks:\n- macAddress: nonsense\n", 2),
    ] {
        let error = lima::read(text, dev()).unwrap_err();
        assert_eq!(error.line, line, "{text}: {error}");
        assert!(!error.message.is_empty());
    }
    // Aliases that would grow without end are cut off.
    let mut bomb = "a: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..40 {
        bomb.push_str(&format!(
            "b{level}: &a{level} [*a{0}, *a{0}, *a{0}, *a{0}, *a{0}, *a{0}, *a{0}]\n",
            level - 1
        ));
    }
    assert!(lima::read(&bomb, dev()).is_err());
}

#[test]
fn names_are_made_of_what_there_is() {
    for (text, name) in [
        ("Dev Box (2)", Some("dev-box")),
        ("…", None),
        (".git", Some("git")),
        ("abcdef-ghi", Some("abcdef")),
    ] {
        assert_eq!(plain_name(text, 7).as_deref(), name, "{text}");
    }
}
