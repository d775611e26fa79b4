//! Reads a chapter's text as the steps that a reader takes. Pure.

use std::fmt;

/// Something in a chapter that is not as it has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The line, counted from 1; 0 when it is about the whole file.
    pub line: usize,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

/// Where a command is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the reader's own shell.
    Host,
    /// As root in the guest.
    Guest,
}

impl Place {
    const ALL: [Self; 2] = [Self::Host, Self::Guest];

    /// What stands before a command.
    #[must_use]
    pub fn prompt(self) -> &'static str {
        match self {
            Self::Host => "$ ",
            Self::Guest => "guest# ",
        }
    }
}

/// A command and what its output has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Typed {
    /// Where.
    pub place: Place,
    /// All its lines.
    pub text: String,
    /// What is shown below it; empty when nothing is.
    pub expected: String,
    /// Its line in the chapter.
    pub line: usize,
}

/// The commands of one fence or comment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Commands {
    /// One after the other.
    pub typed: Vec<Typed>,
    /// Tried until they succeed.
    pub soon: bool,
    /// They must fail.
    pub fails: bool,
    /// The command is a VM, which goes on.
    pub vm: bool,
    /// The command draws on a terminal, until `q`.
    pub terminal: bool,
    /// In a comment.
    pub hidden: bool,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Type these.
    Run(Commands),
    /// Write a file.
    Write {
        /// Where; `~/` is the reader's home.
        path: String,
        /// What.
        text: String,
        /// Behind what is there.
        append: bool,
    },
    /// See this message.
    Message {
        /// As it is printed.
        text: String,
        /// Its line in the chapter.
        line: usize,
    },
    /// Not here.
    Elsewhere {
        /// `windows` or `kvm`.
        needs: &'static str,
    },
}

/// The steps of a chapter, and all that is wrong with its fences.
#[must_use]
pub fn chapter(text: &str) -> (Vec<Step>, Vec<Problem>) {
    let mut reader = Reader::default();
    let mut lines = (1..).zip(text.lines());
    while let Some((number, line)) = lines.next() {
        let (info, end) = if let Some(info) = line.strip_prefix("```") {
            (info, "```")
        } else if let Some(words) = line.strip_prefix("<!-- test") {
            (words, "-->")
        } else {
            continue;
        };
        let mut body = Vec::new();
        let mut closed = false;
        for (at, line) in lines.by_ref() {
            closed = line == end;
            if closed {
                break;
            }
            body.push((at, line));
        }
        let found = if !closed {
            Err(format!(
                "nothing closes this; write {end} on a line of its own"
            ))
        } else if end == "-->" {
            commands(info.split_whitespace(), None, &body).map(|found| {
                Step::Run(Commands {
                    hidden: true,
                    ..found
                })
            })
        } else {
            fence(info, &body)
        };
        reader.add(number, found);
    }
    (reader.steps, reader.problems)
}

#[derive(Default)]
struct Reader {
    steps: Vec<Step>,
    problems: Vec<Problem>,
}

impl Reader {
    fn add(&mut self, line: usize, found: Result<Step, String>) {
        match found {
            Ok(Step::Message { text, .. }) => self.steps.push(Step::Message { text, line }),
            Ok(step) => self.steps.push(step),
            Err(message) => self.problems.push(Problem { line, message }),
        }
    }
}

type Body<'a> = [(usize, &'a str)];

fn fence(info: &str, body: &Body<'_>) -> Result<Step, String> {
    let mut words = info.split_whitespace();
    let language = words.next().unwrap_or_default();
    let class = words.next().unwrap_or_default();
    let text = || body.iter().map(|(_, line)| format!("{line}\n")).collect();
    if let Some((how, path)) = class.split_once('=')
        && ["file", "append"].contains(&how)
    {
        return Ok(Step::Write {
            path: path.to_owned(),
            text: text(),
            append: how == "append",
        });
    }
    match (language, class) {
        ("console", "host") => commands(words, Some(Place::Host), body).map(Step::Run),
        ("console", "guest") => commands(words, Some(Place::Guest), body).map(Step::Run),
        ("text", "message") => Ok(Step::Message {
            text: text(),
            line: 0,
        }),
        (_, "windows") => Ok(Step::Elsewhere { needs: "windows" }),
        (_, "kvm") => Ok(Step::Elsewhere { needs: "kvm" }),
        _ => Err(format!(
            "`{info}` does not say how this is run: console host, console guest, LANGUAGE file=PATH, \
             LANGUAGE append=PATH, text message, LANGUAGE windows or LANGUAGE kvm"
        )),
    }
}

/// Commands with their prompts; of one place only, if one is given.
fn commands<'a>(
    words: impl Iterator<Item = &'a str>,
    only: Option<Place>,
    body: &Body<'_>,
) -> Result<Commands, String> {
    let mut found = Commands::default();
    for word in words {
        match word {
            "soon" => found.soon = true,
            "fails" => found.fails = true,
            "vm" => found.vm = true,
            "terminal" => found.terminal = true,
            _ => {
                return Err(format!("`{word}` is none of soon, fails, vm and terminal"));
            }
        }
    }
    for (number, line) in body {
        let prompted = Place::ALL
            .into_iter()
            .find_map(|place| Some((place, line.strip_prefix(place.prompt())?)));
        if let Some((place, text)) = prompted {
            if only.is_some_and(|only| only != place) {
                return Err(format!(
                    "line {number} has the prompt of another place; write a block for each"
                ));
            }
            found.typed.push(Typed {
                place,
                text: text.to_owned(),
                expected: String::new(),
                line: *number,
            });
            continue;
        }
        let Some(typed) = found.typed.last_mut() else {
            return Err(format!(
                "line {number} is before the first command, which begins with `$ ` or `guest# `"
            ));
        };
        if typed.expected.is_empty() && typed.text.ends_with('\\') {
            typed.text.push('\n');
            typed.text.push_str(line);
        } else {
            typed.expected.push_str(line);
            typed.expected.push('\n');
        }
    }
    if found.typed.is_empty() {
        return Err("there is no command in it".to_owned());
    }
    Ok(found)
}

/// Whether an output has what a chapter shows: its pieces between `…` in this order, white space aside.
pub(super) fn shows(output: &str, expected: &str) -> bool {
    let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let output = plain(output);
    let mut rest = output.as_str();
    for piece in expected.split('…') {
        let piece = plain(piece);
        let Some(at) = rest.find(&piece) else {
            return false;
        };
        rest = rest.get(at + piece.len()..).unwrap_or_default();
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(text: &str) -> String {
        let (_, problems) = chapter(text);
        problems.iter().map(Problem::to_string).collect()
    }

    #[test]
    fn commands_come_with_their_lines_and_what_is_shown_below() {
        let (steps, problems) = chapter(
            "# A\n```console host soon\n$ a \\\n  b\nout\n$ c\n```\n<!-- test\nguest# d\n-->\n",
        );
        assert_eq!(problems, []);
        let typed = |place, text: &str, expected: &str, line| Typed {
            place,
            text: text.to_owned(),
            expected: expected.to_owned(),
            line,
        };
        let shown = Commands {
            typed: vec![
                typed(Place::Host, "a \\\n  b", "out\n", 3),
                typed(Place::Host, "c", "", 6),
            ],
            soon: true,
            ..Commands::default()
        };
        let hidden = Commands {
            typed: vec![typed(Place::Guest, "d", "", 9)],
            hidden: true,
            ..Commands::default()
        };
        assert_eq!(steps, [Step::Run(shown), Step::Run(hidden)]);
    }

    #[test]
    fn a_fence_that_does_not_say_how_it_is_run_is_a_problem() {
        for (text, expected) in [
            ("```\nx\n```\n", "does not say how this is run"),
            ("```console\n$ x\n```\n", "does not say how this is run"),
            ("```console host later\n$ x\n```\n", "`later` is none of"),
            ("```console host\nx\n```\n", "before the first command"),
            ("```console host\n```\n", "no command"),
            ("```console host\nguest# x\n```\n", "another place"),
            ("```console host\n$ x\n", "nothing closes this"),
        ] {
            assert!(
                complaint(text).contains(expected),
                "{text}: {}",
                complaint(text)
            );
        }
    }

    #[test]
    fn an_output_is_compared_in_order_and_without_white_space() {
        assert!(shows(
            "NAME   STATE\ndev    up 3 s\n",
            "NAME STATE\ndev up …\n"
        ));
        assert!(!shows("b a", "a … b"));
        assert!(!shows("", "a"));
    }
}
