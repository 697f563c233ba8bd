//! What a typed line asks for.

use std::path::PathBuf;

use rustyline::completion::unescape;
use sockeye::{CloseCode, CloseFrame, proto::OpCode};

/// What can be typed, and what it does.
pub(super) const COMMANDS: [(&str, &str, &str); 8] = [
    (
        "/ping",
        "[TEXT]",
        "send a ping; its pong shows the time it took",
    ),
    ("/pong", "[TEXT]", "send a pong that nobody asked for"),
    ("/text", "[TEXT]", "send text as it is, even none"),
    ("/binary", "HEX", "send bytes, such as 00 ff 1a"),
    ("/file", "PATH", "send a file as a binary message"),
    (
        "/close",
        "[CODE [REASON]]",
        "close the connection, with 1000 unless you say otherwise",
    ),
    ("/help", "", "show this"),
    (
        "/quit",
        "",
        "close with 1000 and leave, as Ctrl-C and Ctrl-D do",
    ),
];

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    Nothing,
    Text(String),
    Binary(Vec<u8>),
    File(PathBuf),
    /// Without a text, one is made up.
    Ping(Option<String>),
    Pong(String),
    Close(CloseFrame),
    Help,
}

/// Reads a line.
///
/// # Errors
/// What is wrong with a command, for the user.
pub(super) fn parse(line: &str) -> Result<Action, String> {
    if let Some(text) = line.strip_prefix('/').filter(|rest| rest.starts_with('/')) {
        return Ok(Action::Text(text.into()));
    }
    if !line.starts_with('/') {
        return Ok(match line {
            "" => Action::Nothing,
            text => Action::Text(text.into()),
        });
    }
    let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let words = rest.trim();
    Ok(match name {
        "/ping" if words.is_empty() => Action::Ping(None),
        "/ping" => Action::Ping(Some(control(words)?)),
        "/pong" => Action::Pong(control(words)?),
        "/text" => Action::Text(rest.into()),
        "/binary" => Action::Binary(bytes(words)?),
        "/file" => Action::File(path(words)?),
        "/close" => Action::Close(close(words)?),
        "/quit" => Action::Close(close("")?),
        "/help" => Action::Help,
        other => {
            return Err(format!(
                "{other} is no command: /help lists them. To send it as text, begin with //"
            ));
        }
    })
}

/// All that can be typed, for the screen.
pub(super) fn help() -> String {
    let mut text = String::from("A line is sent as a text message. Commands:\n");
    for (name, arguments, does) in COMMANDS {
        text += &format!("  {:<23} {does}\n", format!("{name} {arguments}"));
    }
    text + "  //…                     send text that begins with one slash\n\
            Keys: arrows and Ctrl-R go through the history, Tab completes commands and paths.\n\
            A line that begins with a space is sent, and not kept in the history.\n\
            While the connection is closing, Ctrl-C leaves at once.\n\
            With --reconnect, a line that is typed while there is no connection is sent when there is one."
}

fn control(text: &str) -> Result<String, String> {
    if text.len() > OpCode::MAX_CONTROL {
        return Err(format!(
            "a ping or pong carries at most {} bytes, and this has {}",
            OpCode::MAX_CONTROL,
            text.len()
        ));
    }
    Ok(text.into())
}

fn bytes(hex: &str) -> Result<Vec<u8>, String> {
    let digits: Vec<u32> = hex
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_digit(16))
        .collect::<Option<_>>()
        .ok_or("/binary needs hexadecimal digits, such as 00 ff 1a")?;
    if !digits.len().is_multiple_of(2) {
        return Err(format!(
            "/binary needs two digits a byte, and this has {}",
            digits.len()
        ));
    }
    #[allow(clippy::cast_possible_truncation, reason = "two hexadecimal digits")]
    Ok(digits.chunks(2).map(|d| (d[0] << 4 | d[1]) as u8).collect())
}

/// A path as it is typed: `~/` is the home directory. As completion writes it, in quotes or with a backslash before what
/// means something to a shell.
fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("/file needs the path of a file".into());
    }
    if std::path::Path::new(text).exists() {
        return Ok(text.into());
    }
    let quoted = ['"', '\''].iter().find_map(|quote| {
        let text = text.strip_prefix(*quote)?;
        Some((*quote, text.strip_suffix(*quote).unwrap_or(text)))
    });
    let text = match quoted {
        Some(('\'', text)) => text.into(),
        Some((_, text)) => unescape(text, Some('\\')),
        None => unescape(text, Some('\\')),
    };
    Ok(match (text.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => text.as_ref().into(),
    })
}

fn close(words: &str) -> Result<CloseFrame, String> {
    let (code, reason) = words.split_once(char::is_whitespace).unwrap_or((words, ""));
    let code = match code {
        "" => CloseCode::NORMAL,
        code => {
            let number = code.parse::<u16>().map_err(|_| {
                format!("{code} is no close code: a number is needed, such as 1000")
            })?;
            CloseCode::new(number).map_err(|error| error.to_string())?
        }
    };
    let frame = CloseFrame::new(code, reason.trim());
    frame.check(true).map_err(|error| error.to_string())?;
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_text_unless_it_begins_with_a_slash() {
        assert_eq!(parse("hello "), Ok(Action::Text("hello ".into())));
        assert_eq!(parse(" /ping"), Ok(Action::Text(" /ping".into())));
        assert_eq!(parse("//ping"), Ok(Action::Text("/ping".into())));
        assert_eq!(parse("///"), Ok(Action::Text("//".into())));
        assert_eq!(parse(""), Ok(Action::Nothing));
        assert_eq!(parse("/text"), Ok(Action::Text(String::new())));
        assert_eq!(parse("/text  a"), Ok(Action::Text(" a".into())));
    }

    #[test]
    fn pings_and_pongs_carry_what_a_control_frame_can() {
        assert_eq!(parse("/ping"), Ok(Action::Ping(None)));
        assert_eq!(parse("/ping a b"), Ok(Action::Ping(Some("a b".into()))));
        assert_eq!(parse("/pong"), Ok(Action::Pong(String::new())));
        assert!(parse(&format!("/ping {}", "p".repeat(125))).is_ok());
        assert!(parse(&format!("/ping {}", "p".repeat(126))).is_err());
    }

    #[test]
    fn binary_is_read_as_hexadecimal() {
        assert_eq!(
            parse("/binary 00 fF1a"),
            Ok(Action::Binary(vec![0, 255, 26]))
        );
        assert_eq!(parse("/binary"), Ok(Action::Binary(vec![])));
        assert!(parse("/binary 0").is_err());
        assert!(parse("/binary 0x").is_err());
    }

    #[test]
    fn close_has_a_code_and_a_reason_or_not() {
        let frame = |line| match parse(line) {
            Ok(Action::Close(frame)) => (frame.code.as_u16(), frame.reason),
            other => panic!("{other:?}"),
        };
        assert_eq!(frame("/close"), (1000, String::new()));
        assert_eq!(frame("/close 4000"), (4000, String::new()));
        assert_eq!(frame("/close 3000 so long"), (3000, "so long".into()));
        assert_eq!(frame("/quit"), (1000, String::new()));
        assert!(parse("/close 1005").unwrap_err().contains("local use"));
        assert!(parse("/close soon").unwrap_err().contains("number"));
        assert!(parse(&format!("/close 1000 {}", "r".repeat(124))).is_err());
    }

    #[test]
    fn an_unknown_command_is_told_apart_from_text() {
        assert!(parse("/pin").unwrap_err().contains("/help"));
        assert!(parse("/").is_err());
        assert!(parse("/file").is_err());
    }

    #[test]
    fn a_path_is_taken_as_completion_writes_it() {
        let directory = std::env::temp_dir().join(format!("sockeye-paths-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let directory_name = directory.to_str().unwrap();
        let completer = rustyline::completion::FilenameCompleter::new();
        let names = [
            "a b", "c (1)", "d'e", "f$g&h", "i=j", "k\\l", "m\"n", "o\\ p", "plain",
        ];
        for name in names.iter().filter(|_| cfg!(unix)) {
            let file = directory.join(name);
            std::fs::write(&file, "").unwrap();
            for quote in ["", "\"", "'"] {
                let typed = format!("{quote}{directory_name}/{}", &name[..1]);
                let (start, found) = completer.complete_path(&typed, typed.len()).unwrap();
                let [found] = &found[..] else {
                    panic!("{typed}: {} files", found.len());
                };
                let line = format!("{}{}", &typed[..start], found.replacement);
                assert_eq!(path(&line).unwrap(), file, "{line}");
                if !quote.is_empty() {
                    assert_eq!(path(&(line + quote)).unwrap(), file);
                }
            }
        }
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn help_tells_of_every_command() {
        for (name, ..) in COMMANDS {
            assert!(help().contains(name));
            assert!(!parse(name).is_err_and(|error| error.contains("no command")));
        }
    }
}
