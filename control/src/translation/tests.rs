//! Tables of what WSL, Docker and VMware write, and the laws that hold for any path.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use proptest::prelude::*;

use super::mountinfo::MountTable;
use super::wsl_conf::WslConf;
use super::*;
use crate::config::{Config, Surroundings};
use crate::names::GuestName;

const WSL: &str = r"22 1 8:32 / / rw - ext4 /dev/sdc rw
23 22 0:20 / /proc rw - proc proc rw
60 22 0:50 / /mnt/c rw - 9p C:\134 rw,aname=drvfs;path=C:\134;uid=1000;gid=1000;symlinkroot=/mnt/,trans=fd
61 22 0:51 / /mnt/d rw - 9p drvfs rw,aname=drvfs;path=D:\134;uid=1000,trans=fd
62 22 0:52 / /mnt/files rw - 9p drvfs rw,aname=drvfs;path=UNC\134srv\134pub;uid=1000,trans=fd
63 22 0:50 /Users/Ann /home/win rw - 9p C:\134 rw,aname=drvfs;path=C:\134;uid=1000,trans=fd
64 60 0:60 / /mnt/c/scratch rw - tmpfs  rw
65 22 0:61 / /opt/drv rw - 9p drivers rw,aname=drivers;fmask=222,trans=fd
";

fn wsl() -> Machine {
    static WSL_MACHINE: LazyLock<Machine> = LazyLock::new(read_wsl);
    WSL_MACHINE.clone()
}

fn read_wsl() -> Machine {
    Machine::new(
        MountTable::parse(WSL.as_bytes()),
        WslConf::default(),
        Some("D".to_owned()),
    )
}

fn plain() -> Machine {
    Machine::new(
        MountTable::parse(b"1 0 8:1 / / rw - ext4 /dev/a rw\n"),
        WslConf::default(),
        None,
    )
}

fn to_linux(machine: &Machine, text: &str) -> Result<String, TranslationError> {
    let spelling = Spelling::read(text.as_bytes())?;
    let names = machine.to_linux(&spelling, text.as_bytes(), &NoFiles)?;
    let is_relative = matches!(spelling, Spelling::Relative(_));
    let bytes = if is_relative {
        names.to_relative()
    } else {
        names.to_linux()
    };
    Ok(String::from_utf8(bytes).unwrap())
}

fn to_windows(machine: &Machine, text: &str) -> Result<String, TranslationError> {
    machine.to_windows(
        &Spelling::read(text.as_bytes())?,
        text.as_bytes(),
        &NoFiles,
        Style::Windows,
    )
}

#[test]
fn windows_paths_become_linux_ones() {
    for (text, expected) in [
        (r"C:\", "/mnt/c/"),
        (r"C:\Foo", "/mnt/c/Foo"),
        (r"C:\Foo\", "/mnt/c/Foo/"),
        ("C:/Foo/bar", "/mnt/c/Foo/bar"),
        (r"c:\Foo\.\\x\..\bar", "/mnt/c/Foo/bar"),
        (r"C:\..\..\x", "/mnt/c/x"),
        (r"foo\", "foo/"),
        (r"..\foo\bar", "../foo/bar"),
        (".", "."),
        ("./", "./"),
        (r"\\?\C:\Users", "/mnt/c/Users"),
        (r"\\?\UNC\SRV\Pub\x", "/mnt/files/x"),
        (r"\\wsl.localhost\D\root", "/root"),
        (r"\\wsl.localhost\d\root\", "/root/"),
        (r"\\WSL$\D\proc\stat", "/proc/stat"),
        ("//wsl.localhost/D/proc/stat", "/proc/stat"),
        (r"\\srv\pub\a b", "/mnt/files/a b"),
        ("//srv/pub/a", "/mnt/files/a"),
        ("//d/x", "/mnt/d/x"),
        ("//c", "/mnt/c/"),
        ("/d/x", "/mnt/d/x"),
        ("/mnt/d/x", "/mnt/d/x"),
        ("/mnt/hgfs/d/x", "/mnt/d/x"),
        ("/host_mnt/d/x", "/mnt/d/x"),
        ("/run/desktop/mnt/host/c", "/mnt/c"),
        ("/c/Users", "/mnt/c/Users"),
        ("/cygdrive/c/x/", "/mnt/c/x/"),
        ("/x/y", "/x/y"),
        ("/home", "/home"),
        ("/", "/"),
        ("//", "/"),
        ("//home//ann/", "/home/ann/"),
        ("C:\\a\u{f03a}b", "/mnt/c/a:b"),
        ("C:\\a\u{f02f}b", "/mnt/c/a\u{f02f}b"),
        (r"c:\users\ANN\x", "/home/win/x"),
        (r"C:\Users\Annabel", "/mnt/c/Users/Annabel"),
    ] {
        assert_eq!(to_linux(&wsl(), text).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn what_is_no_place_here_is_refused_with_the_reason() {
    for (text, message) in [
        ("", "the path is empty"),
        ("a\0", "holds a NUL"),
        (
            r"\\wsl.localhost\D-other\foo",
            "in the WSL distribution D-other, and this is \"D\"",
        ),
        (r"X:\x", r"is on X:\, which is not mounted here"),
        ("C:", "names no folder"),
        ("C:x", "names no folder"),
        (r"\x", "has no drive in front"),
        (r"\\srv", "names no folder"),
        (
            r"\\other\pub\x",
            r"is on \\other\pub\, which is not mounted",
        ),
        (r"\\.\pipe\docker_engine", "is a device or a pipe"),
        (r"\\?\Volume{4c1b}\x", "names no folder"),
        (
            r"C:\scratch\x",
            "would be /mnt/c/scratch/x, which the mount at /mnt/c/scratch hides",
        ),
    ] {
        let error = to_linux(&wsl(), text).unwrap_err();
        assert!(error.to_string().contains(message), "{text}: {error}");
        assert!(!error.hint().is_empty());
    }
    let error = to_linux(&wsl(), r"X:\x").unwrap_err();
    assert_eq!(
        error.hint(),
        "sudo mkdir -p /mnt/x && sudo mount -t drvfs X: /mnt/x"
    );
}

#[test]
fn linux_paths_become_windows_ones() {
    for (text, expected) in [
        ("/mnt/c", r"C:\"),
        ("/mnt/c/", r"C:\"),
        ("/mnt/c/Users/", r"C:\Users\"),
        ("/mnt/c/NOTHERE/", r"C:\NOTHERE\"),
        ("/mnt/c/a:b\\c", "C:\\a\u{f03a}b\u{f05c}c"),
        ("/mnt/cx", r"\\wsl.localhost\D\mnt\cx"),
        ("/mnt/c/../d/x", r"D:\x"),
        ("/mnt/c/scratch/x", r"\\wsl.localhost\D\mnt\c\scratch\x"),
        ("/home/win/x", r"C:\Users\Ann\x"),
        ("/mnt/files/x", r"\\srv\pub\x"),
        ("/mnt/files", r"\\srv\pub\"),
        ("/opt/drv/x", r"\\wsl.localhost\D\opt\drv\x"),
        ("/", r"\\wsl.localhost\D\"),
        ("/root", r"\\wsl.localhost\D\root"),
        (r"\\wsl$\D\mnt\c\x", r"C:\x"),
        (r"\\wsl$\Other\x", r"\\wsl.localhost\Other\x"),
        ("C:/x/", r"C:\x\"),
        (r"X:\not\mounted", r"X:\not\mounted"),
        ("/d/x", r"D:\x"),
        ("foo/bar/", r"foo\bar\"),
        (".", "."),
        ("..", ".."),
    ] {
        assert_eq!(to_windows(&wsl(), text).as_deref(), Ok(expected), "{text}");
    }
    let mixed = wsl().to_windows(
        &Spelling::read(b"/mnt/c/a/b").unwrap(),
        b"",
        &NoFiles,
        Style::Mixed,
    );
    assert_eq!(mixed.as_deref(), Ok("C:/a/b"));
    assert!(matches!(
        to_windows(&plain(), "/x"),
        Err(TranslationError::NoDistro { .. })
    ));
    let bytes = Spelling::read(b"/mnt/c/\xff").unwrap();
    assert!(matches!(
        wsl().to_windows(&bytes, b"/mnt/c/\xff", &NoFiles, Style::Windows),
        Err(TranslationError::NotText { .. })
    ));
}

#[test]
fn drives_are_where_they_are_mounted() {
    let text = WSL
        .replace("/mnt/c ", "/c ")
        .replace("/mnt/d ", "/drives/D ");
    let machine = Machine::new(
        MountTable::parse(text.as_bytes()),
        WslConf::parse("[automount]\nroot = /"),
        None,
    );
    assert_eq!(to_linux(&machine, r"C:\x").unwrap(), "/c/x");
    assert_eq!(to_linux(&machine, "/mnt/c/x").unwrap(), "/c/x");
    assert_eq!(to_windows(&machine, "/drives/D/x").unwrap(), r"D:\x");
    assert_eq!(machine.drive('D').unwrap(), Path::new("/drives/D"));
    let drives = machine.drives();
    assert_eq!(
        (&drives[&'d'], &drives[&'c'], &drives[&'x']),
        (&"/drives/D".into(), &"/c".into(), &"/x".into())
    );
    assert!(plain().drives().is_empty());
    // A folder that is there keeps its own meaning.
    struct Everything;
    impl Files for Everything {
        fn real(&self, path: &Path) -> Option<PathBuf> {
            Some(path.to_owned())
        }
        fn is_folder(&self, _: &Path) -> bool {
            false
        }
    }
    let names = machine
        .to_linux(&Spelling::read(b"/d/x").unwrap(), b"/d/x", &Everything)
        .unwrap();
    assert_eq!(names.to_linux(), b"/d/x");
}

#[test]
fn a_drive_that_is_covered_is_not_mounted() {
    let text = format!("{WSL}70 22 0:70 / /mnt rw - tmpfs t rw\n");
    let machine = Machine::new(
        MountTable::parse(text.as_bytes()),
        WslConf::default(),
        Some("D".to_owned()),
    );
    assert!(to_linux(&machine, r"C:\x").is_err());
    assert_eq!(
        to_windows(&machine, "/mnt/c/x").unwrap(),
        r"\\wsl.localhost\D\mnt\c\x"
    );
}

const SHARES: &str = r#"
[guest.dev]
[guest.box]
[share.d]
path = 'D:\'
guests = ["dev"]
[share.src]
path = "/home/ann/src"
at = "/src"
exclude = ["node_modules", "!vendor/node_modules"]
[share.lib]
path = "/home/ann/lib"
at = "/src/lib"
[share.deep]
path = "/home/ann/src/deep"
at = "/deep"
[share.win]
path = "/home/ann/win"
at = "/win"
names = "windows"
[share.photos]
path = "/data/photos"
case = "insensitive"
[share.own]
path = "/srv/own"
at = "/mnt/own"
mount = "/mnt/mounted"
"#;

fn config() -> &'static Config {
    static CONFIG: LazyLock<Config> = LazyLock::new(read_config);
    &CONFIG
}

fn read_config() -> Config {
    let surroundings = Surroundings {
        home: Some("/home/ann".into()),
        uid: 1000,
        gid: 1000,
        machine: None,
        drives: Default::default(),
    };
    Config::parse(SHARES, Path::new("config.toml"), &surroundings).unwrap()
}

fn ask(
    machine: &Machine,
    guest: Option<&str>,
    text: &[u8],
    way: Way,
) -> Result<Answer, TranslationError> {
    let config = config();
    let guest = guest.map(|name| GuestName::parse(name).unwrap());
    let base = Base {
        machine,
        files: &NoFiles,
        folder: Some(Path::new("/home/ann/src/app")),
    };
    let view = View::new(config, guest.as_ref());
    match way {
        Way::ToGuest => view.to_guest(text, base),
        Way::ToHost => view.to_host(text, base),
    }
}

#[derive(Clone, Copy)]
enum Way {
    ToGuest,
    ToHost,
}

fn shown(answer: Answer) -> String {
    let bytes = answer.relative.unwrap_or_else(|| answer.names.to_linux());
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_share_is_found_in_any_spelling() {
    let root = Machine::new(
        MountTable::parse(WSL.replace("/mnt/d ", "/d ").as_bytes()),
        WslConf::parse("[automount]\nroot=/"),
        None,
    );
    for machine in [&wsl(), &plain(), &root] {
        for text in [
            r"D:\x\y",
            "D:/x/y",
            "d:/x/y",
            "//d/x/y",
            "//D/x/y",
            "/d/x/y",
            "/mnt/d/x/y",
            r"\\?\D:\x\y",
            "/mnt/hgfs/d/x/y",
            "/host_mnt/d/x/y",
            "/run/desktop/mnt/host/d/x/y",
        ] {
            let answer = ask(machine, Some("dev"), text.as_bytes(), Way::ToGuest);
            assert_eq!(answer.map(shown).as_deref(), Ok("/mnt/d/x/y"), "{text}");
        }
    }
    let answer = ask(&wsl(), Some("dev"), br"\\wsl$\D\mnt\d\x", Way::ToGuest);
    assert_eq!(answer.map(shown).as_deref(), Ok("/mnt/d/x"));
}

#[test]
fn shares_at_other_places() {
    for (host, guest) in [
        ("/home/ann/src", "/src"),
        ("/home/ann/src/", "/src/"),
        ("/home/ann/src/a b/c", "/src/a b/c"),
        ("/home/ann/src/deep/x", "/deep/x"),
        ("/home/ann/lib/x", "/src/lib/x"),
        (
            "/home/ann/src/vendor/node_modules/x",
            "/src/vendor/node_modules/x",
        ),
        ("/home/ann/win/a\u{f03a}b", "/win/a:b"),
        ("/data/photos/X", "/data/photos/X"),
        ("app/x", "app/x"),
        ("x", "x"),
        ("../y/", "../y/"),
        (".", "."),
        ("../deep/x", "../../deep/x"),
        ("../../lib/x", "../lib/x"),
    ] {
        let answer = ask(&plain(), None, host.as_bytes(), Way::ToGuest);
        assert_eq!(answer.map(shown).as_deref(), Ok(guest), "{host}");
        let answer = ask(&plain(), None, guest.as_bytes(), Way::ToHost);
        assert_eq!(answer.map(shown).as_deref(), Ok(host), "{guest}");
    }
    for (text, guest) in [
        ("/data/PHOTOS/x", "/data/photos/x"),
        ("/mnt/mounted/x", "/mnt/own/x"),
        ("/mnt/own/x", "/mnt/own/x"),
        ("/mnt/hgfs/SRC/x", "/src/x"),
        ("/home/ann/x/../src/y", "/src/y"),
        (r"D:\..\x", "/mnt/d/x"),
        (r"a\b", "a/b"),
    ] {
        let answer = ask(&plain(), Some("dev"), text.as_bytes(), Way::ToGuest);
        assert_eq!(answer.map(shown).as_deref(), Ok(guest), "{text}");
    }
}

#[test]
fn what_no_share_shows_has_no_path_in_the_guest() {
    for (text, message, hint) in [
        (
            "/etc/passwd",
            "/etc/passwd is in no folder that is shared with guest \"box\"",
            "sharectl share add /etc",
        ),
        (
            "/home/ann/source",
            "in no folder",
            "sharectl share add /home/ann",
        ),
        (
            "/home/ann/src/../x y/z",
            "in no folder",
            "sharectl share add '/home/ann/x y'",
        ),
        ("../../../bob", "in no folder", "sharectl share add /home"),
        (r"E:\x\y", "in no folder", "sharectl share add /mnt/e/x"),
        (
            "/mnt/d/x",
            "in share \"d\", which guest \"box\" does not see",
            "add \"box\" to `guests` of [share.d]: sharectl config path names the file",
        ),
        (
            "/home/ann/src/a/node_modules/x",
            "hidden by `exclude` of share \"src\"",
            "take the pattern out, or write a !pattern behind it, in [share.src]",
        ),
        (
            "/src/node_modules",
            "hidden by `exclude`",
            "take the pattern out, or write a !pattern behind it, in [share.src]",
        ),
        (
            "/home/ann/src/lib/x",
            "would be /src/lib/x in the guest, where share \"lib\" is mounted",
            "sharectl describe lib, and change `at` of one",
        ),
        (
            "/home/ann/win/a:b",
            "has the name \"a:b\"",
            "rename the file on the host",
        ),
    ] {
        let error = ask(&plain(), Some("box"), text.as_bytes(), Way::ToGuest).unwrap_err();
        assert!(error.to_string().contains(message), "{text}: {error}");
        assert_eq!(error.hint(), hint, "{text}");
    }
}

#[test]
fn a_symbolic_link_into_a_share_is_followed_where_the_text_says_nothing() {
    struct Links;
    impl Files for Links {
        fn real(&self, path: &Path) -> Option<PathBuf> {
            let text = path.to_str().unwrap();
            Some(match text {
                // link -> /home/ann/src, up -> /home/ann/src/app; /data is itself a link to /disk.
                "/home/ann/src/up/../secret" => "/home/ann/src/secret".into(),
                _ if text.starts_with("/link") => format!("/home/ann/src{}", &text[5..]).into(),
                _ if text.starts_with("/home/ann/src/out/..") => "/elsewhere/x".into(),
                _ => text.replace("/data", "/disk").into(),
            })
        }
        fn is_folder(&self, _: &Path) -> bool {
            true
        }
    }
    let (config, machine) = (config(), plain());
    let base = Base {
        machine: &machine,
        files: &Links,
        folder: Some(Path::new("/link/app")),
    };
    let view = View::new(config, None);
    for (text, expected) in [
        ("/link/x", "/src/x"),
        ("x", "x"),
        ("/disk/photos/x", "/data/photos/x"),
        ("/home/ann/src/up/../secret", "/src/secret"),
    ] {
        let answer = view.to_guest(text.as_bytes(), base).map(shown);
        assert_eq!(answer.as_deref(), Ok(expected), "{text}");
    }
    let error = view.to_guest(b"/home/ann/src/out/../x", base).unwrap_err();
    assert_eq!(error.hint(), "sharectl share add /elsewhere/x");
}

#[test]
fn dockers_binds_lead_to_the_share() {
    let around = Surroundings {
        drives: wsl().drives(),
        home: None,
        uid: 0,
        gid: 0,
        machine: None,
    };
    let text = "[guest.dev]\n[share.c]\npath = 'C:\\'\n";
    let config = Config::parse(text, Path::new("c.toml"), &around).unwrap();
    let view = View::new(&config, None);
    for machine in [&wsl(), &plain()] {
        let base = Base {
            machine,
            files: &NoFiles,
            folder: Some(Path::new("/mnt/c/proj")),
        };
        let map = |path: &[u8]| {
            view.to_guest(path, base)
                .map(|answer| answer.names.to_linux())
        };
        for (word, expected) in [
            (r"C:\windows\system32:/c", "/mnt/c/windows/system32:/c"),
            ("C://windows/system32:/c", "/mnt/c/windows/system32:/c"),
            ("//C/windows/system32:/c", "/mnt/c/windows/system32:/c"),
            ("/C/windows/system32:/c", "/mnt/c/windows/system32:/c"),
            (
                "/host_mnt/c/windows/system32:/c",
                "/mnt/c/windows/system32:/c",
            ),
            (r"C:\Windows:/host:ro", "/mnt/c/Windows:/host:ro"),
            (r".\a:/b", "/mnt/c/proj/a:/b"),
            ("./a/../../b:/b", "/mnt/c/b:/b"),
        ] {
            let mapped = words::argument(Some(b"-v"), word.as_bytes(), &map)
                .unwrap()
                .unwrap();
            assert_eq!(String::from_utf8(mapped.0).unwrap(), expected, "{word}");
        }
        for word in [
            "/mnt/c/windows/system32:/c",
            "host:container:rw",
            "/c",
            "/var/run/docker.sock:/x",
        ] {
            assert_eq!(
                words::argument(Some(b"-v"), word.as_bytes(), &map),
                Ok(None),
                "{word}"
            );
        }
        let error = words::argument(Some(b"-v"), br"\\.\pipe\foo:/pipe", &map).unwrap_err();
        assert!(matches!(error, TranslationError::Device(_)));
        let error = words::argument(Some(b"-v"), br"D:\x:/x", &map).unwrap_err();
        assert_eq!(error.hint(), "sharectl share add /mnt/d");
    }
}

/// Names that are alike, longer, hidden, dangerous.
fn paths() -> impl Strategy<Value = String> {
    let start = prop_oneof![
        "(/home/ann/src|/home/ann/src/deep|/src|/src/lib|/data/photos|/mnt/own|/srv/own|/mnt/mounted|/deep)",
        Just(String::new()),
        "[cdxCD]:",
        "/[a-d]",
        "//[d]",
        r"\\\\(wsl\$|srv|\?)\\(D|pub|D:)",
        "/mnt/(hgfs/)?[cd]",
        Just("/home/ann/win".to_owned()),
    ];
    let names = proptest::collection::vec(
        prop_oneof![
            Just("..".to_owned()),
            Just(".".to_owned()),
            "[a-dA-D ]{1,3}",
            "node_modules|deep|lib|src",
            "[\u{f03a}\u{f02f}:\\\\é]{1,2}"
        ],
        0..6,
    );
    (start, names, "[/\\\\]?")
        .prop_map(|(start, names, end)| format!("{start}/{}{end}", names.join("/")))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_translated_or_refused(text in proptest::collection::vec(any::<u8>(), 0..40)) {
        for machine in [&wsl(), &plain()] {
            for way in [Way::ToGuest, Way::ToHost] {
                drop(ask(machine, None, &text, way));
            }
            if let Ok(spelling) = Spelling::read(&text) {
                drop(machine.to_linux(&spelling, &text, &NoFiles));
                drop(machine.to_windows(&spelling, &text, &NoFiles, Style::Windows));
            }
        }
    }

    #[test]
    fn nothing_outside_of_a_share_is_reached(text in paths()) {
        let config = config();
        for machine in [&wsl(), &plain()] {
            for (way, back) in [(Way::ToGuest, Way::ToHost), (Way::ToHost, Way::ToGuest)] {
                let Ok(answer) = ask(machine, Some("dev"), text.as_bytes(), way) else { continue };
                let share = &config.shares[&answer.share];
                let root = match way { Way::ToGuest => &share.at, Way::ToHost => &share.path };
                prop_assert!(!answer.names.has_parents());
                prop_assert!(answer.names.to_path().starts_with(root), "{text}: {answer:?}");
                // There and back is the same place, so no other share covers it.
                let there = answer.names.to_linux();
                let again = ask(machine, Some("dev"), &there, way).map(|answer| answer.names);
                prop_assert_eq!(again.as_ref(), Ok(&answer.names), "{}", text);
                let home = ask(machine, Some("dev"), &there, back).unwrap();
                let forth = ask(machine, Some("dev"), &home.names.to_linux(), way).unwrap();
                let place = ask(machine, Some("dev"), &forth.names.to_linux(), back).map(|answer| answer.names);
                prop_assert_eq!(place, Ok(home.names), "{}", text);
            }
        }
    }

    #[test]
    fn translating_twice_changes_nothing(text in paths()) {
        let machine = wsl();
        // A folder of this distribution called as a drive is by custom: said with its distribution it is the folder.
        prop_assume!(!text.starts_with(r"\\wsl"));
        if let Ok(once) = to_linux(&machine, &text) {
            prop_assert_eq!(to_linux(&machine, &once), Ok(once));
        }
        if let Ok(once) = to_windows(&machine, &text) {
            prop_assert_eq!(to_windows(&machine, &once), Ok(once.clone()));
            prop_assert!(!once.contains('/'));
        }
    }

    #[test]
    fn from_windows_to_linux_and_back(letter in "[cd]", names in proptest::collection::vec("[a-z:*?é.]{1,4}", 0..4)) {
        prop_assume!(!names.iter().any(|name| name == "." || name == ".." ));
        let linux = format!("/mnt/{letter}/{}", names.join("/"));
        let windows = to_windows(&wsl(), &linux).unwrap();
        prop_assert!(!windows[2..].contains([':', '*', '?']));
        prop_assert_eq!(to_linux(&wsl(), &windows), Ok(linux));
    }
}
