//! Counters as Prometheus reads them: the text exposition format 0.0.4, for all daemons.
//!
//! A family is one name with one kind and one help text; its lines stand together, whatever the order in
//! which they were added.

use std::collections::BTreeMap;
use std::fmt::Write;

/// What a number does over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows while the daemon lives; its name gets the ending `_total`.
    Counter,
    /// It goes up and down.
    Gauge,
}

#[derive(Debug)]
struct Family {
    kind: Kind,
    help: String,
    lines: Vec<(String, u64)>,
}

/// A page being filled.
#[derive(Debug)]
pub struct Page {
    prefix: &'static str,
    families: BTreeMap<String, Family>,
}

impl Page {
    /// A page of a daemon, `netd` say: every name on it begins with `sharectl_netd_`. It has the program's
    /// version and the number of events already.
    #[must_use]
    pub fn new(daemon: &'static str, version: &str, events: u64) -> Self {
        let mut page = Self {
            prefix: daemon,
            families: BTreeMap::new(),
        };
        page.add(
            (
                Kind::Gauge,
                "build_info",
                "The program that answers; always 1.",
            ),
            &[("version", version)],
            1,
        );
        page.add(
            (Kind::Counter, "events", "Events told since the start."),
            &[],
            events,
        );
        page
    }

    /// A number. Kind and help of the first one of a family count.
    pub fn add(
        &mut self,
        (kind, name, help): (Kind, &str, &str),
        labels: &[(&str, &str)],
        value: u64,
    ) {
        let ending = match kind {
            Kind::Counter => "_total",
            Kind::Gauge => "",
        };
        let name = format!("sharectl_{}_{name}{ending}", self.prefix);
        let family = self.families.entry(name).or_insert_with(|| Family {
            kind,
            help: help.to_owned(),
            lines: Vec::new(),
        });
        family.lines.push((shown_labels(labels), value));
    }

    /// The text.
    #[must_use]
    pub fn finish(self) -> String {
        let mut text = String::new();
        for (name, family) in self.families {
            let kind = match family.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
            };
            let help = family.help.replace('\\', "\\\\").replace('\n', "\\n");
            // Writing to a String cannot fail.
            writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}").ok();
            for (labels, value) in family.lines {
                writeln!(text, "{name}{labels} {value}").ok();
            }
        }
        text
    }
}

fn shown_labels(labels: &[(&str, &str)]) -> String {
    if labels.is_empty() {
        return String::new();
    }
    let shown: Vec<String> = labels
        .iter()
        .map(|(name, value)| {
            let value = value
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            format!("{name}=\"{value}\"")
        })
        .collect();
    format!("{{{}}}", shown.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_family_stand_together_behind_its_help_and_type() {
        let mut page = Page::new("netd", "1.0", 7);
        let frames = (Kind::Counter, "frames", "Frames, \\ and\nmore.");
        page.add(frames, &[("guest", "a")], 1);
        page.add((Kind::Gauge, "links", "Links."), &[], 2);
        page.add(frames, &[("guest", "\"b\\\n"), ("link", "3")], 3);
        assert_eq!(
            page.finish(),
            "# HELP sharectl_netd_build_info The program that answers; always 1.\n\
             # TYPE sharectl_netd_build_info gauge\n\
             sharectl_netd_build_info{version=\"1.0\"} 1\n\
             # HELP sharectl_netd_events_total Events told since the start.\n\
             # TYPE sharectl_netd_events_total counter\n\
             sharectl_netd_events_total 7\n\
             # HELP sharectl_netd_frames_total Frames, \\\\ and\\nmore.\n\
             # TYPE sharectl_netd_frames_total counter\n\
             sharectl_netd_frames_total{guest=\"a\"} 1\n\
             sharectl_netd_frames_total{guest=\"\\\"b\\\\\\n\",link=\"3\"} 3\n\
             # HELP sharectl_netd_links Links.\n\
             # TYPE sharectl_netd_links gauge\n\
             sharectl_netd_links 2\n"
        );
    }
}
