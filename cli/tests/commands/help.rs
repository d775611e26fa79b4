//! Help pages, usage errors, completions.

use expect_test::expect;

use crate::place::Place;

/// Every verb; the test below finds those that are missing here.
const VERBS: &[&str] = &[
    "init",
    "up",
    "down",
    "restart",
    "status",
    "ps",
    "schema",
    "wait-ready",
    "config check",
    "config edit",
    "config show",
    "config schema",
    "config path",
    "network create",
    "network rm",
    "network renumber",
    "network bridge-socket",
    "network host-tap",
    "network ls",
    "network inspect",
    "network flows",
    "network capture",
    "network policy",
    "network dns",
    "guest add",
    "guest rm",
    "guest ls",
    "guest mount",
    "guest mounts",
    "guest args",
    "guest run",
    "guest unmount",
    "guest attach",
    "guest detach",
    "share add",
    "share rm",
    "share ls",
    "share mount",
    "share unmount",
    "port publish",
    "port unpublish",
    "port ls",
    "port explain",
    "port offer",
    "port withdraw",
    "host ls",
    "host add",
    "host rm",
    "host sync",
    "host diff",
    "host dns",
    "host restore",
    "host repair",
    "host writer",
    "path to-guest",
    "path to-host",
    "path to-windows",
    "path to-wsl",
    "path convert",
    "exec",
    "compose",
    "shell-hook",
    "import vmx",
    "import vmware-networking",
    "import lima",
    "describe",
    "events",
    "logs",
    "doctor",
    "service install",
    "service remove",
    "service status",
    "service logs",
    "service units",
    "uninstall",
    "completions",
    "man",
];

/// The verbs that a help page lists.
pub(crate) fn listed(page: &str) -> Vec<String> {
    let lines = page.lines().skip_while(|line| *line != "Commands:").skip(1);
    let verbs = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next());
    verbs
        .filter(|verb| *verb != "help")
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_verb_has_help_with_an_example() {
    let place = Place::empty();
    let mut found = Vec::new();
    for noun in listed(&place.run("-h").stdout) {
        let verbs = listed(&place.run(&format!("{noun} -h")).stdout);
        if verbs.is_empty() {
            found.push(noun);
        } else {
            found.extend(verbs.iter().map(|verb| format!("{noun} {verb}")));
        }
    }
    found.sort();
    let mut known: Vec<String> = VERBS.iter().map(|verb| (*verb).to_owned()).collect();
    known.sort();
    assert_eq!(found, known);
    for verb in VERBS {
        let page = place.run(&format!("{verb} --help"));
        page.exits(0)
            .says("Example:")
            .says(&format!("sharectl {}", verb.split(' ').next().unwrap()));
    }
}

#[test]
fn front_page() {
    Place::empty().run("-h").is(expect![[r#"
        exit 0
        out: Networks, host folders and names for virtual machines, without root
        out:
        out: Usage: sharectl [OPTIONS] <COMMAND>
        out:
        out: Commands:
        out:   init         Write a first configuration file
        out:   up           Start the daemons, and wait until they answer
        out:   down         Stop the daemons, and take our block out of the hosts files first
        out:   restart      Have the installed programs take over from the running daemons
        out:   status       Show the daemons, guests and shares, and what is wrong with them
        out:   ps           Show guests and containers, and why something of them does not work
        out:   wait-ready   Wait until daemons, guests, ports and shares are ready
        out:   config       The configuration: edit it, check it, show what it means, its schema and place
        out:   network      Networks: create, remove, renumber, list, look inside
        out:   guest        Guests: add, remove, list, start, plug in
        out:   share        Shares: add, remove, list, mount folders of the host that guests see
        out:   port         Published ports: publish, unpublish, list, explain; offer
        out:   host         Names in the hosts files and in DNS: list, add, remove, write, compare, mend
        out:   path         Paths as the host, a guest, WSL and Windows spell them
        out:   exec         Run a program of the host with a guest's engine and paths
        out:   compose      Run docker compose with volumes as a guest has them
        out:   shell-hook   Print what lets a shell follow you into a guest
        out:   import       Take over what VMware or Lima knows, as a difference to accept
        out:   describe     Show everything about a guest, share, network or host name
        out:   events       Show what happened: leases, links, ports, shares, names
        out:   logs         Show the logs of the daemons
        out:   doctor       Look for what is wrong, and say how to mend it
        out:   service      The daemons as systemd units: install, remove, look at them
        out:   uninstall    Remove what sharectl made on this machine: units, hosts lines, interfaces, state
        out:   completions  Print a shell's completion script
        out:   man          Print a manual page, or write all of them
        out:   schema       Print the JSON Schema of what a command prints with --format json
        out:   help         Print this message or the help of the given subcommand(s)
        out:
        out: Options:
        out:       --config <FILE>    The configuration file, instead of $SHARECTL_CONFIG or
        out:                          ~/.config/sharectl/config.toml
        out:       --format <FORMAT>  How results are written [default: table] [possible values: table, json]
        out:   -q, --quiet            Only names in lists, and no word about what went well
        out:   -h, --help             Print help (see more with '--help')
        out:   -V, --version          Print version
        out:
        out: Example:
        out:   sharectl init && sharectl up
        out:   sharectl guest add dev --name local.test --publish 8080:80
        out:   sharectl guest run dev -- qemu-system-x86_64 -m 2G disk.qcow2
    "#]]);
}

#[test]
fn wrong_usage_exits_2_and_suggests() {
    let place = Place::empty();
    place.run("").exits(2);
    place.run("gest ls").is(expect![[r#"
        exit 2
        err: error: unrecognized subcommand 'gest'
        err:
        err:   tip: some similar subcommands exist: 'restart', 'guest'
        err:
        err: Usage: sharectl [OPTIONS] <COMMAND>
        err:
        err: For more information, try '--help'.
    "#]]);
    place.run("guest sl").exits(2);
    place.run("guest ls --format xml").exits(2);
    place.run("--version").is(expect![[r#"
        exit 0
        out: sharectl [VERSION]
    "#]]);
}

#[test]
fn closed_pipe_is_no_failure() {
    let place = Place::empty();
    let mut command = place.sharectl();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    command.args(["config", "schema"]).stdout(writer);
    place.outcome(&mut command).is(expect![[r#"
        exit 0
    "#]]);
}

#[test]
fn colours_are_for_terminals_without_no_color() {
    let place = Place::empty();
    let script = |no_color: &str| {
        let mut command = place.command(std::path::Path::new("script"));
        let line = format!(
            "{no_color} {} describe x 2>&1",
            place.path("bin/sharectl").display()
        );
        place
            .outcome(command.args(["-qec", &line, "/dev/null"]))
            .stdout
    };
    assert!(script("env").contains("\x1b["));
    assert!(!script("env NO_COLOR=1").contains("\x1b["));
}
