//! The configuration's file edited behind the daemons' back: a good edit takes effect by itself, a wrong one changes
//! nothing and is told where people look, and a file that goes stops nothing.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use tests::daemons::{Kind, World};
use tests::limit::{retry, wait_for};
use tests::netns::Netns;
use tests::outside::{HOST, Outside, carries};
use tests::{Context, Result, ensure, whole_system};

const CONFIG: &str = r#"
[network.vmnet8]
subnet = "192.168.130.0/24"

[guest.dev]
publish = ["192.0.2.1:7000:7000"]

[hosts]
files = ["@hosts"]
"#;

const SOON: Duration = Duration::from_secs(10);

struct Stage {
    world: World,
    outside: Outside,
    guest: Netns,
}

impl Stage {
    fn new() -> Result<Self> {
        let outside = Outside::new()?;
        let mut world = World::new(CONFIG)?.inside(&outside.host);
        world.write(&world.path("hosts"), "")?;
        world.start_all()?;
        let guest = world.tap_guest("dev")?;
        Ok(Self {
            world,
            outside,
            guest,
        })
    }

    /// As editors save: a new file takes the old one's name.
    fn save(&self, text: &str) -> Result<()> {
        let fresh = self.world.path(".config.toml.swp");
        let here = self.world.path("");
        let here = here.to_str().context("a path in UTF-8")?;
        self.world
            .write(&fresh, text.replace("\"@", &format!("\"{here}")))?;
        Ok(fs::rename(fresh, self.world.path("config.toml"))?)
    }

    /// A connection from beyond the host to a server in the guest.
    fn reaches(&self, port: u16) -> Result<()> {
        let server = self
            .guest
            .within(|| Ok(TcpListener::bind(("0.0.0.0", port))?))?;
        let to: SocketAddr = (HOST, port).into();
        let client = retry("the published port", SOON, || {
            self.outside
                .server
                .within(|| Ok(TcpStream::connect_timeout(&to, SOON)?))
        })?;
        let (inner, _) = server.accept()?;
        carries(&client, &inner, b"hello")
    }

    fn problems(&self, kind: Kind) -> Result<String> {
        Ok(self.world.get(kind, "/v1/status")?["problems"].to_string())
    }

    /// Waits until every daemon's status says `what`, or does not.
    fn all_tell(&self, what: &str, told: bool) -> Result<()> {
        for kind in Kind::ALL {
            wait_for(&format!("{}: {what} {told}", kind.name()), SOON, || {
                Ok((self.problems(kind)?.contains(what) == told).then_some(()))
            })?;
        }
        Ok(())
    }
}

#[test]
fn a_saved_file_takes_effect_without_a_command_and_a_wrong_one_does_not() {
    whole_system(|| {
        let mut stage = Stage::new()?;
        stage.reaches(7000)?;
        stage.world.share_folder("src")?;

        let more = CONFIG.replace(
            "7000:7000\"]",
            "7000:7000\", \"192.0.2.1:7001:7001\"]\nnames = [\"shop.test\"]",
        ) + "\n[share.src]\npath = \"@shared/src\"\nat = \"/src\"\n";
        stage.save(&more)?;
        stage.reaches(7001)?;
        wait_for("the name in the hosts file", SOON, || {
            let hosts = fs::read_to_string(stage.world.path("hosts"))?;
            Ok(hosts.contains("shop.test").then_some(()))
        })?;
        wait_for("the share's device", SOON, || {
            let shares = stage.world.get(Kind::Sharefs, "/v1/shares")?;
            Ok((shares[0]["name"] == "src").then_some(()))
        })?;
        for kind in Kind::ALL {
            // Each follows the file by itself.
            wait_for(
                &format!("the change in {}'s log", kind.name()),
                SOON,
                || {
                    let log = stage.world.daemon(kind)?.log();
                    Ok(log.contains("+names = [\"shop.test\"]").then_some(()))
                },
            )?;
        }

        // The typo is on line 6; what it says besides is right, and must not be there either.
        let wrong = more.replace("publish = [", "publish = [\"192.0.2.1:7002:70000\", ");
        stage.save(&wrong)?;
        stage.all_tell("config.toml:6: ", true)?;
        stage.reaches(7001)?;
        let shown = stage.world.sharectl(&["status"])?;
        let shown = format!("{}{}", shown.stdout, shown.stderr);
        ensure!(shown.contains("running with the last good one"), "{shown}");
        ensure!(shown.contains("70000"), "{shown}");
        for kind in Kind::ALL {
            let log = stage.world.daemon(kind)?.log();
            let refused = log.lines().find(|line| line.contains("is refused"));
            let line = refused.with_context(|| format!("nothing is refused: {log}"))?;
            ensure!(line.contains("config.toml:6: "), "{line}");
        }

        stage.save(&more.replace("7001:7001", "7002:7002"))?;
        stage.all_tell("error", false)?;
        stage.reaches(7002)?;

        // Gone, as while a disk is away: what runs goes on, and the file is welcome when it is back.
        let kept = stage.world.path("away.toml");
        fs::rename(stage.world.path("config.toml"), &kept)?;
        stage.all_tell("is gone", true)?;
        stage.reaches(7002)?;
        fs::rename(&kept, stage.world.path("config.toml"))?;
        stage.all_tell("is gone", false)?;
        stage.reaches(7000)
    });
}
