//! What is looked at, and what keys do to it.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use super::data::{Answer, By, Question, Window};
use super::keys::Key;
use super::record;
use crate::cli::status::{code_of, list};
use crate::cli::terminal::Terminal;

/// Requests by which a key for a page moves.
const PAGE: usize = 10;

/// The state of the screen.
#[derive(Debug)]
pub(super) struct View {
    pub question: Question,
    pub every: Duration,
    pub is_paused: bool,
    pub over: Over,
    /// The last answer, which stays while there is no newer one.
    pub answer: Option<Answer>,
    /// Why there was no answer when the daemon was asked last.
    pub trouble: Option<String>,
    /// The id of the request that the cursor is on; none if it stays on the newest one.
    chosen: Option<String>,
}

/// What is shown instead of the figures.
#[derive(Debug, PartialEq)]
pub(super) enum Over {
    Nothing,
    Help,
    /// A request, and the first of its lines that is shown.
    Record(Value, usize),
}

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    Draw,
    Ask,
    Suspend,
    End,
}

impl View {
    pub(super) fn new(question: Question, every: Duration) -> View {
        let over = Over::Nothing;
        View { question, every, is_paused: false, over, answer: None, trouble: None, chosen: None }
    }

    /// Keeps what the daemon said, or that it said nothing.
    pub(super) fn take(&mut self, answer: Result<Answer, String>) {
        match answer {
            Ok(answer) => {
                self.answer = Some(answer);
                self.trouble = None;
            }
            Err(sentence) => self.trouble = Some(sentence),
        }
    }

    /// As `status` ends.
    pub(super) fn code(&self) -> ExitCode {
        match (&self.trouble, &self.answer) {
            (None, Some(answer)) => code_of(&Ok(answer.status.clone())),
            _ => ExitCode::FAILURE,
        }
    }

    /// The newest requests, newest first.
    pub(super) fn requests(&self) -> &[Value] {
        let requests = self.answer.as_ref().and_then(|answer| answer.requests.as_ref().ok());
        requests.map_or(&[], |requests| list(&requests["requests"]))
    }

    /// Which of them the cursor is on.
    pub(super) fn cursor(&self) -> usize {
        let chosen = self.chosen.as_deref();
        let at = chosen.and_then(|id| self.requests().iter().position(|request| request["requestId"] == id));
        at.unwrap_or(0)
    }

    /// A key, in a terminal with so many rows.
    pub(super) fn press(&mut self, key: Key, terminal: &Terminal, rows: usize) -> Then {
        match key {
            Key::Letter('q') => return Then::End,
            Key::Suspend => return Then::Suspend,
            Key::Letter('p') => {
                self.is_paused = !self.is_paused;
                return if self.is_paused { Then::Draw } else { Then::Ask };
            }
            _ => {}
        }
        match &mut self.over {
            Over::Nothing => return self.press_on_figures(key),
            Over::Help => {
                if matches!(key, Key::Escape | Key::Enter | Key::Letter('?')) {
                    self.over = Over::Nothing;
                }
            }
            Over::Record(_, _) if matches!(key, Key::Escape | Key::Enter) => self.over = Over::Nothing,
            Over::Record(item, first) => {
                let most = record::lines(item, terminal).len().saturating_sub(record::room(rows));
                *first = moved(*first, key, most, record::room(rows));
            }
        }
        Then::Draw
    }

    fn press_on_figures(&mut self, key: Key) -> Then {
        let before = self.question;
        match key {
            Key::Letter('1') => self.question.window = Window::Quarter,
            Key::Letter('2') => self.question.window = Window::Hour,
            Key::Letter('3') => self.question.window = Window::Day,
            Key::Letter('4') => self.question.window = Window::Week,
            Key::Letter('m') => self.question.by = By::Model,
            Key::Letter('c') => self.question.by = By::Caller,
            Key::Letter('o') => self.question.by = By::Operation,
            Key::Letter('u') => self.question.by = By::Upstream,
            Key::Letter('e') => self.question.only_errors = !self.question.only_errors,
            Key::Letter('?') => self.over = Over::Help,
            Key::Enter => {
                if let Some(request) = self.requests().get(self.cursor()) {
                    self.over = Over::Record(request.clone(), 0);
                }
            }
            key => {
                let at = moved(self.cursor(), key, self.requests().len().saturating_sub(1), PAGE);
                let id = self.requests().get(at).and_then(|request| request["requestId"].as_str());
                self.chosen = id.filter(|_| at > 0).map(str::to_owned);
            }
        }
        if self.question == before { Then::Draw } else { Then::Ask }
    }
}

/// Where a key moves to, from 0 to `most`.
fn moved(at: usize, key: Key, most: usize, page: usize) -> usize {
    let to = match key {
        Key::Up | Key::Letter('k') => at.saturating_sub(1),
        Key::Down | Key::Letter('j') => at + 1,
        Key::PageUp => at.saturating_sub(page),
        Key::PageDown | Key::Letter(' ') => at + page,
        Key::Home => 0,
        Key::End => most,
        _ => at,
    };
    to.min(most)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;

    const TERMINAL: Terminal = Terminal { width: 80, colours: false };

    fn view(ids: &[&str]) -> View {
        let question = Question { window: Window::Hour, by: By::Model, only_errors: false };
        let mut view = View::new(question, Duration::from_secs(2));
        view.take(Ok(answer(ids)));
        view
    }

    fn answer(ids: &[&str]) -> Answer {
        let requests: Vec<Value> = ids.iter().map(|id| json!({ "requestId": id, "modelId": "m" })).collect();
        Answer {
            question: Question { window: Window::Hour, by: By::Model, only_errors: false },
            at: Timestamp::UNIX_EPOCH,
            status: json!({ "ready": true }),
            access: Value::Null,
            usage: Ok(json!({})),
            requests: Ok(json!({ "requests": requests })),
        }
    }

    fn press(view: &mut View, keys: &str) -> Vec<Then> {
        keys.chars().map(|one| view.press(Key::Letter(one), &TERMINAL, 24)).collect()
    }

    #[test]
    fn keys_choose_what_is_asked() {
        let mut view = view(&[]);
        assert_eq!(press(&mut view, "3ce"), [Then::Ask; 3]);
        assert_eq!(view.question, Question { window: Window::Day, by: By::Caller, only_errors: true });
        assert_eq!(press(&mut view, "3cx"), [Then::Draw; 3], "what is shown is not asked again");
        assert_eq!(press(&mut view, "1o4u2me"), [Then::Ask; 7]);
        assert_eq!(view.question, Question { window: Window::Hour, by: By::Model, only_errors: false });
        assert_eq!(press(&mut view, "p"), [Then::Draw]);
        assert!(view.is_paused);
        assert_eq!(press(&mut view, "p?3"), [Then::Ask, Then::Draw, Then::Draw], "help has the keys for itself");
        assert_eq!((&view.over, view.question.window), (&Over::Help, Window::Hour));
        assert_eq!(view.press(Key::Suspend, &TERMINAL, 24), Then::Suspend);
        assert_eq!(press(&mut view, "?q"), [Then::Draw, Then::End]);
        assert_eq!(view.over, Over::Nothing);
    }

    #[test]
    fn the_cursor_stays_on_its_request_while_newer_ones_come() {
        let mut view = view(&["c", "b", "a"]);
        view.take(Ok(answer(&["d", "c", "b", "a"])));
        assert_eq!(view.cursor(), 0, "nothing was chosen, so it is the newest");
        press(&mut view, "jj");
        assert_eq!(view.cursor(), 2);
        view.take(Ok(answer(&["e", "d", "c", "b", "a"])));
        assert_eq!(view.cursor(), 3);
        view.press(Key::Enter, &TERMINAL, 24);
        assert!(matches!(&view.over, Over::Record(item, 0) if item["requestId"] == "b"), "{:?}", view.over);
        view.press(Key::Escape, &TERMINAL, 24);
        press(&mut view, "jjjj");
        assert_eq!(view.cursor(), 4);
        press(&mut view, "kkkkkkk");
        view.take(Ok(answer(&["f", "e"])));
        assert_eq!(view.cursor(), 0);
        view.take(Ok(answer(&[])));
        view.press(Key::Enter, &TERMINAL, 24);
        assert_eq!((view.cursor(), &view.over), (0, &Over::Nothing), "there is nothing to open");
    }

    #[test]
    fn a_record_is_scrolled_as_far_as_it_goes() {
        let mut view = view(&["a"]);
        view.press(Key::Enter, &TERMINAL, 24);
        view.press(Key::End, &TERMINAL, 24);
        assert!(matches!(view.over, Over::Record(_, 0)), "it fits");
        view.press(Key::PageDown, &TERMINAL, 4);
        let Over::Record(item, first) = &view.over else { panic!() };
        assert_eq!(*first, record::lines(item, &TERMINAL).len() - record::room(4));
        press(&mut view, "k");
        view.press(Key::Home, &TERMINAL, 4);
        assert!(matches!(view.over, Over::Record(_, 0)));
    }

    #[test]
    fn an_answer_stays_while_there_is_no_newer_one() {
        let mut view = view(&["a"]);
        assert_eq!(view.code(), ExitCode::SUCCESS);
        view.take(Err("gone".to_owned()));
        assert_eq!((view.code(), view.requests().len()), (ExitCode::FAILURE, 1));
        view.take(Ok(answer(&["b"])));
        assert_eq!((view.code(), view.trouble.as_deref()), (ExitCode::SUCCESS, None));
    }
}
