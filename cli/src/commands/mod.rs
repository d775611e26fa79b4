//! One file a verb: its arguments with their help, and one function.

mod completions;
mod compose;
mod config;
mod describe;
mod doctor;
mod down;
mod events;
mod exec;
mod guest;
pub(crate) mod host;
mod import;
mod init;
mod logs;
mod man;
mod network;
pub(crate) mod path;
mod port;
mod ps;
mod restart;
mod schema;
mod service;
mod share;
mod shell_hook;
mod status;
mod uninstall;
mod up;
mod wait_ready;

use std::process::ExitCode;

use clap::Subcommand;

use crate::context::Context;
use crate::error::Outcome;

pub(crate) use events::any_next;
pub(crate) use logs::Line as LogLine;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Init(init::Args),
    Up(up::Args),
    Down(down::Args),
    Restart(restart::Args),
    Status(status::Args),
    Ps(ps::Args),
    WaitReady(wait_ready::Args),
    #[command(subcommand)]
    Config(config::Command),
    #[command(subcommand)]
    Network(network::Command),
    #[command(subcommand)]
    Guest(guest::Command),
    #[command(subcommand)]
    Share(share::Command),
    #[command(subcommand)]
    Port(port::Command),
    #[command(subcommand)]
    Host(host::Command),
    #[command(subcommand)]
    Path(path::Command),
    Exec(exec::Args),
    Compose(compose::Args),
    ShellHook(shell_hook::Args),
    #[command(subcommand)]
    Import(import::Command),
    Describe(describe::Args),
    Events(events::Args),
    Logs(logs::Args),
    Doctor(doctor::Args),
    #[command(subcommand)]
    Service(service::Command),
    Uninstall(uninstall::Args),
    Completions(completions::Args),
    Man(man::Args),
    Schema(schema::Args),
}

impl Command {
    pub(crate) fn run(self, context: &Context) -> Outcome<ExitCode> {
        let done = |()| ExitCode::SUCCESS;
        match self {
            Self::Init(args) => init::run(context, args).map(done),
            Self::Up(args) => up::run(context, args).map(done),
            Self::Down(args) => down::run(context, args).map(done),
            Self::Restart(args) => restart::run(context, args).map(done),
            Self::Status(args) => status::run(context, args),
            Self::Ps(args) => ps::run(context, args),
            Self::WaitReady(args) => wait_ready::run(context, args).map(done),
            Self::Config(command) => command.run(context).map(done),
            Self::Network(command) => command.run(context),
            Self::Guest(command) => command.run(context).map(done),
            Self::Share(command) => command.run(context).map(done),
            Self::Port(command) => command.run(context).map(done),
            Self::Host(command) => command.run(context).map(done),
            Self::Path(command) => command.run(context),
            Self::Exec(args) => exec::run(context, args).map(done),
            Self::Compose(args) => compose::run(context, args).map(done),
            Self::ShellHook(args) => shell_hook::run(context, args).map(done),
            Self::Import(command) => command.run(context).map(done),
            Self::Describe(args) => describe::run(context, args).map(done),
            Self::Events(args) => events::run(context, args).map(done),
            Self::Logs(args) => logs::run(context, args).map(done),
            Self::Doctor(args) => doctor::run(context, args),
            Self::Service(command) => command.run(context),
            Self::Uninstall(args) => uninstall::run(context, args),
            Self::Completions(args) => completions::run(context, args).map(done),
            Self::Man(args) => man::run(context, args).map(done),
            Self::Schema(args) => schema::run(context, args).map(done),
        }
    }
}
