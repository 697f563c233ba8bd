//! Text from elsewhere as it is shown: it neither controls the terminal nor breaks a line that is to be one.

/// Text from a peer, made harmless: what would move the cursor, change colours or turn the order of
/// letters around is shown as an escape. Its line breaks become this one, where it may have any.
pub(crate) fn visible(text: &str, line_break: Option<&str>) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match (character, line_break) {
            ('\n', Some(line_break)) => shown.push_str(line_break),
            ('\t', Some(_)) => shown.push('\t'),
            ('\n', None) => shown.push_str("\\n"),
            ('\r', _) => shown.push_str("\\r"),
            ('\t', None) => shown.push_str("\\t"),
            (c, _) if c.is_control() || is_direction_control(c) => shown.extend(c.escape_unicode()),
            (c, _) => shown.push(c),
        }
    }
    shown
}

/// Characters that reorder the text around them (Unicode Standard Annex #9).
fn is_direction_control(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A text on one line, made harmless.
pub(crate) fn one_line(text: &str) -> String {
    visible(text.trim_end(), None)
}

/// A text with its own line breaks, made harmless.
pub(crate) fn lines(text: &str) -> String {
    visible(text, Some("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_control_the_terminal_is_escaped() {
        assert_eq!(one_line("a\x1b[2Jb\r\nc"), "a\\u{1b}[2Jb\\r\\nc");
        assert_eq!(one_line("\u{202e}abc\u{9b}"), "\\u{202e}abc\\u{9b}");
    }
}
