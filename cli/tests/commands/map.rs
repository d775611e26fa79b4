//! exec and compose: programs of the host with a guest's paths and engine.

use std::fs;
use std::os::unix::process::ExitStatusExt;

use expect_test::expect;

use crate::place::{Outcome, Place};

fn place() -> Place {
    let place = Place::empty();
    fs::create_dir_all(place.path("src/app")).unwrap();
    let folder = place.path("");
    let folder = folder.display().to_string();
    let config = format!(
        "[guest.dev]\npublish = [\"unix:/run/user/7/docker.sock:2375\"]\n\
         [share.src]\npath = \"{0}src\"\nat = \"/work\"\n[share.d]\npath = 'D:\\'\n",
        folder
    );
    fs::write(place.path("config.toml"), config).unwrap();
    place.program(
        "show",
        "printf '%s\\n' \"$@\"; echo \"DATA=$DATA HOST=$DOCKER_HOST\"",
    );
    place
}

/// Columns without their width, which follows from the temporary folder's name.
fn columns(place: &Place, outcome: &Outcome) -> String {
    let lines = outcome
        .stdout
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    place.normal(&lines.map(|line| line + "\n").collect::<String>())
}

fn run(place: &Place, arguments: &[&str]) -> Outcome {
    let data = place.path("src/data");
    let mut line = place.sharectl();
    place.outcome(
        line.env("DATA", data)
            .current_dir(place.path("src/app"))
            .args(arguments),
    )
}

#[test]
fn a_program_gets_the_guests_paths_and_engine() {
    let place = place();
    let source = place.path("src/x").display().to_string();
    let line = [
        "exec",
        "--map",
        "--",
        "show",
        "run",
        "-v",
        "./a:/a",
        "-v",
        r"D:\b c:/b:ro",
        "--file",
        &source,
        "/etc/hosts",
        "name:/y",
        "x",
    ];
    run(&place, &line).is(expect![[r#"
        exit 0
        out: run
        out: -v
        out: /work/app/a:/a
        out: -v
        out: /mnt/d/b c:/b:ro
        out: --file
        out: /work/x
        out: /etc/hosts
        out: name:/y
        out: x
        out: DATA=/work/data HOST=unix:///run/user/7/docker.sock
    "#]]);
    let mut dry = line.to_vec();
    dry.insert(2, "--dry-run");
    expect![[r#"
        WHERE RULE FROM TO
        argument 3 bind ./a:/a /work/app/a:/a
        argument 5 bind D:\b c:/b:ro /mnt/d/b c:/b:ro
        argument 7 path $T/src/x /work/x
        variable DATA path $T/src/data /work/data
        variable DOCKER_HOST engine - unix:///run/user/7/docker.sock
    "#]]
    .assert_eq(&columns(&place, &run(&place, &dry)));
    dry.splice(..1, ["--format", "json", "exec"]);
    let rows = run(&place, &dry).json();
    assert_eq!(
        (&rows[0]["place"], &rows[0]["rule"]),
        (&"argument 3".into(), &"bind".into())
    );
    // Without --map only the engine, and not even that where the user has said which.
    run(&place, &["exec", "--", "show", &source]).is(expect![[r#"
        exit 0
        out: $T/src/x
        out: DATA=$T/src/data HOST=unix:///run/user/7/docker.sock
    "#]]);
    let mut line = place.sharectl();
    line.env("DOCKER_HOST", "tcp://10.0.0.1:2376")
        .args(["exec", "--map", "--keep", "DATA", "--", "show"]);
    place.outcome(line.env("DATA", &source)).is(expect![[r#"
            exit 0
            out:
            out: DATA=$T/src/x HOST=tcp://10.0.0.1:2376
        "#]]);
    run(
        &place,
        &[
            "exec",
            "--map",
            "--dry-run",
            "--keep",
            "DATA",
            "--guest",
            "dev",
            "--",
            "show",
        ],
    )
    .is(expect![[r#"
        exit 0
        out: WHERE                 RULE    FROM  TO
        out: variable DOCKER_HOST  engine  -     unix:///run/user/7/docker.sock
    "#]]);
}

#[test]
fn what_would_be_an_empty_folder_is_refused() {
    let place = place();
    for word in [
        "/home/nobody/x:/x",
        r"X:\x:/x",
        r"\\.\pipe\docker:/pipe",
        r"D:\x;C:\Program Files\Git\x",
        "../../other:/x",
    ] {
        run(&place, &["exec", "--map", "--", "show", "-v", word])
            .exits(1)
            .says("argument 2: ");
    }
    run(
        &place,
        &[
            "exec",
            "--map",
            "--",
            "show",
            "-v",
            r"D:\x;C:\Program Files\Git\x",
        ],
    )
    .is(expect![[r#"
        exit 1
        err: error: argument 2: "D:\x;C:\Program Files\Git\x" was made by Git Bash out of a path of Linux
        err: hint: call it with MSYS_NO_PATHCONV=1 in front, or write //d/x instead of /d/x
    "#]]);
}

#[test]
fn exit_status_and_signals_are_the_programs_own() {
    let place = place();
    place.program("seven", "exit 7");
    run(&place, &["exec", "--", "seven"]).exits(7);
    place.program("killed", "kill -TERM $$");
    let mut line = place.sharectl();
    let status = line.args(["exec", "--", "killed"]).status().unwrap();
    assert_eq!(status.signal(), Some(15));
    run(&place, &["exec", "--", "no-such-program"])
        .exits(1)
        .says("cannot start no-such-program");
}

/// What `docker compose config` prints, by Compose 2.
const MODEL: &str = r#"
name: app
services:
  web:
    build: { context: @/src/app/ctx, secrets: [{ source: token }] }
    env_file: e.env
    volumes:
      - { type: bind, source: '@/src/app/rel', target: /rel, read_only: true, bind: { create_host_path: true } }
      - { type: bind, source: 'D:\proj', target: /app }
      - { type: bind, source: /var/run/docker.sock, target: /var/run/docker.sock }
      - { type: volume, source: data, target: /data }
      - "@/src/a$$b:/short:ro,z"
      - data:/more
volumes:
  data: {}
  dev:
    driver: local
    driver_opts: { type: none, o: bind, device: //d/dev }
secrets:
  token: { file: '@/src/app/token' }
  key: { file: '@/src/app/key' }
"#;

fn compose(model: &str) -> Place {
    let place = place();
    fs::write(
        place.path("model"),
        model.replace(
            '@',
            place.path("").display().to_string().trim_end_matches('/'),
        ),
    )
    .unwrap();
    fs::write(place.path("src/app/compose.yml"), "services: {}\n").unwrap();
    fs::write(place.path("src/app/compose.override.yml"), "services: {}\n").unwrap();
    let script = format!(
        r#"test "$1 $2" = "compose version" && exit 0
for word in "$@"; do test "$word" = config && exec cat {0}; done
echo "HOST=$DOCKER_HOST"
printf '%s\n' "$@"
for word in "$@"; do case "$word" in *.json) cat "$word";; esac; done
exit 9"#,
        place.path("model").display()
    );
    place.program("docker", &script);
    place
}

#[test]
fn compose_gets_one_more_file() {
    let place = compose(MODEL);
    let outcome = run(
        &place,
        &[
            "compose",
            "--profile",
            "x",
            "run",
            "-v",
            "./c:/c",
            "web",
            "ls",
            "-v",
            "./d:/d",
        ],
    );
    let text = outcome.stdout.clone();
    outcome.exits(9);
    let (line, file) = text.split_at(text.find('{').unwrap());
    let hash = line.lines().find(|word| word.ends_with(".json")).unwrap();
    expect![[r#"
        HOST=unix:///run/user/7/docker.sock
        compose
        --profile
        x
        -f
        $T/src/app/compose.yml
        -f
        $T/src/app/compose.override.yml
        -f
        ADDED
        run
        -v
        /work/app/c:/c
        web
        ls
        -v
        ./d:/d
    "#]]
    .assert_eq(&place.normal(&line.replace(hash, "ADDED")));
    expect![[r#"
        {
          "secrets": {
            "key": {
              "file": "/work/app/key"
            }
          },
          "services": {
            "web": {
              "volumes": [
                {
                  "bind": {
                    "create_host_path": true
                  },
                  "read_only": true,
                  "source": "/work/app/rel",
                  "target": "/rel",
                  "type": "bind"
                },
                {
                  "source": "/mnt/d/proj",
                  "target": "/app",
                  "type": "bind"
                },
                {
                  "bind": {
                    "selinux": "z"
                  },
                  "read_only": true,
                  "source": "/work/a$$b",
                  "target": "/short",
                  "type": "bind"
                }
              ]
            }
          },
          "volumes": {
            "dev": {
              "driver_opts": {
                "device": "/mnt/d/dev"
              }
            }
          }
        }
    "#]]
    .assert_eq(&place.normal(file));
    let dry = run(&place, &["compose", "--dry-run", "up", "-d"]);
    expect![[r#"
        WHERE RULE FROM TO
        services.web.volumes[0] bind $T/src/app/rel /work/app/rel
        services.web.volumes[1] bind D:\proj /mnt/d/proj
        services.web.volumes[4] bind $T/src/a$b /work/a$b
        volumes.dev.driver_opts.device bind //d/dev /mnt/d/dev
        secrets.key.file file $T/src/app/key /work/app/key
        variable DOCKER_HOST engine - unix:///run/user/7/docker.sock
    "#]]
    .assert_eq(&columns(&place, &dry));
    // The user's files are theirs, and the folder holds no more than ours.
    assert_eq!(
        fs::read_to_string(place.path("src/app/compose.yml")).unwrap(),
        "services: {}\n"
    );
    assert_eq!(fs::read_dir(place.path("run/compose")).unwrap().count(), 1);
}

#[test]
fn compose_is_left_alone_where_nothing_is_different() {
    let place =
        compose("services: { web: { volumes: [ 'data:/x', '/var/run/docker.sock:/s' ] } }\n");
    run(&place, &["compose", "-f", "a.yml", "up"]).is(expect![[r#"
        exit 9
        out: HOST=unix:///run/user/7/docker.sock
        out: compose
        out: -f
        out: a.yml
        out: up
    "#]]);
    run(&place, &["compose", "-H", "tcp://x:1", "up"]).is(expect![[r#"
        exit 9
        out: HOST=
        out: compose
        out: -H
        out: tcp://x:1
        out: up
    "#]]);
    run(&place, &["compose", "-Htcp://x:1", "up"]).is(expect![[r#"
        exit 9
        out: HOST=
        out: compose
        out: -Htcp://x:1
        out: up
    "#]]);
    run(&place, &["compose", "version"]).exits(0);
    assert!(!place.path("run/compose").exists());
}

#[test]
fn compose_files_are_found_as_compose_finds_them() {
    let place = compose("services: { web: { volumes: [ 'D:\\x:/x' ] } }\n");
    let named = |outcome: Outcome| -> Vec<String> {
        let text = place.normal(&outcome.stdout);
        let words: Vec<&str> = text.lines().collect();
        let files = words
            .windows(2)
            .filter(|pair| pair[0] == "-f")
            .map(|pair| pair[1].to_owned());
        files.filter(|file| !file.ends_with(".json")).collect()
    };
    let app = ["$T/src/app/compose.yml", "$T/src/app/compose.override.yml"];
    assert_eq!(named(run(&place, &["compose", "up"])), app);
    fs::create_dir_all(place.path("src/app/deep/er")).unwrap();
    let mut line = place.sharectl();
    line.current_dir(place.path("src/app/deep/er"))
        .args(["compose", "up"]);
    assert_eq!(named(place.outcome(&mut line)), app);
    assert_eq!(
        named(run(
            &place,
            &["compose", "--file=b.yml", "-f", "a.yml", "up"]
        )),
        ["a.yml"]
    );
    fs::write(place.path("src/app/.env"), "COMPOSE_FILE=x.yml:y.yml\n").unwrap();
    assert_eq!(named(run(&place, &["compose", "up"])), ["x.yml", "y.yml"]);
    fs::write(
        place.path("src/app/prod.env"),
        "COMPOSE_PATH_SEPARATOR=,\nCOMPOSE_FILE=p.yml,q.yml\n",
    )
    .unwrap();
    let files = ["p.yml", "q.yml"];
    let line = ["compose", "--env-file", "prod.env", "up"];
    assert_eq!(named(run(&place, &line)), files);
    let line = ["compose", "--env-file=prod.env", "--env-file=none", "up"];
    assert_eq!(named(run(&place, &line)), files);
    run(&place, &["compose", "-f", "-", "up"])
        .exits(2)
        .says("cannot be read twice");
    let mut line = place.sharectl();
    place
        .outcome(line.current_dir(place.path("bin")).args(["compose", "up"]))
        .exits(1)
        .says("no compose file");
}

#[test]
fn what_the_guest_does_not_have_is_refused_before_anything_starts() {
    for (source, said) in [
        (
            "/home/nobody/x",
            "services.web.volumes[0]: /home/nobody/x is in no folder that is shared with guest \"dev\"",
        ),
        (r"\\.\pipe\x", "is a device or a pipe of Windows"),
        (r"E:\x", "hint: sharectl share add /mnt/e"),
    ] {
        let place = compose(&format!(
            "services: {{ web: {{ volumes: [ '{source}:/x' ] }} }}\n"
        ));
        run(&place, &["compose", "up"]).exits(1).says(said);
    }
    let place = compose("services: [\n");
    run(&place, &["compose", "up"]).exits(1).says("no YAML");
}
