//! Whether the host's side of a published TCP port takes connections: it does while the guest's own port does,
//! or while the guest will not say. Pure: the packet thread sends the questions (a SYN that is never completed),
//! opens and closes, and owns the clock. Why so: docs/decisions/0010-publish.md.

use std::time::{Duration, Instant};

use control::api::GuestAnswer;

/// Between two questions to a port that refused, at first: a service that starts is found this soon.
const QUICK: Duration = Duration::from_millis(100);
/// How long that lasts after a change; most services start within seconds of their guest.
const QUICK_TIME: Duration = Duration::from_secs(10);
/// Between two questions later.
const SLOW: Duration = Duration::from_secs(1);
/// Unanswered questions after which a guest counts as silent.
const QUESTIONS: u32 = 3;

/// One published port's answer and what is to be asked.
#[derive(Clone, Debug)]
pub struct Gate {
    answer: GuestAnswer,
    /// When to ask next; `None` = nothing is to be found out.
    due: Option<Instant>,
    /// Questions since the last answer.
    asked: u32,
    pause: Duration,
    quick_until: Option<Instant>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            answer: GuestAnswer::Absent,
            due: None,
            asked: 0,
            pause: QUICK,
            quick_until: None,
        }
    }
}

impl Gate {
    /// What is known.
    #[must_use]
    pub fn answer(&self) -> GuestAnswer {
        self.answer
    }

    /// Whether the host takes connections.
    #[must_use]
    pub fn is_open(&self) -> bool {
        match self.answer {
            GuestAnswer::Serves | GuestAnswer::Silent => true,
            GuestAnswer::Refuses | GuestAnswer::Absent | GuestAnswer::Unknown => false,
        }
    }

    /// When [`Gate::ask`] wants to be called.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.due
    }

    /// Something changed (the guest came, has another address, was seen again): ask at once.
    pub fn changed(&mut self, now: Instant) {
        if self.answer == GuestAnswer::Absent {
            self.answer = GuestAnswer::Unknown;
        }
        self.hurry(now);
        self.due = Some(now);
    }

    /// The guest's link is there, but nobody has its address yet.
    pub fn awaited(&mut self, now: Instant) {
        self.answer = GuestAnswer::Absent;
        self.hurry(now);
        self.due = Some(now);
    }

    /// The guest is gone.
    pub fn gone(&mut self) {
        *self = Self::default();
    }

    fn hurry(&mut self, now: Instant) {
        self.asked = 0;
        self.pause = QUICK;
        self.quick_until = Some(now + QUICK_TIME);
    }

    /// Sends no further question until something changes.
    pub fn rest(&mut self) {
        self.due = None;
    }

    /// Whether a question is to be sent now; it is taken as sent. The next comes no sooner than after `least`.
    pub fn ask(&mut self, now: Instant, least: Duration) -> bool {
        if self.due.is_none_or(|due| due > now) {
            return false;
        }
        if self.asked >= QUESTIONS {
            match self.answer {
                // The client waits for the truth, as it would at a firewall.
                GuestAnswer::Unknown => {
                    self.answer = GuestAnswer::Silent;
                    self.due = None;
                    return false;
                }
                // What was known stays; a client will find out.
                GuestAnswer::Serves | GuestAnswer::Silent => {
                    self.due = None;
                    return false;
                }
                GuestAnswer::Refuses | GuestAnswer::Absent => {}
            }
        }
        self.asked = self.asked.saturating_add(1);
        let quick = self.quick_until.is_some_and(|until| now < until);
        if !quick {
            self.pause = (self.pause * 5 / 4).min(SLOW);
        }
        self.due = Some(now + self.pause.max(least));
        true
    }

    /// The guest answered a question.
    pub fn answered(&mut self, serves: bool, now: Instant) {
        self.asked = 0;
        if serves {
            self.answer = GuestAnswer::Serves;
            self.due = None;
        } else {
            self.answer = GuestAnswer::Refuses;
            self.due.get_or_insert(now + self.pause);
        }
    }

    /// A client was let in and the guest turned it away: the service has ended.
    pub fn turned_away(&mut self, now: Instant) {
        if self.is_open() {
            self.hurry(now);
            self.answer = GuestAnswer::Refuses;
            self.due = Some(now + QUICK);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARE: Duration = Duration::from_millis(1);

    fn begin() -> (Gate, Instant) {
        #[expect(
            clippy::disallowed_methods,
            reason = "a virtual clock needs one real start"
        )]
        let now = Instant::now();
        (Gate::default(), now)
    }

    /// The questions sent in `time`, each answered by `reply` at once.
    fn run(gate: &mut Gate, from: Instant, time: Duration, reply: Option<bool>) -> usize {
        let mut questions = 0;
        while let Some(at) = gate.deadline().filter(|at| *at <= from + time) {
            if gate.ask(at, SHARE) {
                questions += 1;
                if let Some(serves) = reply {
                    gate.answered(serves, at);
                }
            }
        }
        questions
    }

    #[test]
    fn a_port_that_serves_is_asked_once_and_open() {
        let (mut gate, now) = begin();
        assert!(!gate.is_open() && gate.deadline().is_none());
        gate.changed(now);
        assert!(!gate.is_open());
        assert_eq!(run(&mut gate, now, SLOW * 60, Some(true)), 1);
        assert!(gate.is_open() && gate.deadline().is_none());
        gate.turned_away(now);
        assert_eq!(
            (gate.is_open(), gate.deadline()),
            (false, Some(now + QUICK))
        );
        gate.answered(true, now);
        gate.gone();
        assert_eq!(
            (gate.answer(), gate.deadline()),
            (GuestAnswer::Absent, None)
        );
    }

    #[test]
    fn a_port_that_refuses_is_asked_often_at_first_and_once_a_second_later() {
        let (mut gate, now) = begin();
        gate.changed(now);
        let first = run(&mut gate, now, QUICK_TIME, Some(false));
        assert!((99..=101).contains(&first), "{first}");
        assert!(!gate.is_open());
        let slow = now + QUICK_TIME * 2;
        run(&mut gate, now, QUICK_TIME * 2, Some(false));
        let later = run(&mut gate, slow, SLOW * 60, Some(false));
        assert!((59..=61).contains(&later), "{later}");
        gate.changed(slow + SLOW * 60);
        assert_eq!(gate.deadline(), Some(slow + SLOW * 60));
    }

    #[test]
    fn a_silent_guest_is_asked_thrice_and_left_to_its_clients() {
        let (mut gate, now) = begin();
        gate.changed(now);
        assert_eq!(run(&mut gate, now, SLOW * 60, None), 3);
        assert_eq!(
            (gate.answer(), gate.deadline()),
            (GuestAnswer::Silent, None)
        );
        assert!(gate.is_open());
        gate.turned_away(now);
        assert!(!gate.is_open());
    }

    #[test]
    fn a_serving_guest_that_falls_silent_keeps_its_port() {
        let (mut gate, now) = begin();
        gate.changed(now);
        gate.answered(true, now);
        gate.changed(now + SLOW);
        assert_eq!(run(&mut gate, now, SLOW * 60, None), 3);
        assert_eq!(gate.answer(), GuestAnswer::Serves);
    }

    #[test]
    fn a_guest_that_boots_is_called_until_it_is_there() {
        let (mut gate, now) = begin();
        gate.awaited(now);
        let calls = run(&mut gate, now, SLOW * 60, None);
        assert!((100..200).contains(&calls), "{calls}");
        assert_eq!(gate.answer(), GuestAnswer::Absent);
    }
}
