//! What holds for every verb, by walking the tree.

use std::collections::BTreeMap;

use super::*;

/// The verbs without the nouns, by their full names.
fn verbs() -> BTreeMap<String, Command> {
    fn collect(command: &Command, name: &str, found: &mut BTreeMap<String, Command>) {
        for inner in command.get_subcommands() {
            let name = format!("{name} {}", inner.get_name());
            if inner.has_subcommands() {
                collect(inner, &name, found);
            } else {
                found.insert(name.trim_start().to_owned(), inner.clone());
            }
        }
    }
    let mut found = BTreeMap::new();
    collect(&command(), "", &mut found);
    found
}

#[test]
fn every_verb_has_one_effect() {
    let verbs = verbs();
    for name in verbs.keys() {
        let times = EFFECTS.iter().filter(|(known, _)| known == name).count();
        assert_eq!(times, 1, "{name}: add it to EFFECTS");
    }
    for (name, _) in EFFECTS {
        assert!(verbs.contains_key(*name), "there is no verb {name}");
    }
}

#[test]
fn what_changes_something_has_a_dry_run_and_what_reads_has_none() {
    for (name, verb) in verbs() {
        let flags = verb.get_arguments();
        let has = flags
            .filter(|flag| flag.get_long() == Some("dry-run"))
            .count();
        match effect(&name) {
            Some(Effect::Changes | Effect::ChangesItsWay) => assert_eq!(has, 1, "{name}"),
            Some(Effect::Reads) => assert_eq!(has, 0, "{name}"),
            None => panic!("{name}: add it to EFFECTS"),
        }
    }
}

/// The lines below "Example:" that begin a command of ours, comments and other programs' parts taken off.
fn examples(verb: &Command) -> Vec<String> {
    let text = verb.get_after_help().map(ToString::to_string);
    let text = text.unwrap_or_default();
    let mut lines = text.lines().skip_while(|line| *line != "Example:").skip(1);
    let mut found = Vec::new();
    for line in &mut lines {
        let Some(line) = line.strip_prefix("  ") else {
            break;
        };
        found.push(line.to_owned());
    }
    found
}

/// What a shell would hand to `sharectl` in this line: each command of ours in it, as words.
fn commands(line: &str) -> Vec<Vec<String>> {
    let (mut found, mut words, mut word) = (Vec::new(), Vec::new(), String::new());
    let (mut quote, mut inside, mut letters) = (None, false, line.chars().peekable());
    let end = |words: &mut Vec<String>, word: &mut String, inside: &mut bool| {
        if std::mem::take(inside) {
            words.push(std::mem::take(word));
        }
    };
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (Some(open), close) if open == close => quote = None,
            (Some('"'), '$') if letters.peek() == Some(&'(') => quote = None,
            (Some(_), letter) => word.push(letter),
            (None, '\'' | '"') => (quote, inside) = (Some(letter), true),
            (None, '\\') => {
                word.extend(letters.next());
                inside = true;
            }
            (None, '#') if !inside => break,
            (None, '|' | '&' | ';' | '>' | '<' | '(' | ')') => {
                end(&mut words, &mut word, &mut inside);
                found.push(std::mem::take(&mut words));
            }
            (None, ' ') => end(&mut words, &mut word, &mut inside),
            (None, letter) => {
                word.push(letter);
                inside = true;
            }
        }
    }
    end(&mut words, &mut word, &mut inside);
    found.push(words);
    let ours = found.into_iter().filter_map(|words| {
        let first = words.iter().position(|word| word == "sharectl")?;
        // Another program's line, such as `man sharectl-guest-run`, is not ours.
        let plain = |word: &String| word == "sudo" || word.contains('=');
        let ours = words[..first].iter().all(plain);
        ours.then(|| words[first..].to_vec())
    });
    ours.collect()
}

#[test]
fn every_verb_has_examples_of_itself_that_are_understood() {
    for (name, verb) in verbs() {
        let examples = examples(&verb);
        assert!(!examples.is_empty(), "{name}: no \"Example:\" in its help");
        let mut of_itself = 0;
        for line in examples {
            for words in commands(&line) {
                let matches = command()
                    .try_get_matches_from(&words)
                    .unwrap_or_else(|error| panic!("{name}: {line}\n{error}"));
                let (mut typed, mut level) = (String::new(), &matches);
                while let Some((name, inner)) = level.subcommand() {
                    typed = format!("{typed} {name}");
                    level = inner;
                }
                of_itself += usize::from(typed.trim_start() == name);
            }
        }
        assert!(of_itself > 0, "{name}: none of its examples is of itself");
    }
}

#[test]
fn a_line_of_a_shell_is_taken_apart_as_the_shell_does() {
    for (line, expected) in [
        ("sharectl a 'b c' # d", vec![vec!["sharectl", "a", "b c"]]),
        (
            "sharectl a && sudo X=1 sharectl b | c",
            vec![vec!["sharectl", "a"], vec!["sharectl", "b"]],
        ),
        (
            "qemu $(sharectl guest args dev)",
            vec![vec!["sharectl", "guest", "args", "dev"]],
        ),
        (
            "edit \"$(sharectl config path)\"",
            vec![vec!["sharectl", "config", "path"]],
        ),
        (
            r"sharectl share add 'D:\' x\ y",
            vec![vec!["sharectl", "share", "add", r"D:\", "x y"]],
        ),
        ("man sharectl", vec![]),
    ] {
        assert_eq!(commands(line), expected, "{line}");
    }
}
