//! From login on, by systemd: the package in a clean Debian, units of a user, a killed and a hanging daemon,
//! a VM's command in between, reboot; and that everything goes again. On a machine of namespaces that a real
//! systemd runs.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tests::limit::wait_for;
use tests::systemd::{self, Machine};
use tests::{Result, command, ensure, place, programs, whole_system};

const SOON: Duration = Duration::from_secs(30);
const PACK_LIMIT: Duration = Duration::from_secs(600);

const UNITS: [&str; 3] = ["sharectl-netd", "sharectl-sharefs", "sharectl-hostsync"];

/// Package and tarball, of the programs that all tests use.
fn packed() -> Result<(PathBuf, PathBuf)> {
    let into = place::staging()?.join("dist");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut line = Command::new(cargo);
    line.current_dir(place::workspace())
        .args([
            "run",
            "--quiet",
            "--locked",
            "--package",
            "xtask",
            "--target-dir",
        ])
        .arg(place::target())
        .args(["--", "dist", "--programs"])
        .arg(programs::folder()?)
        .arg("--into")
        .arg(&into);
    command::run(&mut line, PACK_LIMIT)?;
    let one = |extension: &str| -> Result<PathBuf> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(&into)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|own| own == extension))
            .collect();
        ensure!(files.len() == 1, "{files:?}");
        Ok(files.remove(0))
    };
    Ok((one("deb")?, one("gz")?))
}

/// Runs `sharectl` as the user and checks its exit code; gives both its outputs.
fn exits(machine: &Machine, code: i32, line: &str) -> Result<String> {
    let output = machine.user_output(&format!("sharectl {line}"))?;
    let text = format!("{}{}", output.stdout, output.stderr);
    ensure!(
        output.status.code() == Some(code),
        "sharectl {line}: {} instead of {code}\n{text}",
        output.status
    );
    Ok(text)
}

fn property(machine: &Machine, unit: &str, name: &str) -> Result<String> {
    machine.user(&format!(
        "systemctl --user show --property={name} --value {unit}"
    ))
}

fn all_answer(machine: &Machine) -> Result<()> {
    wait_for("the user's units", SOON, || {
        let status = machine.user_output("sharectl service status && sharectl status")?;
        Ok(status.status.success().then_some(()))
    })
}

fn another_pid(machine: &Machine, unit: &str, old: &str) -> Result<String> {
    wait_for(&format!("another {unit} than {old}"), SOON, || {
        let pid = property(machine, unit, "MainPID")?;
        let active = property(machine, unit, "ActiveState")? == "active";
        Ok((active && pid != "0" && pid != old).then_some(pid))
    })
}

fn same(before: &[String], after: &[String], when: &str) -> Result<()> {
    let more: Vec<_> = after.iter().filter(|path| !before.contains(path)).collect();
    let less: Vec<_> = before.iter().filter(|path| !after.contains(path)).collect();
    ensure!(
        more.is_empty() && less.is_empty(),
        "{when}: more {more:?}, less {less:?}"
    );
    Ok(())
}

/// A clean machine, the package's file on it, and all paths from before it is installed. The user has the
/// folders that a desktop gives everybody.
fn machine() -> Result<(Machine, Vec<String>)> {
    let (package, _) = packed()?;
    let machine = Machine::boot()?;
    systemd::bring(&machine, &package, "/srv/sharectl.deb")?;
    machine.user("mkdir -p .config .local/state src && printf '127.0.0.1 localhost\\n' > hosts")?;
    let before = machine.listing()?;
    machine.run("dpkg -i /srv/sharectl.deb")?;
    Ok((machine, before))
}

fn configure(machine: &Machine) -> Result<()> {
    exits(machine, 0, "init")?;
    machine.user("sed -i 's:\"auto\":\"/home/ann/hosts\":' .config/sharectl/config.toml")?;
    machine.user("grep -q /home/ann/hosts .config/sharectl/config.toml")?;
    exits(machine, 0, "share add /home/ann/src")?;
    exits(machine, 0, "guest add dev --name local.test")?;
    Ok(())
}

#[test]
fn a_package_is_installed_used_without_systemd_and_removed() {
    whole_system(|| {
        let (machine, before) = machine()?;
        let version = exits(&machine, 0, "--version")?;
        ensure!(version.starts_with("sharectl 0."), "{version}");
        for file in [
            "/usr/share/man/man1/sharectl.1.gz",
            "/usr/share/man/man1/sharectl-guest-run.1.gz",
            "/usr/share/man/man8/sharectl-netd.8.gz",
            "/usr/share/man/man8/sharectl-hosts-writer.8.gz",
            "/usr/share/zsh/vendor-completions/_sharectl",
            "/usr/share/fish/vendor_completions.d/sharectl.fish",
            "/usr/share/sharectl/completions/sharectl.ps1",
            "/usr/share/bash-completion/completions/sharectl",
            "/usr/lib/systemd/user/sharectl-netd.service",
            "/usr/share/doc/sharectl/copyright",
        ] {
            machine.run(&format!("test -s {file}"))?;
        }
        machine.run("zgrep -q 'guest run' /usr/share/man/man1/sharectl-guest-run.1.gz")?;
        machine.run("zgrep -q 'SIGHUP reads' /usr/share/man/man8/sharectl-netd.8.gz")?;
        machine.run("bash -n /usr/share/bash-completion/completions/sharectl")?;
        machine.run("XDG_RUNTIME_DIR=/tmp systemd-analyze --user --man=no verify /usr/lib/systemd/user/sharectl-*.service")?;
        configure(&machine)?;

        // Nobody has logged in: there is no manager, and the plan is shown.
        let plan = exits(&machine, 3, "service install")?;
        ensure!(plan.contains("no systemd user manager answers"), "{plan}");
        ensure!(plan.contains("run   systemctl --user enable"), "{plan}");
        exits(&machine, 3, "service status")?;

        // Without a manager `up` starts the daemons itself, as in any container.
        let own = "export XDG_RUNTIME_DIR= && sharectl";
        machine.user(&format!("{own} up"))?;
        let status = machine.user(&format!("{own} status"))?;
        ensure!(status.contains("hostsync  running"), "{status}");
        ensure!(
            machine
                .user(&format!("{own} logs netd"))?
                .contains("serving")
        );
        wait_for("the guest's name", SOON, || {
            let named = machine.user("cat hosts")?.contains("local.test");
            Ok(named.then_some(()))
        })?;
        let down = machine.user(&format!("{own} down"))?;
        ensure!(down.contains("stopped hostsync, sharefs, netd"), "{down}");

        // With a supervisor of our own a daemon that dies is started again, and no log grows without end.
        machine.user(&format!("{own} up --keep-running"))?;
        let pid_of = |daemon: &str| machine.user(&format!("cat /tmp/sharectl-1000/{daemon}.pid"));
        let logs = ".local/state/sharectl/logs";
        machine.user(&format!("truncate -s 9M {logs}/netd.log"))?;
        let sharefs = pid_of("sharefs")?;
        machine.user(&format!("kill -9 {sharefs}"))?;
        wait_for("another sharefs", SOON, || {
            let now = pid_of("sharefs")?;
            Ok((!now.is_empty() && now != sharefs).then_some(()))
        })?;
        wait_for("a new log of netd", SOON, || {
            let there = machine.user_output(&format!("test -e {logs}/netd.log.old"))?;
            Ok(there.status.success().then_some(()))
        })?;
        machine.user(&format!("{own} status && kill -HUP {}", pid_of("netd")?))?;
        wait_for("lines in the new log", SOON, || {
            let there = machine.user_output(&format!("test -s {logs}/netd.log"))?;
            Ok(there.status.success().then_some(()))
        })?;
        machine.user(&format!("{own} down"))?;
        wait_for("the supervisor's end", SOON, || {
            let left = machine.run("cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '")?;
            Ok((!left.contains("--log-files")).then_some(()))
        })?;

        let refused = exits(&machine, 2, "uninstall < /dev/null")?;
        ensure!(refused.contains("--dry-run"), "{refused}");
        machine.user("touch .local/state/sharectl/mine")?;
        let gone = machine.user(&format!("{own} uninstall --purge --yes"))?;
        ensure!(
            gone.contains("left /home/ann/.local/state/sharectl/mine"),
            "{gone}"
        );
        machine.user("rm .local/state/sharectl/mine && rmdir .local/state/sharectl")?;
        machine.run("apt-get -q -y remove sharectl")?;
        machine.run("dpkg --purge sharectl")?;
        ensure!(machine.user("cat hosts")? == "127.0.0.1 localhost");
        same(&before, &machine.listing()?, "after the purge")
    });
}

#[test]
fn a_tarball_is_unpacked_used_and_leaves_nothing_when_it_is_taken_away() {
    whole_system(|| {
        let (_, tarball) = packed()?;
        let machine = Machine::boot()?;
        systemd::bring(&machine, &tarball, "/srv/sharectl.tar.gz")?;
        machine
            .user("printf '127.0.0.1 localhost\\n' > hosts && mkdir -p .config .local/state src")?;
        let before = machine.listing()?;
        machine.run("tar -xzf /srv/sharectl.tar.gz --strip-components=1 -C /usr/local")?;
        for file in [
            "share/man/man1/sharectl.1",
            "share/man/man8/sharectl-sharefs.8",
            "share/bash-completion/completions/sharectl",
            "share/zsh/site-functions/_sharectl",
            "share/sharectl/completions/sharectl.ps1",
            "share/sharectl/systemd/user/sharectl-netd.service",
            "share/doc/sharectl/LICENSE-APACHE",
            "share/doc/sharectl/LICENSE-MIT",
        ] {
            machine.run(&format!("test -s /usr/local/{file}"))?;
        }
        let units = machine.run("cat /usr/local/share/sharectl/systemd/user/*.service")?;
        ensure!(units.contains("/usr/local/bin/sharectl-netd"), "{units}");
        let own = "export XDG_RUNTIME_DIR= PATH=/usr/local/bin:$PATH && sharectl";
        machine.user(&format!(
            "{own} init && sed -i 's:\"auto\":\"/home/ann/hosts\":' .config/sharectl/config.toml"
        ))?;
        machine.user(&format!("{own} share add /home/ann/src && {own} up"))?;
        let status = machine.user(&format!("{own} status"))?;
        ensure!(status.contains("sharefs   running"), "{status}");
        machine.user(&format!("{own} uninstall --purge --yes"))?;
        // What was unpacked, and nothing else, is there to be removed.
        machine.run(
            "tar -tzf /srv/sharectl.tar.gz | grep -v '/$' | sed 's:^[^/]*/::' | (cd /usr/local && xargs -d '\\n' rm) && \
             find /usr/local/share/sharectl /usr/local/share/doc/sharectl -depth -type d -empty -delete",
        )?;
        let after = machine.listing()?;
        let left: Vec<&String> = after
            .iter()
            .filter(|path| !before.contains(path) && path.contains("sharectl"))
            .collect();
        ensure!(left.is_empty(), "{left:?}");
        ensure!(machine.user("cat hosts")? == "127.0.0.1 localhost");
        Ok(())
    });
}

#[test]
fn roots_writer_and_users_units_work_together_over_reboot_and_upgrade() {
    whole_system(|| {
        let (mut machine, before) = machine()?;
        let hosts = machine.run("cat /etc/hosts")?;
        configure(&machine)?;
        machine.user("sed -i 's:/home/ann/hosts:/etc/hosts:' .config/sharectl/config.toml")?;
        machine.run("sharectl host writer install && loginctl enable-linger ann")?;
        let program = "/usr/local/libexec/sharectl/sharectl-hosts-writer";
        machine.run(&format!("cmp {program} /usr/bin/sharectl-hosts-writer"))?;
        wait_for("the user's manager", SOON, || {
            let state = machine.user_output("systemctl --user is-system-running")?;
            Ok(["running", "degraded"]
                .contains(&state.stdout.trim())
                .then_some(()))
        })?;
        exits(&machine, 0, "service install")?;
        wait_for("the guest's name", SOON, || {
            Ok(machine_has(&machine, "local.test")?.then_some(()))
        })?;
        let way = exits(&machine, 0, "host writer status")?;
        ensure!(way.contains("by the hosts writer"), "{way}");

        // An upgrade takes the copy along.
        machine.run(&format!(
            "rm {program} && echo old > {program} && dpkg -i /srv/sharectl.deb"
        ))?;
        machine.run(&format!("cmp {program} /usr/bin/sharectl-hosts-writer"))?;
        machine.user("sharectl host add later.test 127.0.0.9")?;
        wait_for("a name that is new", SOON, || {
            Ok(machine_has(&machine, "later.test")?.then_some(()))
        })?;

        machine.reboot()?;
        all_answer(&machine)?;
        machine.user("sharectl host rm later.test")?;
        wait_for("a name that goes", SOON, || {
            let gone = !machine_has(&machine, "later.test")?;
            Ok((gone && machine_has(&machine, "local.test")?).then_some(()))
        })?;

        exits(&machine, 0, "service remove")?;
        ensure!(
            machine.run("cat /etc/hosts")? == hosts,
            "the user's block stays"
        );
        exits(&machine, 0, "uninstall --purge --yes")?;
        machine.run("sharectl uninstall --purge --yes")?;
        machine.run(&format!("test ! -e {program}"))?;
        // A folder that is everybody's stays.
        machine.run(
            "loginctl disable-linger ann && dpkg --purge sharectl && rmdir /usr/local/libexec",
        )?;
        same(&before, &machine.listing()?, "after the purge")
    });
}

fn machine_has(machine: &Machine, name: &str) -> Result<bool> {
    Ok(machine.run("cat /etc/hosts")?.contains(name))
}

/// Stands for a VM: writes down whether the network answers when it begins and when it is told to end.
const MACHINE: &str = "sharectl guest ls > /dev/null && echo began >> vm.log; \
    trap \"sharectl guest ls > /dev/null && echo ended >> vm.log; exit 0\" TERM; \
    tail -f /dev/null & wait";

#[test]
fn from_login_on_everything_is_there_and_goes_again() {
    whole_system(|| {
        let (mut machine, before) = machine()?;
        configure(&machine)?;
        let session = machine.login()?;
        wait_for("the user's manager", SOON, || {
            let state = machine.user_output("systemctl --user is-system-running")?;
            Ok(["running", "degraded"]
                .contains(&state.stdout.trim())
                .then_some(()))
        })?;

        // What `up` started is taken over, the package's own units are switched on as they are.
        exits(&machine, 0, "up")?;
        let said = exits(&machine, 0, &format!("service install --with '{MACHINE}'"))?;
        ensure!(
            said.contains("netd ran without the service manager"),
            "{said}"
        );
        ensure!(said.contains("--linger"), "{said}");
        all_answer(&machine)?;
        machine.user("test ! -e .config/systemd/user/sharectl-netd.service")?;
        wait_for("the machine's word", SOON, || {
            let said = machine.user_output("cat vm.log")?.stdout;
            Ok((said == "began\n").then_some(()))
        })?;
        let logs = exits(&machine, 0, "logs netd")?;
        ensure!(logs.contains("serving"), "{logs}");

        // What the units take away is taken away, and sharefs can still start fusermount3.
        for (unit, filtered) in [(UNITS[0], "2"), (UNITS[1], "0"), (UNITS[2], "2")] {
            let pid = property(&machine, unit, "MainPID")?;
            let mode = machine.run(&format!("sed -n 's/^Seccomp:\\t//p' /proc/{pid}/status"))?;
            ensure!(mode == filtered, "{unit}: Seccomp {mode}");
        }

        // Killed: started again. Standing still: found by the watchdog, in the user's own time.
        for unit in UNITS {
            let pid = property(&machine, unit, "MainPID")?;
            machine.user(&format!("kill -KILL {pid}"))?;
            another_pid(&machine, unit, &pid)?;
            machine.user(&format!(
                "mkdir -p .config/systemd/user/{unit}.service.d && \
                 printf '[Service]\\nWatchdogSec=2s\\n' > .config/systemd/user/{unit}.service.d/quick.conf"
            ))?;
        }
        machine.user("systemctl --user daemon-reload")?;
        for unit in UNITS {
            machine.user(&format!("systemctl --user restart {unit}"))?;
        }
        let pids: Vec<String> = UNITS
            .iter()
            .map(|unit| property(&machine, unit, "MainPID"))
            .collect::<Result<_>>()?;
        // Those that work, whoever else stands before them.
        machine.user("kill -STOP $(cat $XDG_RUNTIME_DIR/sharectl/*.pid)")?;
        for (unit, pid) in UNITS.iter().zip(&pids) {
            another_pid(&machine, unit, pid)?;
        }
        all_answer(&machine)?;
        let journal = machine.user("journalctl --user --no-pager -u sharectl-netd")?;
        ensure!(journal.contains("Watchdog timeout"), "{journal}");

        // One owner: down and up go through the manager, which does not fight them.
        exits(&machine, 0, "down")?;
        for unit in UNITS {
            ensure!(
                property(&machine, unit, "ActiveState")? == "inactive",
                "{unit}"
            );
        }
        exits(&machine, 3, "service status")?;
        exits(&machine, 0, "up")?;
        for unit in UNITS {
            ensure!(
                property(&machine, unit, "ActiveState")? == "active",
                "{unit}"
            );
        }
        all_answer(&machine)?;

        // A unit that was edited is not written over.
        let vm = ".config/systemd/user/sharectl-vm.service";
        machine.user(&format!("echo '# mine' >> {vm}"))?;
        let again = format!("service install --with '{MACHINE}'");
        let refused = exits(&machine, 4, &again)?;
        ensure!(refused.contains("was edited"), "{refused}");
        exits(&machine, 0, &format!("{again} --force"))?;
        machine.user(&format!("! grep -q mine {vm}"))?;

        // From boot on: nobody logs in, nobody types a command.
        machine.run("loginctl enable-linger ann")?;
        drop(session);
        ensure!(machine.user("cat vm.log && : > vm.log")? == "began");
        machine.reboot()?;
        all_answer(&machine)?;
        let said = wait_for("the machine's word", SOON, || {
            let said = machine.user_output("cat vm.log")?.stdout;
            Ok(said.ends_with("began\n").then_some(said))
        })?;
        ensure!(
            said == "ended\nbegan\n",
            "the VM ends before its network: {said:?}"
        );
        ensure!(machine.user("cat hosts")?.contains("local.test"));

        // And away again.
        let gone = exits(&machine, 0, "service remove")?;
        ensure!(gone.contains("drop-ins of your own"), "{gone}");
        ensure!(!machine.user("cat hosts")?.contains("local.test"));
        machine.user("rm -r .config/systemd vm.log")?;
        // It fails when there is none.
        let left = machine.user_output("systemctl --user list-unit-files --state=enabled")?;
        ensure!(!left.stdout.contains("sharectl"), "{}", left.stdout);
        exits(&machine, 3, "status")?;
        exits(&machine, 0, "uninstall --purge --yes")?;
        machine.user("test ! -e $XDG_RUNTIME_DIR/sharectl")?;

        // Root's own daemons are units of the machine.
        machine.run("sharectl init && sharectl service install && sharectl service status")?;
        ensure!(machine.run("systemctl is-active sharectl-netd")? == "active");
        machine.run("test -S /run/sharectl/netd.sock")?;
        machine.run("sharectl uninstall --purge --yes")?;
        machine.run("test ! -e /run/sharectl")?;

        machine.run("loginctl disable-linger ann && dpkg --purge sharectl")?;
        same(&before, &machine.listing()?, "after the purge")
    });
}
