//! Edits of every kind, and what the daemons are told of them.

use super::*;
use std::fs;

const LIMIT: Duration = Duration::from_secs(20);

struct Scene {
    folder: tempfile::TempDir,
    following: Arc<Following>,
}

impl Scene {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        fs::write(&path, text).unwrap();
        Self::at(folder, &path)
    }

    fn at(folder: tempfile::TempDir, path: &Path) -> Self {
        let config = Config::load(path).unwrap();
        Self {
            following: Following::new(Daemon::Netd, path, &config),
            folder,
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("config.toml")
    }

    /// As most editors: a new file takes the old one's name.
    fn put(&self, text: &str) {
        let fresh = self.folder.path().join(".config.toml.swp");
        fs::write(&fresh, text).unwrap();
        fs::rename(fresh, self.path()).unwrap();
    }
}

async fn told(changes: &mut mpsc::Receiver<()>) {
    tokio::time::timeout(LIMIT, changes.recv())
        .await
        .unwrap()
        .unwrap();
}

async fn quiet(changes: &mut mpsc::Receiver<()>) {
    let more = tokio::time::timeout(SETTLE * 3, changes.recv()).await;
    assert!(more.is_err(), "told of nothing");
}

#[tokio::test]
async fn every_way_of_editing_is_noticed_once() {
    let scene = Scene::new("[guest.a]\n");
    let mut changes = scene.following.changes();
    quiet(&mut changes).await;
    let path = scene.path();
    let mut expect = async |guest: &str| {
        told(&mut changes).await;
        let config = scene.following.read(Reason::Noticed).unwrap();
        assert!(
            config.guests.keys().any(|name| name.as_str() == guest),
            "{guest}"
        );
        quiet(&mut changes).await;
    };
    scene.put("[guest.b]\n");
    expect("b").await;
    fs::write(&path, "[guest.c]\n").unwrap();
    expect("c").await;
    // vim with backupcopy=no: the old file is moved away, a new one is made.
    fs::rename(&path, path.with_extension("toml~")).unwrap();
    fs::write(&path, "[guest.d]\n").unwrap();
    expect("d").await;
    // Dotfiles: the name becomes a symbolic link, and the file behind it changes.
    let real = scene.folder.path().join("dotfiles.toml");
    fs::write(&real, "[guest.e]\n").unwrap();
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&real, &path).unwrap();
    expect("e").await;
    fs::write(&real, "[guest.f]\n").unwrap();
    expect("f").await;
}

#[tokio::test]
async fn a_file_that_comes_late_is_noticed_and_one_that_goes_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("later/config.toml");
    let scene = Scene::at(folder, &path);
    let mut changes = scene.following.changes();
    fs::create_dir(path.parent().unwrap()).unwrap();
    fs::write(&path, "[guest.a]\n").unwrap();
    told(&mut changes).await;
    assert_eq!(
        scene.following.read(Reason::Noticed).unwrap().guests.len(),
        1
    );
    for (spoil, what) in [
        (
            Box::new(|| fs::remove_file(&path)) as Box<dyn Fn() -> std::io::Result<()>>,
            "is gone",
        ),
        (Box::new(|| fs::write(&path, "")), "is empty"),
    ] {
        spoil().unwrap();
        told(&mut changes).await;
        let failure = scene.following.read(Reason::Noticed).unwrap_err();
        assert!(failure.message.contains(what), "{failure}");
    }
    // Who asks for it gets it.
    assert_eq!(scene.following.read(Reason::Asked).unwrap().guests.len(), 0);
    assert_eq!(scene.following.problems(), [""; 0]);
}

#[test]
fn a_wrong_edit_is_a_problem_with_its_line_until_it_is_mended() {
    let scene = Scene::new("[guest.a]\n");
    scene.put("[guest.a]\nmac = \"no\"\n\n[guest.b]\nmac = \"no\"\n");
    scene.following.read(Reason::Noticed).unwrap_err();
    let [problem] = &scene.following.problems()[..] else {
        panic!("{:?}", scene.following.problems());
    };
    assert!(
        problem.starts_with("config.toml has an error since 20"),
        "{problem}"
    );
    assert!(problem.contains("config.toml:2: guest \"a\""), "{problem}");
    assert!(problem.contains("(and 1 more"), "{problem}");
    assert!(!problem.contains('\n'));
    scene.put("[guest.a]\n");
    scene.following.read(Reason::Noticed).unwrap();
    assert_eq!(scene.following.problems(), [""; 0]);
}

#[tokio::test]
async fn what_changed_before_it_was_followed_is_found_at_the_first_look() {
    let scene = Scene::new("[guest.a]\n");
    let config = Config::load(&scene.path()).unwrap();
    scene.put("[guest.b]\n");
    let following = Following::new(Daemon::Netd, &scene.path(), &config);
    assert!(following.differs().await);
    assert!(
        !scene
            .following
            .lock()
            .good
            .as_ref()
            .unwrap()
            .diff(&Texts::read(&scene.path()).unwrap(), &scene.path())
            .is_empty()
    );
}

#[test]
fn what_needs_a_restart_is_said_by_the_daemon_that_it_concerns() {
    let parse =
        |text: &str| Config::parse(text, Path::new("c"), &Surroundings::of_process()).unwrap();
    let old = parse("[guest.a]\n[network.vmnet8]\n");
    let new = parse(
        "[guest.a]\nlink = \"dgram\"\ndevices = \"each\"\n[network.vmnet8]\nmtu = 1400\n[share.s]\npath = \"/s\"\n",
    );
    let told = |daemon| not_live(daemon, &old, &new).join("\n");
    assert!(told(Daemon::Netd).contains("its link"));
    assert!(told(Daemon::Netd).contains("network vmnet8"));
    assert!(told(Daemon::Sharefs).contains("its first share"));
    assert!(told(Daemon::Sharefs).contains("its devices"));
    assert_eq!(told(Daemon::Hostsync), "");
    assert!(not_live(Daemon::Netd, &new, &new).is_empty());
}
