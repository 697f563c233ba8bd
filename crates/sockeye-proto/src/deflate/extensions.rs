//! The grammar of the Sec-WebSocket-Extensions header (RFC 6455 §9.1).

use crate::handshake::is_token_byte;
use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// The name of the extension that this library speaks (RFC 7692 §7).
pub const PERMESSAGE_DEFLATE: &str = "permessage-deflate";

/// Reads the extensions named in one or more header lines, in order (RFC 6455 §9.1).
///
/// Several lines mean the same as one line with their values joined by commas. Empty elements of
/// the list are skipped, as HTTP demands of a recipient (RFC 9110 §5.6.1.2), but at least one
/// extension must be there. Nothing is said about whether an extension is known.
///
/// # Errors
/// [`MalformedExtensions`] for anything outside the grammar.
///
/// ```
/// use sockeye_proto::deflate::parse_extensions;
/// let line = b"permessage-deflate; server_max_window_bits=\"10\", x-other".as_slice();
/// let extensions = parse_extensions([line])?;
/// assert_eq!(extensions[0].parameters[0].value.as_deref(), Some("10"));
/// assert_eq!(extensions[1].name, "x-other");
/// # Ok::<(), sockeye_proto::deflate::MalformedExtensions>(())
/// ```
pub fn parse_extensions<'a>(
    lines: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Vec<Extension<'a>>, MalformedExtensions> {
    let mut extensions = Vec::new();
    for line in lines {
        let mut cursor = Cursor { line, at: 0 };
        loop {
            cursor.skip_spaces();
            if cursor.is_at_end() {
                break;
            }
            if !cursor.take(b',') {
                extensions.push(cursor.extension()?);
                if !cursor.is_at_end() && !cursor.take(b',') {
                    return Err(cursor.expected("',' or ';'"));
                }
            }
        }
    }
    if extensions.is_empty() {
        return Err(MalformedExtensions {
            expected: "the name of an extension",
            at: 0,
        });
    }
    Ok(extensions)
}

/// One extension of an offer or an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension<'a> {
    /// Its name, a token.
    pub name: &'a str,
    /// Its parameters, in order.
    pub parameters: Vec<ExtensionParameter<'a>>,
}

/// One parameter of an extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtensionParameter<'a> {
    /// Its name, a token.
    pub name: &'a str,
    /// Its value where it has one: a token, already unquoted.
    pub value: Option<Cow<'a, str>>,
}

/// A Sec-WebSocket-Extensions header that breaks the grammar (RFC 6455 §9.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedExtensions {
    /// What should have been there.
    pub expected: &'static str,
    /// Where in the header line, in bytes from its start.
    pub at: usize,
}

impl fmt::Display for MalformedExtensions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Sec-WebSocket-Extensions: expected {} at byte {}",
            self.expected, self.at
        )
    }
}

impl core::error::Error for MalformedExtensions {}

/// A place in a header line.
struct Cursor<'a> {
    line: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// `extension = extension-token *( ";" extension-param )`, and the spaces after it.
    fn extension(&mut self) -> Result<Extension<'a>, MalformedExtensions> {
        let name = self.token("the name of an extension")?;
        let mut parameters = Vec::new();
        self.skip_spaces();
        while self.take(b';') {
            self.skip_spaces();
            parameters.push(self.parameter()?);
            self.skip_spaces();
        }
        Ok(Extension { name, parameters })
    }

    /// `extension-param = token [ "=" (token | quoted-string) ]`
    fn parameter(&mut self) -> Result<ExtensionParameter<'a>, MalformedExtensions> {
        let name = self.token("the name of a parameter")?;
        self.skip_spaces();
        let value = if self.take(b'=') {
            self.skip_spaces();
            Some(if self.take(b'"') {
                self.quoted()?
            } else {
                Cow::Borrowed(self.token("the value of a parameter")?)
            })
        } else {
            None
        };
        Ok(ExtensionParameter { name, value })
    }

    /// The rest of a quoted string, which must conform to `token` once unquoted.
    fn quoted(&mut self) -> Result<Cow<'a, str>, MalformedExtensions> {
        const TOKEN: &str = "a token within the quotes";
        let mut value = Cow::Borrowed(self.token_or_empty());
        while self.take(b'\\') {
            let byte = self
                .line
                .get(self.at)
                .copied()
                .filter(|&b| is_token_byte(b));
            let escaped = byte.ok_or(self.expected(TOKEN))?;
            self.at += 1;
            let unquoted: &mut String = value.to_mut();
            unquoted.push(char::from(escaped));
            unquoted.push_str(self.token_or_empty());
        }
        if value.is_empty() {
            return Err(self.expected(TOKEN));
        }
        if !self.take(b'"') {
            return Err(self.expected("a token that ends with '\"'"));
        }
        Ok(value)
    }

    fn token(&mut self, expected: &'static str) -> Result<&'a str, MalformedExtensions> {
        match self.token_or_empty() {
            "" => Err(self.expected(expected)),
            token => Ok(token),
        }
    }

    fn token_or_empty(&mut self) -> &'a str {
        let rest = &self.line[self.at..];
        let len = rest
            .iter()
            .position(|&byte| !is_token_byte(byte))
            .unwrap_or(rest.len());
        self.at += len;
        // A token is ASCII, so this never falls back.
        core::str::from_utf8(&rest[..len]).unwrap_or_default()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.line.get(self.at) == Some(&byte);
        self.at += usize::from(found);
        found
    }

    fn skip_spaces(&mut self) {
        while self.take(b' ') || self.take(b'\t') {}
    }

    fn is_at_end(&self) -> bool {
        self.at == self.line.len()
    }

    fn expected(&self, expected: &'static str) -> MalformedExtensions {
        MalformedExtensions {
            expected,
            at: self.at,
        }
    }
}

#[cfg(test)]
mod section_9_1_grammar {
    use super::*;
    use alloc::string::ToString;
    use alloc::{format, vec};

    fn parse(line: &str) -> Result<Vec<Extension<'_>>, MalformedExtensions> {
        parse_extensions([line.as_bytes()])
    }

    /// Writes what was read in the plainest form.
    fn plain(line: &str) -> String {
        let extensions = parse(line).unwrap();
        let one = |extension: &Extension<'_>| {
            let mut text = extension.name.to_string();
            for parameter in &extension.parameters {
                text += ";";
                text += parameter.name;
                if let Some(value) = &parameter.value {
                    text += &format!("={value}");
                }
            }
            text
        };
        extensions.iter().map(one).collect::<Vec<_>>().join(",")
    }

    #[test]
    fn examples_of_the_standard() {
        assert_eq!(plain("foo, bar; baz=2"), "foo,bar;baz=2");
        assert_eq!(plain("deflate-stream"), "deflate-stream");
        assert_eq!(
            plain("mux; max-channels=4; flow-control, deflate-stream"),
            "mux;max-channels=4;flow-control,deflate-stream"
        );
        assert_eq!(plain("private-extension"), "private-extension");
    }

    #[test]
    fn several_lines_are_one_list() {
        let lines = [b"foo".as_slice(), b"", b"bar; baz=2"];
        assert_eq!(parse_extensions(lines), parse("foo, bar; baz=2"));
    }

    #[test]
    fn spaces_and_empty_elements_are_skipped() {
        assert_eq!(plain(" , a ;\tb = c ;d,, e\t,"), "a;b=c;d,e");
    }

    #[test]
    fn quoted_values_unquote_to_a_token() {
        assert_eq!(plain(r#"a; b="10"; c="1\0"; d="\x\y""#), "a;b=10;c=10;d=xy");
        for refused in [
            r#"a; b="""#,
            r#"a; b="1 0""#,
            r#"a; b="1,0""#,
            r#"a; b="1\,0""#,
            r#"a; b="1\"0""#,
            r#"a; b="10"#,
            r#"a; b="10\"#,
            r#"a; b="10"c"#,
            r#""a""#,
            r#"a; "b"=c"#,
        ] {
            assert!(parse(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn malformed() {
        for refused in [
            "", " ", ",", " , ,", ";", "a;", "a;;b", "a; b=", "a; b==c", "a b", "a; b c", "=",
            "a=b", "a; =b", "a; b=c=d", "a/b", "a; b=c/d", "a; b=[", "é", "a; b=é", "a\0", "a\n",
        ] {
            assert!(parse(refused).is_err(), "{refused:?}");
        }
        assert!(parse_extensions([b"a; b=\xff".as_slice()]).is_err());
        assert_eq!(parse_extensions(vec![]).unwrap_err().at, 0);
    }

    #[test]
    fn the_error_tells_where() {
        let error = parse("foo; =1").unwrap_err();
        assert_eq!(
            error.to_string(),
            "Sec-WebSocket-Extensions: expected the name of a parameter at byte 5"
        );
    }
}
