//! `cargo xtask`: the demo, every check and the benches, each runnable by hand.
//!
//! demo shows the main job on a throwaway guest; test is all that CI runs; tidy is its cheap part;
//! fuzz looks for inputs that break a parser; bench compares with other programs;
//! suites runs the tests that others wrote for file systems; dist makes the packages, book the book's pages. What guests and daemons are driven with is the `tests` crate.

mod bench;
mod book;
mod check;
mod demo;
mod dist;
mod fuzz;
mod interrupt;
mod suites;
mod tidy;
mod ui;

use std::process::ExitCode;

use clap::Parser;

/// Demo, checks and benches of sharectl
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, clap::Subcommand)]
enum Task {
    /// Boot a throwaway guest and show network, names, ports and shared folders at work
    Demo(demo::Arguments),
    /// Run every check: format, lints, tidy, unit tests, docs, whole-system tests
    Test(check::Arguments),
    /// Check the source's own rules (docs/architecture.md)
    Tidy,
    /// Look for bytes that break a parser, with libFuzzer
    Fuzz(fuzz::Arguments),
    /// Measure, beside other programs
    Bench(bench::Arguments),
    /// Run file system test suites in a guest: fsx and pjdfstest, on our shares and on virtiofsd's
    Suites(suites::Arguments),
    /// Make the Debian package and the tarball
    Dist(dist::Arguments),
    /// Make the pages of the book
    Book,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Demo(arguments) => demo::run(&arguments),
        Task::Test(arguments) => check::run(&arguments),
        Task::Tidy => tidy::run(),
        Task::Fuzz(arguments) => fuzz::run(&arguments),
        Task::Bench(arguments) => bench::run(&arguments).map(|()| ExitCode::SUCCESS),
        Task::Suites(arguments) => suites::run(&arguments),
        Task::Dist(arguments) => dist::run(&arguments).map(|()| ExitCode::SUCCESS),
        Task::Book => book::run().map(|()| ExitCode::SUCCESS),
    };
    tests::place::clear_staging();
    outcome.unwrap_or_else(|error| {
        ui::complain(&format!("{error:#}"));
        ExitCode::FAILURE
    })
}
