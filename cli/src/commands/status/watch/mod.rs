//! `sharectl status --watch`: the status on the whole terminal, again and again.
//!
//! One thread: a look at the daemons (`sample.rs`) goes on while keys are obeyed; what was seen becomes
//! rates (`history.rs`, pure), and a page of it is drawn (`draw.rs`, pure). The terminal is put back however
//! this ends: by a key, a signal, an error or a panic.

mod draw;
mod history;
mod sample;
mod view;

use std::io::{self, IsTerminal};
use std::time::Duration;

use control::signals::Orders;
use crossterm::event::{Event as Input, EventStream};
use futures_util::StreamExt;
use ratatui::DefaultTerminal;
use tokio::time::{Instant, MissedTickBehavior};

use self::history::History;
use self::sample::Sampler;
use self::view::{Next, View};
use super::Report;
use crate::context::Context;
use crate::error::{CliError, Outcome};
use crate::output::is_plain;

pub(super) fn run(context: &Context, interval: Duration) -> Outcome {
    if context.out.is_json() {
        return context.wait(print_lines(context, interval))?;
    }
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(CliError::usage(
            "--watch draws on a terminal, and this is none",
            "a line of JSON each time: sharectl status --watch --format json",
        ));
    }
    let mut terminal = ratatui::try_init()?;
    let ended = context.wait(watch(context, interval, &mut terminal));
    ratatui::try_restore()?;
    ended?
}

/// The status as a line, until whoever reads it goes.
async fn print_lines(context: &Context, interval: Duration) -> Outcome {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        context.out.json_line(&Report::gather(context).await)?;
    }
}

async fn watch(context: &Context, interval: Duration, terminal: &mut DefaultTerminal) -> Outcome {
    let mut screen = Screen {
        terminal,
        keys: EventStream::new(),
        orders: Orders::listen()?,
        view: View::new(is_plain()),
        history: History::default(),
    };
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sampler = Sampler::default();
    loop {
        if screen.until(async { ticks.tick().await }).await?.is_none() {
            return Ok(());
        }
        if screen.view.paused {
            continue;
        }
        let Some(sample) = screen.until(Box::pin(sampler.look(context))).await? else {
            return Ok(());
        };
        screen.history.add(sample, Instant::now());
    }
}

struct Screen<'t> {
    terminal: &'t mut DefaultTerminal,
    keys: EventStream,
    orders: Orders,
    view: View,
    history: History,
}

impl Screen<'_> {
    /// Waits for something and obeys keys meanwhile; none when the user has seen enough.
    async fn until<T>(&mut self, awaited: impl Future<Output = T>) -> Outcome<Option<T>> {
        tokio::pin!(awaited);
        loop {
            self.draw()?;
            tokio::select! {
                done = &mut awaited => return Ok(Some(done)),
                _order = self.orders.next() => return Ok(None),
                input = self.keys.next() => match input {
                    Some(Ok(Input::Key(key))) => {
                        if self.view.obey(key) == Next::End {
                            return Ok(None);
                        }
                    }
                    // A changed size is what the next drawing finds.
                    Some(Ok(
                        Input::Resize(..)
                        | Input::FocusGained
                        | Input::FocusLost
                        | Input::Mouse(_)
                        | Input::Paste(_)
                    )) => {}
                    Some(Err(error)) => return Err(error.into()),
                    // The terminal is gone.
                    None => return Ok(None),
                },
            }
        }
    }

    fn draw(&mut self) -> Outcome {
        let (view, history) = (&mut self.view, &self.history);
        self.terminal
            .draw(|frame| draw::draw(frame, view, history))?;
        Ok(())
    }
}
