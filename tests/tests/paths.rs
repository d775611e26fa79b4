//! Paths as they are printed, used: the same file in a real guest, programs that get them, real shells that follow
//! them, and real compose.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::time::Duration;

use tests::daemons::{Kind, World};
use tests::{Context, Result, command, ensure, packages, programs, whole_system};

const CONFIG: &str = r#"
[network.vmnet8]
type = "nat"
subnet = "192.168.130.0/24"

[guest.dev]
host-address = "127.64.0.9"
publish = ["127.64.0.9:2375:2375"]

[share.d]
path = "@shared/d"
at = "/mnt/d"

[share.work]
path = "@shared/work"
at = "/srv/work"
exclude = ["hidden"]
"#;

const SHARES: &[(&str, &str)] = &[("d", "/mnt/d"), ("work", "/srv/work")];
const SOON: Duration = Duration::from_secs(20);
/// Names that a shell, a terminal or a list could take for something else.
const NAMES: [&str; 6] = [
    "plain",
    "two words",
    "a'b\"c",
    "$(touch x)`id`",
    "line\nbreak\n",
    "Grüße-日本",
];

/// Runs `program` in `folder` as the world's user, who calls the folder so.
fn run(world: &World, folder: &Path, program: &str, arguments: &[&str]) -> Result<command::Output> {
    let mut line = world.command(program);
    line.args(arguments)
        .current_dir(folder)
        .env("PWD", folder)
        .env_remove("DOCKER_HOST");
    command::output(&mut line, SOON)
}

/// What `sharectl path VERB -0 PATH` prints.
fn path(world: &World, verb: &str, path: &str) -> Result<String> {
    let printed = world
        .sharectl(&["path", verb, "-0", "--", path])?
        .success()?;
    let path = printed.strip_suffix('\0').context("no NUL at the end")?;
    Ok(path.to_owned())
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[test]
fn a_path_that_is_printed_is_the_same_file_in_the_guest() {
    whole_system(|| {
        let mut world = World::new(CONFIG)?;
        let work = world.share_folder("work")?;
        let d = world.share_folder("d")?;
        world.start(Kind::Netd)?;
        world.start(Kind::Sharefs)?;
        let guest = world.machine("dev", SHARES)?.boot()?;
        for (number, name) in NAMES.iter().enumerate() {
            let folder = work.join(name);
            let made = run(&world, &work, "mkdir", &[name])?;
            made.success()?;
            let file = folder.join(name);
            world.write(&file, format!("file {number}"))?;
            let there = path(&world, "to-guest", file.to_str().context("a name")?)?;
            ensure!(there == format!("/srv/work/{name}/{name}"), "{there}");
            let read = guest.ok(&format!("cat {}", quoted(&there)))?;
            ensure!(read == format!("file {number}"), "{read}");
            // And back: what the guest writes beside it.
            guest.ok(&format!("echo guest > {}.new", quoted(&there)))?;
            let here = path(&world, "to-host", &format!("{there}.new"))?;
            ensure!(fs::read_to_string(here)? == "guest\n");
        }
        // Other spellings are the same place.
        world.write(&d.join("x"), "drive")?;
        for spelling in [
            r"D:\x",
            "d:/x",
            "//d/x",
            "/d/x",
            "/mnt/hgfs/d/x",
            "/host_mnt/d/x",
            "/mnt/d/sub/../x",
        ] {
            let there = path(&world, "to-guest", spelling)?;
            ensure!(
                guest.ok(&format!("cat {there}"))? == "drive",
                "{spelling} became {there}"
            );
        }
        // What is said to be hidden is not there.
        world.write(&work.join("hidden"), "no")?;
        let refused = world.sharectl(&[
            "path",
            "to-guest",
            work.join("hidden").to_str().context("a path")?,
        ])?;
        ensure!(
            refused.stderr.contains("hidden by `exclude`"),
            "{}",
            refused.stderr
        );
        ensure!(guest.run("cat /srv/work/hidden")?.status != 0);

        // A program of the host that hands its arguments over to the guest.
        let hand_over = world.path("hand-over");
        world.write(
            &hand_over,
            "#!/bin/sh\nprintf 'cat \"%s\"; echo \"$1\" %s\\n' \"$2\" \"$DATA\" > \"$1\"\n",
        )?;
        let program = run(
            &world,
            &work,
            "chmod",
            &["755", hand_over.to_str().context("a path")?],
        )?;
        program.success()?;
        let script = world.path("shared/work/plain/script");
        let mut line = world.command(programs::folder()?.join("sharectl"));
        line.args(["exec", "--map", "--"]).arg(&hand_over);
        // The first stays on the host, since it is relative.
        line.arg("script").arg(work.join("two words/two words"));
        line.current_dir(work.join("plain"))
            .env("DATA", work.join("plain"));
        command::output(&mut line, SOON)?.success()?;
        let said = guest.ok(&format!(
            "sh {}",
            path(&world, "to-guest", script.to_str().context("a path")?)?
        ))?;
        ensure!(said.starts_with("file 1"), "{said}");
        ensure!(said.contains("/srv/work/plain"), "{said}");
        Ok(())
    });
}

#[test]
fn real_shells_follow_into_folders_of_any_name() {
    whole_system(|| {
        packages::ensure(packages::SHELLS)?;
        let world = World::new(CONFIG)?;
        let work = world.share_folder("work")?;
        for name in NAMES {
            run(&world, &work, "mkdir", &[name])?.success()?;
        }
        for (shell, arguments, prompt) in [
            (
                "bash",
                &["--norc", "--noprofile"][..],
                "eval \"$PROMPT_COMMAND\"",
            ),
            (
                "zsh",
                &["-f"],
                "for hook in $precmd_functions; do $hook; done",
            ),
            ("fish", &["--no-config"], "emit fish_prompt"),
        ] {
            let hook = world.sharectl(&["shell-hook", shell])?.success()?;
            let (evaluate, show, set) = match shell {
                "fish" => (
                    "cat hook | source",
                    "set -q SHARECTL_PWD; and printf '<%s>' $SHARECTL_PWD; or printf '<none>'",
                    "set -q DOCKER_HOST; or printf '<gone>'",
                ),
                _ => (
                    "eval \"$(cat hook)\"",
                    "printf '<%s>' \"${SHARECTL_PWD-none}\"",
                    "printf '<%s>' \"${DOCKER_HOST-gone}\"",
                ),
            };
            let mut script = format!("{evaluate}\nprintf '<%s>' \"$DOCKER_HOST\"\n");
            for name in NAMES {
                let name = match shell {
                    "fish" => format!("'{}'", name.replace('\'', r"\'")),
                    _ => quoted(name),
                };
                script.push_str(&format!("cd {name}\n{prompt}\n{show}\ncd ..\n"));
            }
            script.push_str(&format!(
                "cd /\n{prompt}\n{show}\nsharectl_unhook\n{set}\n{show}\n"
            ));
            if shell == "bash" {
                script.push_str("printf '<%s>' \"${PROMPT_COMMAND-}\"\n");
            }
            world.write(&work.join("hook"), hook)?;
            world.write(&work.join("script"), script)?;
            let mut words = arguments.to_vec();
            words.push("script");
            let said = run(&world, &work, shell, &words)?;
            let mut expected = "<tcp://127.64.0.9:2375>".to_owned();
            for name in NAMES {
                expected.push_str(&format!("</srv/work/{name}>"));
            }
            expected.push_str("<none><gone><none>");
            if shell == "bash" {
                expected.push_str("<>");
            }
            ensure!(
                said.stdout == expected,
                "{shell}:\n{}\n{expected}\n{}",
                said.stdout,
                said.stderr
            );
            ensure!(said.stderr.is_empty(), "{shell}: {}", said.stderr);
            ensure!(
                !work.join("x").exists() && !work.join(NAMES[3]).join("x").exists(),
                "{shell} ran a folder's name"
            );
        }
        Ok(())
    });
}

/// The command of the old compose, which Debian has; what it makes of its files together is what its engine is told.
#[test]
fn real_compose_reads_its_own_files_and_ours() {
    whole_system(|| {
        packages::ensure(packages::COMPOSE)?;
        let world = World::new(CONFIG)?;
        let work = world.share_folder("work")?;
        let compose = r#"
version: "3.8"
services:
  web:
    image: example
    env_file: web.env
    volumes:
      - D:\proj:/windows
      - ./rel:/relative:ro
      - type: bind
        source: ${PWD}/long
        target: /long
      - named:/named
      - /var/run/docker.sock:/var/run/docker.sock
volumes:
  named: {}
  device:
    driver: local
    driver_opts: {type: none, o: bind, device: "//d/device"}
"#;
        world.write(&work.join("docker-compose.yml"), compose)?;
        world.write(&work.join("web.env"), "A=b\n")?;
        let sharectl = programs::folder()?.join("sharectl");
        let sharectl = sharectl.to_str().context("a path")?;
        let said = run(&world, &work, sharectl, &["compose", "config"])?.success()?;
        for (part, times) in [
            ("source: /mnt/d/proj", 1),
            ("source: /srv/work/rel", 1),
            ("read_only: true", 1),
            ("source: /srv/work/long", 1),
            ("device: /mnt/d/device", 1),
            ("named:/named:rw", 1),
            ("/var/run/docker.sock:/var/run/docker.sock:rw", 1),
            ("target: /", 3),
            ("A: b", 1),
            ("/shared/work/", 0),
        ] {
            ensure!(
                said.matches(part).count() == times,
                "not {times} times {part:?} in\n{said}"
            );
        }
        ensure!(fs::read_to_string(work.join("docker-compose.yml"))? == compose);
        // A folder that no share shows stops it before the engine is asked.
        world.write(
            &work.join("docker-compose.yml"),
            compose.replace("./rel", "/home/nobody/x"),
        )?;
        let refused = run(&world, &work, sharectl, &["compose", "up"])?;
        ensure!(
            refused
                .stderr
                .contains("/home/nobody/x is in no folder that is shared"),
            "{}",
            refused.stderr
        );
        Ok(())
    });
}

#[test]
fn names_that_are_no_text_are_paths_too() {
    whole_system(|| {
        let world = World::new(CONFIG)?;
        let work = world.share_folder("work")?;
        let name = OsString::from_vec(b"\xff\xfe".to_vec());
        let mut line = world.command(programs::folder()?.join("sharectl"));
        line.args(["path", "to-guest", "-0"])
            .arg(work.join(&name))
            .arg(work.join("after"));
        let printed = line.output()?.stdout;
        ensure!(
            printed == b"/srv/work/\xff\xfe\0/srv/work/after\0",
            "{}",
            printed.escape_ascii()
        );
        Ok(())
    });
}
