//! `cargo xtask demo`: the main job on a throwaway guest, from nothing to a table of what works.
//!
//! Everything is real: the release programs, run by an ordinary user, `sharectl guest run`, QEMU, the
//! distribution's kernel. Nothing stays behind, and the host's own files are not touched unless
//! `--system-hosts` asks for it.

mod console;
mod scene;
mod show;
mod steps;

use std::process::ExitCode;

use anyhow::{Context, Result};
use tests::{guest, limit, packages, place, programs};

use crate::interrupt;
use crate::ui::{self, Style};
use scene::Scene;
use show::Show;

/// Arguments of `cargo xtask demo`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// Leave the guest running at the end, with its console on a terminal, until it powers off
    #[arg(long)]
    keep: bool,
    /// End after the table, also on a terminal
    #[arg(long, conflicts_with = "keep")]
    once: bool,
    /// Write the guest's names into the real /etc/hosts, and take them out again (needs root)
    #[arg(long)]
    system_hosts: bool,
}

/// Shows everything; failure when a step failed.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    place::sweep();
    prepare()?;
    interrupt::watch()?;
    let started = limit::now();
    let mut show = Show::default();
    ui::line(&format!("\n{}", ui::paint(Style::Bold, "On this host")));
    let mut scene = Scene::new(arguments.system_hosts)?;
    ui::line(&scene.introduction());
    let outcome = steps::play(&mut scene, &mut show);
    ui::line(&show.table(started.elapsed()));
    let go_on = outcome.is_ok() && !interrupt::seen();
    if go_on && (arguments.keep || (ui::is_terminal() && !arguments.once)) {
        stay(&mut scene)?;
    }
    let clean = scene.end().context("shut down");
    ui::line(&ui::paint(
        Style::Faint,
        "The guest and the daemons are stopped, and everything of theirs is removed.",
    ));
    outcome.and(clean).map(|()| {
        if interrupt::seen() {
            ExitCode::from(130)
        } else {
            show.verdict()
        }
    })
}

/// What takes long only the first time: packages, build, kernel.
fn prepare() -> Result<()> {
    let missing = packages::missing(packages::GUEST);
    if !missing.is_empty() {
        ui::line(&format!("Installing {} ...", missing.join(", ")));
        packages::install(&missing)?;
    }
    let begun = limit::now();
    match std::env::var(programs::VARIABLE) {
        Ok(folder) => ui::line(&format!("Taking the programs of {folder} ...")),
        Err(_) => ui::line("Building the programs (release) ..."),
    }
    programs::prepare("release")?;
    ui::line(&format!("  done in {}", ui::time(begun.elapsed())));
    ui::line("Getting a kernel for the guest (unpacked into target/, not installed) ...");
    let begun = limit::now();
    guest::image()?;
    let accelerator = guest::accel::chosen()?;
    ui::line(&format!(
        "  done in {}; QEMU runs it with -accel {}",
        ui::time(begun.elapsed()),
        accelerator.argument()
    ));
    Ok(())
}

/// The guest's console for a person; else until the guest's end.
fn stay(scene: &mut Scene) -> Result<()> {
    ui::line(&scene.hints());
    if ui::is_terminal() {
        console::attach(scene.guest()?)
    } else {
        scene.wait_for_guest()
    }
}
