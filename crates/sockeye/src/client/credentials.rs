//! A user's name and password: out of a URL, into a header (RFC 3986 §3.2.1, RFC 7617).

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use percent_encoding::percent_decode_str;
use url::Url;

use crate::{Error, Result};

/// A user's name and password. They are never printed.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) user: Vec<u8>,
    pub(super) password: Vec<u8>,
}

impl Credentials {
    pub(super) fn new(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self {
            user: user.into().into_bytes(),
            password: password.into().into_bytes(),
        }
    }

    /// Takes those of a URL out of it, percent-decoded.
    pub(super) fn take(url: &mut Url) -> Option<Self> {
        if url.username().is_empty() && url.password().is_none() {
            return None;
        }
        let credentials = Self {
            user: percent_decode_str(url.username()).collect(),
            password: percent_decode_str(url.password().unwrap_or_default()).collect(),
        };
        // Refused only to a URL without a host, which has none of these either.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        Some(credentials)
    }

    /// The value of `Authorization` and `Proxy-Authorization`, in the scheme Basic.
    ///
    /// # Errors
    /// [`Error::Url`] for a name with a colon, which would move into the password (RFC 7617 §2).
    pub(super) fn basic(&self) -> Result<String> {
        if self.user.contains(&b':') {
            let problem = "a user name with a colon cannot be sent: the password begins after it";
            return Err(Error::Url(problem.into()));
        }
        let both = [&self.user[..], b":", &self.password].concat();
        Ok(format!("Basic {}", STANDARD.encode(both)))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

/// A URL, or what was meant as one, without what may be a name and a password, and without the query and the fragment, in
/// which tokens are: fit for a log.
pub(crate) fn redacted(text: &str) -> String {
    let (shown, secret) = match text.find(['?', '#']) {
        Some(end) => text.split_at(end),
        None => (text, ""),
    };
    let start = |before: &str| before.find("://").map_or(0, |scheme| scheme + 3);
    if secret.contains('@') {
        // It may end a password as well, which is then in both parts.
        return format!("{}…", &shown[..start(shown)]);
    }
    let mut redacted = match shown.rfind('@') {
        Some(at) => format!("{}…{}", &shown[..start(&shown[..at])], &shown[at..]),
        None => shown.to_owned(),
    };
    if let Some(mark) = secret.chars().next() {
        redacted.extend([mark, '…']);
    }
    redacted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_of_a_url_are_decoded_and_taken_out() {
        let mut url = Url::parse("ws://Aladdin:open%20s%C3%A9same@a/b").unwrap();
        let credentials = Credentials::take(&mut url).unwrap();
        assert_eq!(url.as_str(), "ws://a/b");
        assert_eq!(credentials, Credentials::new("Aladdin", "open sésame"));
        assert_eq!(Credentials::take(&mut url), None);
    }

    #[test]
    fn rfc_7617_section_2_the_example() {
        let basic = Credentials::new("Aladdin", "open sesame").basic().unwrap();
        assert_eq!(basic, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        let mut url = Url::parse("ws://user@a").unwrap();
        let basic = Credentials::take(&mut url).unwrap().basic().unwrap();
        assert_eq!(basic, "Basic dXNlcjo=");
        assert!(Credentials::new("a:b", "c").basic().is_err());
    }

    #[test]
    fn they_are_not_printed() {
        let credentials = Credentials::new("user", "secret");
        assert_eq!(format!("{credentials:?}"), "Credentials(..)");
        for text in [
            "ws://user:secret@a/b",
            "user:secret@a",
            "ws://user:sec/@ret@a",
            "ws://us://er:secret@a",
        ] {
            let shown = redacted(text);
            assert!(
                !shown.contains("user") && !shown.contains("er:s"),
                "{shown}"
            );
            assert!(shown.ends_with(&text[text.rfind('@').unwrap()..]));
        }
        assert_eq!(redacted("ws://a/b"), "ws://a/b");
    }

    #[test]
    fn a_token_in_a_query_or_a_fragment_is_not_printed() {
        for (text, shown) in [
            ("ws://a/b?token=secret", "ws://a/b?…"),
            ("ws://a/b?token=secret#c", "ws://a/b?…"),
            ("ws://a/#token=secret", "ws://a/#…"),
            ("ws://user:pw@a/b?secret", "ws://…@a/b?…"),
            // It may be in a password, or the at sign in a query.
            ("ws://user:sec?ret@a", "ws://…"),
            ("ws://a/?b=c@d&token=secret", "ws://…"),
            ("/b?secret", "/b?…"),
        ] {
            assert_eq!(redacted(text), shown);
        }
    }
}
