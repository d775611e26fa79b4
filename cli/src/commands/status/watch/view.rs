//! Which page is shown, from which line on; what the keys mean.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// The pages, in the order of their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    Overview,
    Flows,
    Ports,
    Shares,
    Events,
}

impl Page {
    pub(super) const ALL: [Self; 5] = [
        Self::Overview,
        Self::Flows,
        Self::Ports,
        Self::Shares,
        Self::Events,
    ];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Flows => "Flows",
            Self::Ports => "Ports",
            Self::Shares => "Shares",
            Self::Events => "Events",
        }
    }

    fn at_distance(self, steps: usize) -> Self {
        let at = Self::ALL.iter().position(|page| *page == self);
        Self::ALL[(at.unwrap_or(0) + steps) % Self::ALL.len()]
    }
}

/// What the user looks at.
#[derive(Debug)]
pub(super) struct View {
    pub(super) page: Page,
    /// Lines of the page's list above the first shown; the drawing bounds it.
    pub(super) scroll: usize,
    pub(super) paused: bool,
    /// Without colours.
    pub(super) plain: bool,
}

/// What a key leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Draw,
    End,
}

const PAGE_OF_LINES: usize = 10;

impl View {
    pub(super) fn new(plain: bool) -> Self {
        Self {
            page: Page::Overview,
            scroll: 0,
            paused: false,
            plain,
        }
    }

    pub(super) fn obey(&mut self, key: KeyEvent) -> Next {
        if key.kind == KeyEventKind::Release {
            return Next::Draw;
        }
        #[expect(clippy::wildcard_enum_match_arm, reason = "other keys mean nothing")]
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Next::End,
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                return Next::End;
            }
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char(digit @ '1'..='5') => {
                let page = usize::from(digit as u8 - b'1');
                self.show(Page::ALL[page]);
            }
            KeyCode::Tab | KeyCode::Right => self.show(self.page.at_distance(1)),
            KeyCode::BackTab | KeyCode::Left => {
                self.show(self.page.at_distance(Page::ALL.len() - 1));
            }
            KeyCode::Down | KeyCode::Char('j') => self.scroll += 1,
            KeyCode::Up | KeyCode::Char('k') => self.scroll = self.scroll.saturating_sub(1),
            KeyCode::PageDown => self.scroll += PAGE_OF_LINES,
            KeyCode::PageUp => self.scroll = self.scroll.saturating_sub(PAGE_OF_LINES),
            KeyCode::Home => self.scroll = 0,
            KeyCode::End => self.scroll = usize::MAX,
            _ => {}
        }
        Next::Draw
    }

    fn show(&mut self, page: Page) {
        if page != self.page {
            self.page = page;
            self.scroll = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(view: &mut View, code: KeyCode) -> Next {
        view.obey(KeyEvent::new(code, KeyModifiers::NONE))
    }

    #[test]
    fn keys_choose_pages_move_and_end() {
        let mut view = View::new(true);
        for (code, page) in [
            (KeyCode::Char('3'), Page::Ports),
            (KeyCode::Tab, Page::Shares),
            (KeyCode::Right, Page::Events),
            (KeyCode::Right, Page::Overview),
            (KeyCode::BackTab, Page::Events),
            (KeyCode::Left, Page::Shares),
            (KeyCode::Char('5'), Page::Events),
            (KeyCode::Char('4'), Page::Shares),
        ] {
            assert_eq!(press(&mut view, code), Next::Draw);
            assert_eq!(view.page, page, "{code:?}");
        }
        press(&mut view, KeyCode::Up);
        assert_eq!(view.scroll, 0);
        press(&mut view, KeyCode::PageDown);
        press(&mut view, KeyCode::Down);
        assert_eq!(view.scroll, PAGE_OF_LINES + 1);
        press(&mut view, KeyCode::Char('1'));
        assert_eq!(view.scroll, 0, "each page begins at its top");
        press(&mut view, KeyCode::Char('p'));
        assert!(view.paused);
        assert_eq!(press(&mut view, KeyCode::Char('q')), Next::End);
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(view.obey(interrupt), Next::End);
        assert_eq!(press(&mut view, KeyCode::Char('c')), Next::Draw);
    }
}
