//! A repository's `sharectl.toml` from the folder to a running guest and back: nothing of it is in the user's own file.

use std::fs;
use std::time::Duration;

use tests::daemons::{Kind, World};
use tests::limit::wait_for;
use tests::{ensure, http, whole_system};

const CONFIG: &str = r#"
[network.vmnet8]
subnet = "192.168.130.0/24"

[guest.dev]
host-address = "127.64.0.1"

[hosts]
files = ["@hosts"]

# One share, so that the VM has the device that carries them all.
[share.d]
path = "@shared/d"
at = "/mnt/d"
"#;

const PROJECT: &str = r#"
ports = ["8080:80"]
names = ["shop.test"]

[share.shop]
path = "src"
at = "/mnt/shop"
"#;

const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_project_is_there_for_a_running_guest_until_it_is_taken_away() {
    whole_system(|| {
        let mut world = World::new(CONFIG)?;
        world.write(&world.path("hosts"), "127.0.0.1 localhost\n")?;
        world.share_folder("d")?;
        for folder in ["shop", "shop/src"] {
            fs::create_dir(world.path(folder))?;
            world.user().own(&world.path(folder))?;
        }
        world.write(&world.path("shop/sharectl.toml"), PROJECT)?;
        world.write(&world.path("shop/src/hello"), "from the shop")?;
        let before = fs::read(world.path("config.toml"))?;
        world.start_all()?;
        let guest = world.machine("dev", &[("d", "/mnt/d")])?.boot()?;
        let place = ([127, 64, 0, 1], 8080).into();
        ensure!(http::get(place, "/", SOON).is_err());

        let shop = world.path("shop").display().to_string();
        world
            .sharectl(&["up", "--project", &shop, "--yes"])?
            .success()?;
        let page = wait_for("the project's port", SOON, || {
            Ok(http::get(place, "/", SOON)
                .ok()
                .filter(|page| page.status == 200))
        })?;
        ensure!(page.body == "Hello from dev\n", "{page:?}");
        wait_for("the project's name", SOON, || {
            let hosts = fs::read_to_string(world.path("hosts"))?;
            Ok(hosts.contains("shop.test").then_some(()))
        })?;
        // A share that came while the guest runs is in the device that it has.
        let mounts = world.sharectl(&["guest", "mounts", "dev", "--as", "shell"])?;
        ensure!(mounts.stdout.contains("/mnt/shop"), "{mounts:?}");
        guest.ok(&mounts.stdout)?;
        ensure!(guest.ok("cat /mnt/shop/hello")? == "from the shop");
        guest.ok("echo new > /mnt/shop/written")?;
        ensure!(fs::read_to_string(world.path("shop/src/written"))? == "new\n");

        let gone = world.sharectl(&["down", "--project", &shop])?.success()?;
        ensure!(gone.contains("taken away: shop"), "{gone}");
        ensure!(fs::read(world.path("config.toml"))? == before);
        ensure!(!world.path("config.projects.d").exists());
        ensure!(guest.ok("cat /mnt/shop/hello").is_err());
        wait_for("the port's end", SOON, || {
            Ok(http::get(place, "/", SOON).is_err().then_some(()))
        })?;
        wait_for("the name's end", SOON, || {
            let hosts = fs::read_to_string(world.path("hosts"))?;
            Ok((!hosts.contains("shop.test")).then_some(()))
        })?;
        let problems = world.get(Kind::Sharefs, "/v1/status")?["problems"].to_string();
        ensure!(problems == "[]", "{problems}");
        Ok(())
    });
}
