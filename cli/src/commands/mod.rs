//! One file a verb: its arguments with their help, and one function.

mod completions;
mod config;
mod describe;
mod doctor;
mod down;
mod events;
mod guest;
pub(crate) mod host;
mod init;
mod logs;
mod network;
mod port;
mod restart;
mod share;
mod status;
mod up;

use std::process::ExitCode;

use clap::Subcommand;

use crate::context::Context;
use crate::error::Outcome;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Init(init::Args),
    Up(up::Args),
    Down(down::Args),
    Restart(restart::Args),
    Status(status::Args),
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
    Describe(describe::Args),
    Events(events::Args),
    Logs(logs::Args),
    Doctor(doctor::Args),
    Completions(completions::Args),
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
            Self::Config(command) => command.run(context).map(done),
            Self::Network(command) => command.run(context),
            Self::Guest(command) => command.run(context).map(done),
            Self::Share(command) => command.run(context).map(done),
            Self::Port(command) => command.run(context).map(done),
            Self::Host(command) => command.run(context).map(done),
            Self::Describe(args) => describe::run(context, args).map(done),
            Self::Events(args) => events::run(context, args).map(done),
            Self::Logs(args) => logs::run(context, args).map(done),
            Self::Doctor(args) => doctor::run(context, args),
            Self::Completions(args) => completions::run(context, args).map(done),
        }
    }
}
