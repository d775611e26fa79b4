//! `cargo xtask dist`: the Debian package and the tarball, of the same tree.
//!
//! dpkg-deb alone makes the package: what must be decided is which file goes where, and that stands here in
//! one list. Manual pages, completions and units are what the program itself writes (`sharectl man`,
//! `completions`, `service units`), so they cannot differ from it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ::tests::programs::{self, Cargo};
use ::tests::{command, place};
use anyhow::{Context, Result, ensure};

use crate::ui;

const LIMIT: Duration = Duration::from_secs(120);
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Arguments of `cargo xtask dist`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A folder with the four programs, built already [default: they are built with the release profile]
    #[arg(long)]
    programs: Option<PathBuf>,
    /// Where package and tarball are written [default: target/dist]
    #[arg(long)]
    into: Option<PathBuf>,
}

/// Makes both.
///
/// # Errors
/// When the programs do not build, or a tool fails.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let programs = match &arguments.programs {
        Some(folder) => folder.clone(),
        None => programs::build("release", Cargo::Shown)?,
    };
    let into = arguments
        .into
        .clone()
        .unwrap_or_else(|| place::target().join("dist"));
    fs::create_dir_all(&into).with_context(|| format!("create {}", into.display()))?;
    let work = tempfile::Builder::new().prefix("dist-").tempdir_in(&into)?;
    let architecture = output(Command::new("dpkg").arg("--print-architecture"))?;

    let package = work.path().join("package");
    fill(
        &package.join("usr"),
        Path::new("/usr"),
        &programs,
        Shape::Debian,
    )?;
    let control = package.join("DEBIAN");
    fs::create_dir_all(&control)?;
    write(
        &control.join("control"),
        &control_file(&architecture, &package)?,
    )?;
    for (name, script) in [("postinst", POSTINST), ("postrm", POSTRM)] {
        write(&control.join(name), script)?;
        executable(&control.join(name))?;
    }
    let deb = into.join(format!("sharectl_{VERSION}_{architecture}.deb"));
    let mut build = Command::new("dpkg-deb");
    build
        .args(["--root-owner-group", "-Zzstd", "--build"])
        .arg(&package)
        .arg(&deb);
    tool(&mut build)?;

    let name = format!("sharectl-{VERSION}-linux-{architecture}");
    let tree = work.path().join(&name);
    fill(&tree, Path::new("/usr/local"), &programs, Shape::Tarball)?;
    let tarball = into.join(format!("{name}.tar.gz"));
    let mut pack = Command::new("tar");
    pack.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner"])
        .arg(format!("--mtime=@{}", epoch()))
        .arg("-C")
        .arg(work.path())
        .arg("-czf")
        .arg(&tarball)
        .arg(&name);
    tool(&mut pack)?;
    for file in [&deb, &tarball] {
        ui::line(&format!(
            "{} ({} kB)",
            file.display(),
            file.metadata()?.len() / 1000
        ));
    }
    Ok(())
}

/// Where the same files go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// Debian's folders, compressed as its policy wants.
    Debian,
    /// To be unpacked over /usr/local.
    Tarball,
}

/// Everything but the package's own files. `prefix` is where `tree` is going to be.
fn fill(tree: &Path, prefix: &Path, programs: &Path, shape: Shape) -> Result<()> {
    let bin = tree.join("bin");
    fs::create_dir_all(&bin)?;
    for (program, _) in programs::ALL {
        let to = bin.join(program);
        let mut strip = Command::new("strip");
        strip
            .arg("--strip-unneeded")
            .arg("-o")
            .arg(&to)
            .arg(programs.join(program));
        tool(&mut strip)?;
        executable(&to)?;
    }
    let sharectl = bin.join("sharectl");
    let say = |words: &[&str]| {
        let mut line = Command::new(&sharectl);
        // Nothing of who builds it.
        line.env_clear().args(words);
        line
    };

    let man = tree.join("share/man/man1");
    tool(say(&["man", "--into"]).arg(&man))?;
    for (program, _) in programs::ALL {
        if program != "sharectl" {
            let help = command::run(Command::new(bin.join(program)).arg("--help"), LIMIT)?;
            let page = tree.join(format!("share/man/man8/{program}.8"));
            write(&page, &manual(program, &help)?)?;
        }
    }
    let units = match shape {
        Shape::Debian => tree.join("lib/systemd/user"),
        Shape::Tarball => tree.join("share/sharectl/systemd/user"),
    };
    tool(
        say(&["service", "units", "--programs"])
            .arg(prefix.join("bin"))
            .arg("--into")
            .arg(&units),
    )?;
    for (shell, file) in [
        ("bash", "share/bash-completion/completions/sharectl"),
        (
            "zsh",
            if shape == Shape::Debian {
                "share/zsh/vendor-completions/_sharectl"
            } else {
                "share/zsh/site-functions/_sharectl"
            },
        ),
        ("fish", "share/fish/vendor_completions.d/sharectl.fish"),
        // PowerShell has no folder of its own for them: `. FILE` in $PROFILE.
        ("powershell", "share/sharectl/completions/sharectl.ps1"),
    ] {
        write(
            &tree.join(file),
            &command::run(&mut say(&["completions", shell]), LIMIT)?,
        )?;
    }

    let source = place::workspace();
    let doc = tree.join("share/doc/sharectl");
    for (from, to) in [
        ("README.md", "README.md"),
        ("docs/config.toml", "config.toml"),
        ("docs/architecture.md", "architecture.md"),
        ("LICENSE-MIT", "LICENSE-MIT"),
        ("LICENSE-APACHE", "LICENSE-APACHE"),
    ] {
        // Debian has this licence once for all packages.
        if shape == Shape::Tarball || !from.starts_with("LICENSE-APACHE") {
            write(&doc.join(to), &fs::read_to_string(source.join(from))?)?;
        }
    }
    if shape == Shape::Debian {
        write(&doc.join("copyright"), &copyright(&source)?)?;
        for folder in [man.as_path(), &tree.join("share/man/man8")] {
            for page in fs::read_dir(folder)? {
                tool(Command::new("gzip").arg("-9n").arg(page?.path()))?;
            }
        }
    }
    Ok(())
}

fn control_file(architecture: &str, package: &Path) -> Result<String> {
    // The library that they were linked with, or a newer one.
    let libc = output(Command::new("dpkg-query").args(["-W", "-f", "${Version}", "libc6"]))?;
    let libc = libc.split('-').next().unwrap_or_default();
    let size = output(
        Command::new("du")
            .args(["-sk", "--apparent-size"])
            .arg(package.join("usr")),
    )?;
    let size = size
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .to_owned();
    Ok(format!(
        "Package: sharectl\n\
         Version: {VERSION}\n\
         Architecture: {architecture}\n\
         Maintainer: {}\n\
         Installed-Size: {size}\n\
         Depends: libc6 (>= {libc}), libgcc-s1\n\
         Recommends: fuse3\n\
         Suggests: qemu-system-x86, systemd\n\
         Section: admin\n\
         Priority: optional\n\
         Description: network, host folders and names for virtual machines\n \
         The host side of a developer's virtual machine, without root: networks with\n \
         DHCP, DNS and published ports, host folders over virtiofs and 9P, and the\n \
         guests' names in the hosts file. To have it from login on, each user runs:\n \
         sharectl service install\n",
        maintainer(&|name| std::env::var(name).ok())
    ))
}

/// Who answers for the package: by the variables that Debian's own tools take it from (debchange(1)).
fn maintainer(variable: &dyn Fn(&str) -> Option<String>) -> String {
    let name = variable("DEBFULLNAME").unwrap_or_else(|| "The sharectl developers".to_owned());
    let address = variable("DEBEMAIL").unwrap_or_else(|| "sharectl@localhost".to_owned());
    format!("{name} <{address}>")
}

/// A manual page of a daemon (man(7)): what its --help says.
fn manual(program: &str, help: &str) -> Result<String> {
    let (about, rest) = help.split_once('\n').context("no help")?;
    let (more, rest) = rest.split_once("Usage: ").context("a help without usage")?;
    let (usage, options) = rest.split_once('\n').context("a usage without an end")?;
    let roff = |text: &str| -> String {
        let lines = text.trim().lines().map(|line| {
            let line = line.replace('\\', "\\e").replace('-', "\\-");
            let guard = if line.starts_with(['.', '\'']) {
                "\\&"
            } else {
                ""
            };
            format!("{guard}{line}\n")
        });
        lines.collect()
    };
    Ok(format!(
        ".TH {} 8 \"\" \"sharectl {VERSION}\"\n.SH NAME\n{} \\- {}.SH SYNOPSIS\n.B {}.SH DESCRIPTION\n{}{}.SH OPTIONS\n.nf\n{}.fi\n.SH SEE ALSO\nsharectl(1)\n",
        program.to_uppercase().replace('-', "\\-"),
        roff(program).trim_end(),
        roff(about.trim_end_matches('.')),
        roff(usage),
        roff(about),
        roff(more),
        roff(options),
    ))
}

/// Root's hosts writer is a copy that `sharectl host writer install` made; where there is one, it follows.
const POSTINST: &str = "#!/bin/sh\n\
set -e\n\
writer=/usr/local/libexec/sharectl/sharectl-hosts-writer\n\
if [ \"$1\" = configure ] && [ -e $writer ] && [ -d /run/systemd/system ]; then\n\
    sharectl host writer install || echo \"the old hosts writer goes on: sudo sharectl host writer install\" >&2\n\
fi\n";

/// What root's own daemons leave behind; each user's is theirs (`sharectl uninstall`).
const POSTRM: &str = "#!/bin/sh\n\
set -e\n\
if [ \"$1\" = purge ]; then\n\
    rm -f /etc/sharectl/config.toml /etc/sharectl/config.toml.bak\n\
    rm -rf /var/lib/sharectl/leases /var/lib/sharectl/logs /var/lib/sharectl/hosts\n\
    for folder in /etc/sharectl /var/lib/sharectl; do\n\
        if [ -d \"$folder\" ]; then rmdir --ignore-fail-on-non-empty \"$folder\"; fi\n\
    done\n\
fi\n";

fn copyright(source: &Path) -> Result<String> {
    let mit = fs::read_to_string(source.join("LICENSE-MIT"))?;
    let indented: String = mit
        .lines()
        .map(|line| {
            if line.trim().is_empty() {
                " .\n".to_owned()
            } else {
                format!(" {line}\n")
            }
        })
        .collect();
    Ok(format!(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\
         Upstream-Name: sharectl\n\
         \n\
         Files: *\n\
         Copyright: the authors of sharectl\n\
         License: Apache-2.0 or MIT\n\
         \n\
         License: Apache-2.0\n \
         On Debian systems the text is in /usr/share/common-licenses/Apache-2.0.\n\
         \n\
         License: MIT\n{indented}"
    ))
}

/// When the source was last changed: the same source gives the same files.
fn epoch() -> String {
    let mut git = Command::new("git");
    git.current_dir(place::workspace())
        .args(["log", "-1", "--format=%ct"]);
    let given = std::env::var("SOURCE_DATE_EPOCH").ok();
    given
        .or_else(|| output(&mut git).ok())
        .unwrap_or_else(|| "0".to_owned())
}

fn write(file: &Path, text: &str) -> Result<()> {
    let folder = file.parent().context("a file without a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    fs::write(file, text).with_context(|| format!("write {}", file.display()))
}

fn executable(file: &Path) -> Result<()> {
    fs::set_permissions(file, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("make {} executable", file.display()))
}

fn tool(line: &mut Command) -> Result<()> {
    command::run(line.env("SOURCE_DATE_EPOCH", epoch()), LIMIT).map(drop)
}

/// What it says, without the last line end.
fn output(line: &mut Command) -> Result<String> {
    let text = command::run(line, LIMIT)?;
    let said = text.trim_end();
    ensure!(!said.is_empty(), "{} says nothing", command::shown(line));
    Ok(said.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_maintainer_is_who_says_so() {
        assert!(maintainer(&|_| None).starts_with("The sharectl developers <"));
        let said = |name: &str| Some(format!("{}@x", name.to_lowercase()));
        assert_eq!(maintainer(&said), "debfullname@x <debemail@x>");
    }

    #[test]
    fn a_help_is_a_manual_page() {
        let help =
            "Does it\n\nMore of it.\n\nUsage: x-y [OPTIONS]\n\nOptions:\n  --a <B>  a\\b\n.c\n";
        let page = manual("x-y", help).unwrap();
        assert_eq!(
            page,
            format!(
                ".TH X\\-Y 8 \"\" \"sharectl {VERSION}\"\n.SH NAME\nx\\-y \\- Does it\n.SH SYNOPSIS\n.B x\\-y [OPTIONS]\n\
                 .SH DESCRIPTION\nDoes it\nMore of it.\n.SH OPTIONS\n.nf\nOptions:\n  \\-\\-a <B>  a\\eb\n\\&.c\n.fi\n\
                 .SH SEE ALSO\nsharectl(1)\n"
            )
        );
        assert!(manual("x", "nothing").is_err());
    }
}
