//! A peer's text as it is said back or logged.

use core::fmt::{self, Write as _};

/// What a peer has sent, for a log, an error or an answer: on one line, at most its first 200 characters, and
/// "..." where there are more. What a terminal would obey, or what would turn the order of letters around
/// (Unicode Standard Annex #9), is an escape: `\n`, `\u{1b}`.
///
/// ```
/// use sockeye_proto::Shown;
///
/// assert_eq!(Shown("it's\n\u{1b}[2J").to_string(), r"it's\n\u{1b}[2J");
/// assert_eq!(format!("{:?}", Shown(r#"a "b""#)), r#""a \"b\"""#);
/// ```
///
/// `{:?}` sets it between quotes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Shown<'a>(pub &'a str);

impl Shown<'_> {
    fn write(self, f: &mut fmt::Formatter<'_>, is_special: fn(char) -> bool) -> fmt::Result {
        const MOST: usize = 200;
        let (shown, more) = match self.0.char_indices().nth(MOST) {
            Some((end, _)) => (&self.0[..end], "..."),
            None => (self.0, ""),
        };
        for char in shown.chars() {
            if char.is_control() || turns(char) || is_special(char) {
                write!(f, "{}", char.escape_debug())?;
            } else {
                f.write_char(char)?;
            }
        }
        f.write_str(more)
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, |_| false)
    }
}

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        self.write(f, |char| matches!(char, '"' | '\\'))?;
        f.write_char('"')
    }
}

/// Whether a character turns around the order of those beside it, or begins a line of its own.
fn turns(char: char) -> bool {
    matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use alloc::{format, string::ToString};

    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_an_escape() {
        let text = "a\r\n\x1b[2J\u{9b}\u{202e}b\u{2028}\0";
        let shown = Shown(text).to_string();
        assert_eq!(shown, r"a\r\n\u{1b}[2J\u{9b}\u{202e}b\u{2028}\0");
    }

    #[test]
    fn letters_of_every_script_are_themselves() {
        let text = "it's \"ж\" \\ สวัสดี e\u{301}";
        assert_eq!(Shown(text).to_string(), text);
    }

    #[test]
    fn the_beginning_of_a_long_text_is_cut_between_characters() {
        let text = "ж".repeat(201);
        assert_eq!(Shown(&text).to_string(), "ж".repeat(200) + "...");
        assert_eq!(
            format!("{:?}", Shown(&text)),
            format!("\"{}...\"", "ж".repeat(200))
        );
        let text = "ж".repeat(200);
        assert_eq!(Shown(&text).to_string(), text);
    }
}
