//! What was seen as a page on the terminal. Pure: a frame, the history and the view in, cells out.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Paragraph, Row, Sparkline, Table};

use control::api::{FlowStatus, GuestAnswer, PortStatus};

use super::history::{History, Rates, label};
use super::sample::Sample;
use super::view::{Page, View};
use crate::commands::events;
use crate::output::{bytes, comma_list, printable, seconds};

mod shares;

/// Rows of the two graphs, with their frames.
const GRAPHS: u16 = 6;
/// Rows that the newest events have at least, with their frame.
const EVENTS: u16 = 4;
/// Rates in a guest's small graph.
const SMALL: u16 = 16;

pub(super) fn draw(frame: &mut Frame<'_>, view: &mut View, history: &History) {
    let paint = Paint { plain: view.plain };
    let [head, body] =
        Layout::vertical([Constraint::Length(2), Constraint::Min(0)]).areas(frame.area());
    let lines = vec![daemons(&paint, history), pages(&paint, view)];
    frame.render_widget(Paragraph::new(lines), head);
    let Some(sample) = &history.last else {
        frame.render_widget(Paragraph::new("asking the daemons ..."), body);
        return;
    };
    match view.page {
        Page::Overview => overview(frame, body, &paint, (history, sample)),
        Page::Flows => {
            let rows: Vec<_> = sample.flows.iter().map(flow).collect();
            list(frame, body, &paint, (&FLOWS, rows), &mut view.scroll);
        }
        Page::Ports => {
            let rows: Vec<_> = sample.report.ports.iter().flat_map(port).collect();
            list(frame, body, &paint, (&PORTS, rows), &mut view.scroll);
        }
        Page::Shares => {
            let shares = sample.report.shares.iter();
            let rows: Vec<_> = shares
                .flat_map(|share| shares::doors(history, share))
                .collect();
            list(
                frame,
                body,
                &paint,
                (&shares::DOORS, rows),
                &mut view.scroll,
            );
        }
        Page::Events => {
            let newest_first = event_lines(history);
            view.scroll = view.scroll.min(newest_first.len().saturating_sub(1));
            let shown: Vec<Line<'_>> = newest_first.into_iter().skip(view.scroll).collect();
            let block = Block::bordered().title("Events, the newest first");
            frame.render_widget(Paragraph::new(shown).block(block), body);
        }
    }
}

/// Colours, or none.
struct Paint {
    plain: bool,
}

impl Paint {
    fn colour(&self, colour: Color) -> Style {
        if self.plain {
            Style::new()
        } else {
            Style::new().fg(colour)
        }
    }

    fn head(&self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }
}

fn daemons(paint: &Paint, history: &History) -> Line<'static> {
    let mut spans = vec![Span::styled("sharectl", paint.head())];
    for daemon in history
        .last
        .iter()
        .flat_map(|sample| &sample.report.daemons)
    {
        let (mark, colour) = match &daemon.status {
            Some(_) => ("●", Color::Green),
            None => ("○", Color::Red),
        };
        spans.push(Span::raw("  "));
        spans.push(Span::styled(mark, paint.colour(colour)));
        let more = match &daemon.status {
            Some(status) => status.pid.to_string(),
            None => daemon.state.to_owned(),
        };
        spans.push(Span::raw(format!(" {} {more}", daemon.daemon)));
    }
    Line::from(spans)
}

fn pages(paint: &Paint, view: &View) -> Line<'static> {
    let mut spans = Vec::new();
    for (number, page) in (1..).zip(Page::ALL) {
        let style = if page == view.page {
            Style::new().add_modifier(Modifier::REVERSED)
        } else {
            Style::new()
        };
        spans.push(Span::styled(format!(" {number} {} ", page.title()), style));
    }
    let keys = if view.paused {
        "   paused: p goes on, q ends"
    } else {
        "   p pauses, q ends"
    };
    spans.push(Span::styled(keys, paint.colour(Color::Cyan)));
    Line::from(spans)
}

fn overview(
    frame: &mut Frame<'_>,
    body: Rect,
    paint: &Paint,
    (history, sample): (&History, &Sample),
) {
    let guests: Vec<_> = sample
        .report
        .guests
        .iter()
        .map(|guest| guest_row(history, sample, guest))
        .collect();
    let shares: Vec<_> = sample
        .report
        .shares
        .iter()
        .map(|share| shares::share(history, share))
        .collect();
    let problems: Vec<Line<'_>> = sample
        .report
        .problems
        .iter()
        .flat_map(|problem| {
            printable(problem)
                .lines()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .map(|line| Line::styled(line, paint.colour(Color::Red)))
        .collect();
    let mut left = body.height.saturating_sub(EVENTS);
    let mut take = |wanted: usize| {
        let height = left.min(u16::try_from(wanted).unwrap_or(u16::MAX));
        // A frame without a line in it says nothing.
        let height = if height < 3 { 0 } else { height };
        left -= height;
        Constraint::Length(height)
    };
    let framed = |rows: usize| if rows == 0 { 0 } else { rows + 2 };
    let problem_rows = take(framed(problems.len().min(6)));
    let guest_rows = take(framed(guests.len()) + usize::from(!guests.is_empty()));
    let share_rows = take(framed(shares.len()) + usize::from(!shares.is_empty()));
    let graph_rows = take(usize::from(GRAPHS));
    let areas: [Rect; 5] = Layout::vertical([
        graph_rows,
        guest_rows,
        share_rows,
        problem_rows,
        Constraint::Min(0),
    ])
    .areas(body);
    let halves: [Rect; 2] = Layout::horizontal([Constraint::Fill(1); 2]).areas(areas[0]);
    graph(
        frame,
        halves[0],
        ("to guests", history.to_guest.total()),
        paint.colour(Color::Green),
    );
    graph(
        frame,
        halves[1],
        ("from guests", history.from_guest.total()),
        paint.colour(Color::Blue),
    );
    table(
        frame,
        areas[1],
        paint,
        (guests_title(sample), &GUESTS, guests),
    );
    table(
        frame,
        areas[2],
        paint,
        ("Shares".to_owned(), &shares::SHARES, shares),
    );
    let block = Block::bordered().title("Problems");
    frame.render_widget(Paragraph::new(problems).block(block), areas[3]);
    let block = Block::bordered().title("Events, the newest first");
    frame.render_widget(Paragraph::new(event_lines(history)).block(block), areas[4]);
}

/// Which networks there are.
fn guests_title(sample: &Sample) -> String {
    let networks = sample
        .networks
        .iter()
        .map(|network| format!("{} {}", network.name, network.subnet));
    let networks: Vec<String> = networks.collect();
    if networks.is_empty() {
        "Guests".to_owned()
    } else {
        format!("Guests on {}", networks.join(", "))
    }
}

fn graph(frame: &mut Frame<'_>, area: Rect, (what, rates): (&str, &Rates), style: Style) {
    let now = rates.back().copied().unwrap_or(0);
    let peak = rates.iter().max().copied().unwrap_or(0);
    let title = format!("{what} {}/s, peak {}/s", bytes(now), bytes(peak));
    let width = usize::from(area.width.saturating_sub(2));
    let shown: Vec<u64> = rates
        .iter()
        .skip(rates.len().saturating_sub(width))
        .copied()
        .collect();
    let graph = Sparkline::default()
        .block(Block::bordered().title(title))
        .data(shown)
        .style(style);
    frame.render_widget(graph, area);
}

/// A column: its head and the least width that it is of use with.
type Column = (&'static str, u16);

const GUESTS: [Column; 8] = [
    ("GUEST", 10),
    ("NETWORK", 8),
    ("ADDRESS", 15),
    ("LINK", 10),
    ("TO/s", 8),
    ("FROM/s", 8),
    ("FILES/s", 7),
    ("", SMALL),
];

fn guest_row(history: &History, sample: &Sample, guest: &control::api::GuestStatus) -> Vec<String> {
    let name = label(guest);
    let now = |rates: Option<&Rates>| rates.and_then(Rates::back).copied().unwrap_or(0);
    let (to, from) = (
        history.to_guest.rates(&name),
        history.from_guest.rates(&name),
    );
    let requests = guest
        .name
        .as_ref()
        .map_or(0, |name| shares::operations_of(history, sample, name));
    vec![
        name.clone(),
        guest.network.to_string(),
        guest
            .address
            .map_or_else(|| "-".to_owned(), |address| address.to_string()),
        if guest.links.is_empty() {
            "unplugged".to_owned()
        } else {
            comma_list(guest.links.iter().map(|link| &link.transport))
        },
        bytes(now(to)),
        bytes(now(from)),
        requests.to_string(),
        small_graph(to, from),
    ]
}

/// The last rates of both ways together, as high as the highest of them.
fn small_graph(to: Option<&Rates>, from: Option<&Rates>) -> String {
    let (Some(to), Some(from)) = (to, from) else {
        return String::new();
    };
    bars(to.iter().zip(from).map(|(a, b)| a + b))
}

/// The last of these rates, as high as the highest of them.
fn bars(rates: impl Iterator<Item = u64>) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let rates: Vec<u64> = rates.collect();
    let shown = &rates[rates.len().saturating_sub(usize::from(SMALL))..];
    let highest = shown.iter().max().copied().unwrap_or(0).max(1);
    let bar = |rate: &u64| {
        let step = u128::from(*rate) * (BARS.len() as u128 - 1) / u128::from(highest);
        BARS[usize::try_from(step).unwrap_or(0)]
    };
    shown.iter().map(bar).collect()
}

const FLOWS: [Column; 9] = [
    ("PROTO", 5),
    ("DIR", 3),
    ("GUEST", 10),
    ("FROM", 21),
    ("REMOTE", 21),
    ("NAME", 20),
    ("STATE", 12),
    ("SENT", 8),
    ("RECEIVED", 8),
];

fn flow(flow: &FlowStatus) -> Vec<String> {
    let dash = || "-".to_owned();
    vec![
        flow.protocol.clone(),
        if flow.outbound { "out" } else { "in" }.to_owned(),
        flow.guest_name
            .as_ref()
            .map_or_else(dash, ToString::to_string),
        flow.guest.to_string(),
        if flow.remote.ip().is_unspecified() {
            "*".to_owned()
        } else {
            flow.remote.to_string()
        },
        flow.name.clone().unwrap_or_else(dash),
        format!("{} {}", flow.state, seconds(flow.age)),
        bytes(flow.bytes_from_guest),
        bytes(flow.bytes_to_guest),
    ]
}

const PORTS: [Column; 4] = [("GUEST", 10), ("PORT", 22), ("LISTENS", 30), ("STATE", 30)];

fn port(port: &PortStatus) -> Vec<Vec<String>> {
    let row = |state: String| {
        vec![
            port.guest.to_string(),
            port.spec.to_string(),
            comma_list(&port.listening),
            state,
        ]
    };
    let mut rows: Vec<_> = port
        .leads
        .iter()
        .map(|lead| row(format!("port {} {}", lead.guest, answer(lead.answers))))
        .collect();
    rows.extend(port.problems.iter().map(|problem| row(problem.clone())));
    if rows.is_empty() {
        rows.push(row("not published".to_owned()));
    }
    rows
}

fn answer(answer: GuestAnswer) -> &'static str {
    match answer {
        GuestAnswer::Serves => "serves",
        GuestAnswer::Refuses => "refuses: nobody listens in the guest",
        GuestAnswer::Silent => "is silent: a firewall in the guest?",
        GuestAnswer::Absent => "is of a guest that is not here",
        GuestAnswer::Unknown => "is open as far as is known",
    }
}

fn event_lines(history: &History) -> Vec<Line<'static>> {
    let newest_first = history.events.iter().rev();
    newest_first
        .filter_map(|(daemon, event)| events::as_text(*daemon, event).ok())
        .map(Line::raw)
        .collect()
}

/// A table that fills the page and can be moved in.
fn list(
    frame: &mut Frame<'_>,
    area: Rect,
    paint: &Paint,
    (columns, rows): (&[Column], Vec<Vec<String>>),
    scroll: &mut usize,
) {
    *scroll = (*scroll).min(rows.len().saturating_sub(1));
    let title = format!("{} in all", rows.len());
    let shown = rows.into_iter().skip(*scroll).collect();
    table(frame, area, paint, (title, columns, shown));
}

fn table(
    frame: &mut Frame<'_>,
    area: Rect,
    paint: &Paint,
    (title, columns, rows): (String, &[Column], Vec<Vec<String>>),
) {
    let head = columns.iter().map(|(name, _)| Cell::from(*name));
    let widths = columns.iter().enumerate().map(|(index, (name, least))| {
        let longest = rows.iter().filter_map(|row| row.get(index));
        let longest = longest.map(|cell| cell.chars().count()).max().unwrap_or(0);
        let wanted = longest.max(name.len());
        Constraint::Max(
            u16::try_from(wanted)
                .unwrap_or(u16::MAX)
                .max(1)
                .min(least * 2),
        )
    });
    let widths: Vec<Constraint> = widths.collect();
    let rows = rows
        .into_iter()
        .map(|row| Row::new(row.into_iter().map(|cell| Cell::from(printable(&cell)))));
    let table = Table::new(rows, widths)
        .header(Row::new(head).style(paint.head()))
        .column_spacing(2)
        .block(Block::bordered().title(title));
    frame.render_widget(table, area);
}

#[cfg(test)]
mod tests;
