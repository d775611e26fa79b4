//! `cargo xtask fuzz`: looks for inputs that break a parser, with libFuzzer, on the stable toolchain.
//!
//! The targets stand in `netd/fuzz/targets`; `cargo xtask test` only replays their corpora. A corpus is a text
//! file, one input a line in hexadecimal; lines under a `#` sentence (past crashes) are kept for ever.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use ::tests::{command, packages, place};
use anyhow::{Context as _, Result, bail};

use crate::ui;

/// libFuzzer is C++.
const NEEDS: &[packages::Need] = &[packages::Need {
    program: "g++",
    package: "g++",
}];

/// Counters at each edge and compared values, by flags that the stable compiler takes.
const INSTRUMENT: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";

/// An instrumented build from nothing on a slow machine.
const BUILD_LIMIT: Duration = Duration::from_secs(1800);
/// Beyond what libFuzzer was told, for start and end.
const GRACE: Duration = Duration::from_secs(120);
/// Longer inputs are not kept: the replay is part of every test run.
const LONGEST_KEPT: usize = 1_024;
/// Inputs kept a target, shortest first.
const MOST_KEPT: usize = 256;

/// Arguments of `cargo xtask fuzz`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Targets, named as the files of netd/fuzz/corpus [default: all]
    targets: Vec<String>,
    /// How long to look, each target
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Write the inputs that reach new code back to the corpora
    #[arg(long)]
    save: bool,
}

/// Builds and runs; failure when an input broke something (it is in the corpus then).
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let known = targets()?;
    if let Some(unknown) = arguments.targets.iter().find(|name| !known.contains(name)) {
        bail!("no target {unknown:?}; there are: {}", known.join(", "));
    }
    packages::ensure(NEEDS)?;
    let program = build()?;
    let mut broken = Vec::new();
    for name in &known {
        if !arguments.targets.is_empty() && !arguments.targets.contains(name) {
            continue;
        }
        let mut hunt = Hunt::new(&program, name)?;
        let found = hunt.look(arguments.seconds)?;
        if arguments.save {
            hunt.shrink()?;
        }
        if let Some(input) = found {
            hunt.corpus.named.push((
                "# Broke the target once; say here how, and mend it.".to_owned(),
                input,
            ));
            broken.push(name.clone());
        }
        if arguments.save || broken.last() == Some(name) {
            hunt.corpus.write(&corpus_file(name))?;
        }
    }
    if broken.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    ui::complain(&format!(
        "broken: {}; the inputs are at the end of their corpora, and cargo test -p netd --test corpus \
         fails on them",
        broken.join(", ")
    ));
    Ok(ExitCode::FAILURE)
}

fn fuzz_folder() -> PathBuf {
    place::workspace().join("netd/fuzz")
}

fn corpus_file(target: &str) -> PathBuf {
    fuzz_folder().join(format!("corpus/{target}.hex"))
}

fn targets() -> Result<Vec<String>> {
    let folder = fuzz_folder().join("corpus");
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        names.extend(name.strip_suffix(".hex").map(str::to_owned));
    }
    Ok(names.into_iter().collect())
}

fn build() -> Result<PathBuf> {
    ui::line("building (instrumented)");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let target = place::target().join("fuzz");
    // With a target named, build scripts and macros stay as they are.
    let host = host()?;
    let mut line = Command::new(cargo);
    line.current_dir(fuzz_folder())
        .args(["build", "--quiet", "--release", "--locked", "--target"])
        .arg(&host)
        .arg("--target-dir")
        .arg(&target)
        .env("RUSTFLAGS", INSTRUMENT);
    command::run(&mut line, BUILD_LIMIT)?;
    Ok(target.join(host).join("release/fuzz"))
}

fn host() -> Result<String> {
    let text = command::run(Command::new("rustc").arg("-vV"), Duration::from_secs(60))?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc names no host")
}

/// One target being fuzzed, in a folder of its own.
struct Hunt<'a> {
    program: &'a Path,
    target: &'a str,
    folder: PathBuf,
    corpus: Corpus,
}

impl<'a> Hunt<'a> {
    fn new(program: &'a Path, target: &'a str) -> Result<Self> {
        let folder = place::staging()?.join("fuzz").join(target);
        fs::create_dir_all(folder.join("corpus"))?;
        fs::create_dir_all(folder.join("smallest"))?;
        let path = corpus_file(target);
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let corpus = Corpus::parse(&text).with_context(|| path.display().to_string())?;
        for (number, input) in corpus.all().enumerate() {
            fs::write(folder.join(format!("corpus/{number}")), input)?;
        }
        Ok(Self {
            program,
            target,
            folder,
            corpus,
        })
    }

    /// The input that broke the target, if one did.
    fn look(&self, seconds: u64) -> Result<Option<Vec<u8>>> {
        ui::line(&format!("── {} for {seconds} s", self.target));
        let mut line = self.command();
        line.args([
            &format!("-max_total_time={seconds}"),
            "-max_len=4096",
            "-timeout=10",
            "-rss_limit_mb=4096",
            "-verbosity=0",
            "-print_final_stats=1",
            "-artifact_prefix=./",
            "corpus",
        ]);
        let mut child = line
            .stdin(Stdio::null())
            .spawn()
            .context("start libFuzzer")?;
        match command::wait(&mut child, Duration::from_secs(seconds) + GRACE)? {
            Some(status) if status.success() => return Ok(None),
            Some(_failed) => {}
            None => {
                command::stop(&mut child, Duration::from_secs(5))?;
                bail!("{}: libFuzzer does not end", self.target);
            }
        }
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if ["crash-", "timeout-", "oom-", "leak-"]
                .iter()
                .any(|kind| name.starts_with(kind))
            {
                return Ok(Some(fs::read(entry.path())?));
            }
        }
        bail!("{}: libFuzzer failed without an input", self.target)
    }

    /// Leaves the fewest inputs that reach as much.
    fn shrink(&mut self) -> Result<()> {
        let mut line = self.command();
        line.args(["-merge=1", "-verbosity=0", "smallest", "corpus"]);
        command::output(&mut line, BUILD_LIMIT)?;
        let mut inputs = Vec::new();
        for entry in fs::read_dir(self.folder.join("smallest"))? {
            inputs.push(fs::read(entry?.path())?);
        }
        inputs.retain(|input| !input.is_empty() && input.len() <= LONGEST_KEPT);
        inputs.sort_by_key(|input| (input.len(), input.clone()));
        inputs.truncate(MOST_KEPT);
        self.corpus.inputs = inputs;
        Ok(())
    }

    fn command(&self) -> Command {
        let mut line = Command::new(self.program);
        line.current_dir(&self.folder)
            .env("FUZZ_TARGET", self.target);
        line
    }
}

/// A corpus file.
#[derive(Debug, Default, PartialEq, Eq)]
struct Corpus {
    /// Found by chance, replaced by smaller ones that do the same.
    inputs: Vec<Vec<u8>>,
    /// Each with the sentence above it.
    named: Vec<(String, Vec<u8>)>,
}

impl Corpus {
    fn parse(text: &str) -> Result<Self> {
        let mut corpus = Self::default();
        let mut sentence: Option<String> = None;
        for line in text.lines() {
            if line.starts_with('#') {
                sentence = Some(line.to_owned());
                continue;
            }
            let input = from_hex(line).with_context(|| format!("not hexadecimal: {line:?}"))?;
            match sentence.take() {
                Some(sentence) => corpus.named.push((sentence, input)),
                None => corpus.inputs.push(input),
            }
        }
        Ok(corpus)
    }

    fn all(&self) -> impl Iterator<Item = &[u8]> {
        let named = self.named.iter().map(|(_, input)| input);
        self.inputs.iter().chain(named).map(Vec::as_slice)
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for input in &self.inputs {
            text += &to_hex(input);
            text.push('\n');
        }
        for (sentence, input) in &self.named {
            text += &format!("{sentence}\n{}\n", to_hex(input));
        }
        text
    }

    fn write(&self, path: &Path) -> Result<()> {
        fs::write(path, self.text()).with_context(|| format!("write {}", path.display()))
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_corpus_keeps_named_inputs_apart_and_reads_back() {
        let text = "00ff\n\n# a sentence\nabcd\n";
        let corpus = Corpus::parse(text).unwrap();
        assert_eq!(corpus.inputs, [vec![0, 255], vec![]]);
        assert_eq!(corpus.named[0].1, [0xab, 0xcd]);
        assert_eq!(corpus.text(), text);
        assert!(Corpus::parse("0").is_err());
        assert!(Corpus::parse("zz").is_err());
    }
}
