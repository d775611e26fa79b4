//! The harness's own guest: boots, obeys, reboots, ends. Everything else leans on this.

use std::time::Duration;

use tests::guest::Machine;
use tests::{Result, ensure, whole_system};

#[test]
fn a_bare_guest_boots_obeys_and_powers_off() {
    whole_system(|| {
        let mut guest = Machine::new("bare").boot()?;
        println!("ready after {:?}", guest.age());
        obeys(&guest)?;
        let again = guest.reboot()?;
        println!("rebooted in {again:?}");
        obeys(&guest)?;
        guest.power_off()?;
        Ok(())
    });
}

fn obeys(guest: &tests::guest::Guest) -> Result<()> {
    let answer = guest.run("hostname; echo wrong >&2; exit 7")?;
    ensure!(answer.status == 7, "{answer:?}");
    ensure!(answer.stdout == "bare\n", "{answer:?}");
    ensure!(answer.stderr == "wrong\n", "{answer:?}");
    let slow = guest.run_within(Duration::from_secs(1), "echo begun; sleep 60")?;
    ensure!(slow.status == 137, "{slow:?}");
    ensure!(slow.stdout == "begun\n", "{slow:?}");
    Ok(())
}
