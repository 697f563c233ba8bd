//! How what happens on a connection looks in a terminal.

use std::fmt::Write;

use anstyle::{AnsiColor, Style};
use sockeye::{CloseFrame, MessageRef};

use crate::{
    clock,
    quantity::Whole,
    shown::{lines, one_line, visible},
};

const DIM: Style = Style::new().dimmed();
const DOWN: Style = AnsiColor::Green.on_default().bold();
const UP: Style = AnsiColor::Blue.on_default().bold();
const CLOSE: Style = AnsiColor::Yellow.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();

/// How many bytes of a text are shown, and of a binary message. Of one that this end sends, whose
/// sender knows it, a line is enough.
const TEXT_SHOWN: usize = 16 * 1024;
const BYTES_SHOWN: usize = 8 * BYTES_A_LINE;

/// How many bytes fill a line of 80 columns.
const BYTES_A_LINE: usize = 16;

/// Where the content of a line begins, in columns: what follows a line break begins there too.
const CONTENT: usize = 33;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Down,
    Up,
}

pub(super) fn message(direction: Direction, message: MessageRef<'_>) -> String {
    match message {
        MessageRef::Text(text) => {
            let shown = &text[..text.floor_char_boundary(TEXT_SHOWN)];
            let content = visible(shown, Some(&line_break())) + &rest(text.len() - shown.len());
            event(direction, "text", Some(text.len()), &content)
        }
        MessageRef::Binary(bytes) => {
            let most = match direction {
                Direction::Down => BYTES_SHOWN,
                Direction::Up => BYTES_A_LINE,
            };
            let shown = &bytes[..bytes.len().min(most)];
            let lines: Vec<_> = shown.chunks(BYTES_A_LINE).map(hex).collect();
            let content = lines.join(&line_break()) + &rest(bytes.len() - shown.len());
            event(direction, "binary", Some(bytes.len()), &content)
        }
    }
}

/// A ping or a pong; its payload is shown as text where it is some.
pub(super) fn control(direction: Direction, kind: &str, payload: &[u8], note: &str) -> String {
    let content = match std::str::from_utf8(payload) {
        Ok(text) if !text.contains(char::is_control) => visible(text, None),
        _ => hex(payload),
    };
    let note = match (note, content.as_str()) {
        ("", _) => String::new(),
        (note, "") => format!("{DIM}{note}{DIM:#}"),
        (note, _) => format!("  {DIM}{note}{DIM:#}"),
    };
    event(direction, kind, Some(payload.len()), &(content + &note))
}

pub(super) fn close(direction: Direction, frame: Option<&CloseFrame>) -> String {
    let content = match frame {
        None => "without a code".into(),
        Some(frame) => one_line(&frame.to_string()),
    };
    event(direction, "close", None, &content)
}

/// What this end has to say.
pub(super) fn note(text: &str) -> String {
    text.lines()
        .map(|line| format!("{DIM}{line}{DIM:#}\n"))
        .collect()
}

/// What went wrong at this end.
pub(super) fn problem(text: &str) -> String {
    format!("{BAD}{}{BAD:#}\n", one_line(text))
}

fn event(direction: Direction, kind: &str, size: Option<usize>, content: &str) -> String {
    let (arrow, style) = match direction {
        _ if kind == "close" => (direction.arrow(), CLOSE),
        Direction::Down => (direction.arrow(), DOWN),
        Direction::Up => (direction.arrow(), UP),
    };
    let now = clock::now_precisely();
    let size = size.map_or_else(String::new, |size| format!("{} B", Whole(size as u64)));
    format!(
        "{DIM}{now}{DIM:#} {style}{arrow} {kind:<6}{style:#} {DIM}{size:>9}{DIM:#}  {content}\n"
    )
}

impl Direction {
    fn arrow(self) -> char {
        match self {
            Self::Down => '↓',
            Self::Up => '↑',
        }
    }
}

/// Goes on under the content of the line before.
fn line_break() -> String {
    format!("\n{:CONTENT$}", "")
}

fn rest(bytes: usize) -> String {
    match bytes {
        0 => String::new(),
        more => format!(" {DIM}… {} B more{DIM:#}", Whole(more as u64)),
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 3);
    for (at, byte) in bytes.iter().enumerate() {
        let space = if at == 0 { "" } else { " " };
        // A string takes all that is written to it.
        let _ = write!(text, "{space}{byte:02x}");
    }
    text
}

/// Bytes from a peer as they come, made harmless: those that are no text are shown as escapes.
#[derive(Default)]
pub(super) struct Bytes {
    /// The beginning of a character whose end has not come.
    cut: Vec<u8>,
}

impl Bytes {
    pub(super) fn next(&mut self, bytes: &[u8]) -> String {
        self.cut.extend_from_slice(bytes);
        let bytes = std::mem::take(&mut self.cut);
        let last = bytes
            .utf8_chunks()
            .last()
            .map_or(&[][..], |it| it.invalid());
        let is_cut = std::str::from_utf8(last).is_err_and(|error| error.error_len().is_none());
        let (whole, cut) = bytes.split_at(bytes.len() - if is_cut { last.len() } else { 0 });
        self.cut.extend_from_slice(cut);
        escaped(whole)
    }

    /// What is left at the end.
    pub(super) fn rest(&mut self) -> String {
        escaped(&std::mem::take(&mut self.cut))
    }
}

fn escaped(bytes: &[u8]) -> String {
    let mut shown = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        shown += &lines(chunk.valid());
        for byte in chunk.invalid() {
            // A string takes all that is written to it.
            let _ = write!(shown, "\\x{byte:02x}");
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn what_would_control_the_terminal_is_escaped() {
        let shown = plain(&message(
            Direction::Down,
            MessageRef::Text("\x1b]0;title\x07".into()),
        ));
        assert!(!shown.contains('\x1b') && shown.contains("\\u{1b}]0;title\\u{7}"));
    }

    #[test]
    fn bytes_are_text_where_they_can_be() {
        let mut bytes = Bytes::default();
        let text = "Привет\n\x1b[2J";
        let shown: String = text.bytes().map(|byte| bytes.next(&[byte])).collect();
        assert_eq!(shown, "Привет\n\\u{1b}[2J");
        assert_eq!(bytes.next(b"\xffa\x00\xf0\x9f"), "\\xffa\\u{0}");
        assert_eq!(bytes.next(b"b\xd0"), "\\xf0\\x9fb");
        assert_eq!(bytes.rest() + &bytes.rest(), "\\xd0");
    }

    #[test]
    fn lines_of_a_message_stand_under_each_other() {
        let shown = plain(&message(
            Direction::Down,
            MessageRef::Text("one\ntwo".into()),
        ));
        let columns: Vec<_> = shown
            .lines()
            .map(|line| {
                let at = line.find("one").or(line.find("two")).unwrap();
                line[..at].chars().count()
            })
            .collect();
        assert_eq!(columns, [CONTENT, CONTENT]);
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let text = "ж".repeat(TEXT_SHOWN);
        let shown = plain(&message(
            Direction::Up,
            MessageRef::Text(text.as_str().into()),
        ));
        assert!(shown.ends_with("… 16,384 B more\n"), "{shown}");
        let shown = |direction| plain(&message(direction, MessageRef::Binary(&[0; 1000])));
        assert!(shown(Direction::Down).ends_with("00 … 872 B more\n"));
        assert_eq!(shown(Direction::Down).lines().count(), 8);
        assert!(shown(Direction::Up).ends_with("00 … 984 B more\n"));
        assert!(shown(Direction::Up).contains("1,000 B"));
    }

    #[test]
    fn control_payloads_are_text_where_they_can_be() {
        let shown = |payload| plain(&control(Direction::Down, "pong", payload, "took 1 ms"));
        assert!(shown(b"hello").ends_with("5 B  hello  took 1 ms\n"));
        assert!(shown(&[0, 255]).ends_with("2 B  00 ff  took 1 ms\n"));
        assert!(shown(b"").ends_with("0 B  took 1 ms\n"));
    }
}
