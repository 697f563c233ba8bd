//! Where a server sends its client instead, and whether the client goes there (RFC 9110 §15.4).

use std::{error::Error as StdError, fmt, sync::Arc};

use sockeye_proto::handshake::Response;
use url::Url;

use super::url::Endpoint;
use crate::{Error, Result};

/// The way of one connection through redirects.
#[derive(Debug)]
pub(super) struct Trail {
    limit: usize,
    been: Vec<Url>,
    /// Whether the way has left the origin of the user's URL. From there on, nothing that shows
    /// who the user is may be sent, even where it leads back.
    pub(super) is_abroad: bool,
}

impl Trail {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            been: Vec::new(),
            is_abroad: false,
        }
    }

    /// Where an answer leads; None where it leads nowhere, or is not to be followed.
    ///
    /// # Errors
    /// [`Error::Redirect`].
    pub(super) fn follow(
        &mut self,
        from: &Endpoint,
        response: &Response,
    ) -> Result<Option<Endpoint>> {
        let is_redirect = matches!(response.status(), 301 | 302 | 303 | 307 | 308);
        let location = response.headers().first_str("Location");
        let Some(location) = location.filter(|_| is_redirect && self.limit > 0) else {
            return Ok(None);
        };
        let error = |problem| Error::Redirect {
            problem,
            response: Arc::new(response.clone()),
        };
        let to = resolve(from, location).map_err(|why| error(RedirectError::Location(why)))?;
        if from.secure && !to.secure {
            return Err(error(RedirectError::Insecure));
        }
        if to.url == from.url || self.been.contains(&to.url) {
            return Err(error(RedirectError::Loop));
        }
        if self.been.len() >= self.limit {
            return Err(error(RedirectError::TooMany { limit: self.limit }));
        }
        self.is_abroad |= (to.secure, &to.host, to.port) != (from.secure, &from.host, from.port);
        self.been.push(from.url.clone());
        Ok(Some(to))
    }

    /// What went wrong at an endpoint, with its name: the user's URL is not at fault where a redirect has led to it.
    pub(super) fn tell(&self, at: &Endpoint, error: Error) -> Error {
        let is_redirected = !self.been.is_empty();
        // Nobody was asked.
        if !is_redirected && (error.is_user() || matches!(error, Error::Random(_))) {
            return error;
        }
        Error::Open {
            url: at.to_tell(),
            is_redirected,
            is_abroad: self.is_abroad,
            source: Arc::new(error),
        }
    }
}

/// Reads a `Location`, which may be relative to where it was said (RFC 9110 §10.2.2). Its fragment
/// and its user name and password are left out.
fn resolve(from: &Endpoint, location: &str) -> Result<Endpoint, Box<str>> {
    let mut url = from
        .url
        .join(location)
        .map_err(|error| error.to_string().into_boxed_str())?;
    url.set_fragment(None);
    let mut endpoint = Endpoint::from_url(url).map_err(Box::<str>::from)?;
    // Those that we came with: whether they are sent is for the trail to say.
    endpoint.credentials.clone_from(&from.credentials);
    #[cfg(unix)]
    {
        // Whoever answers on a socket knows no other way to itself.
        endpoint.unix_socket.clone_from(&from.unix_socket);
    }
    Ok(endpoint)
}

/// Why a redirect was not followed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RedirectError {
    /// There were more than [`Client::redirects`](super::Client::redirects) allows.
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// It leads to where the connection has been already.
    Loop,
    /// It leads from `wss` to `ws`.
    Insecure,
    /// It is not the URL of a WebSocket; the text says why.
    Location(Box<str>),
}

impl fmt::Display for RedirectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany { limit: 1 } => f.write_str("there was one before it, the limit"),
            Self::TooMany { limit } => {
                write!(f, "there were {limit} redirects before it, the limit")
            }
            Self::Loop => f.write_str("it leads back to where the connection has been"),
            Self::Insecure => f.write_str("it leads from TLS to a connection without"),
            Self::Location(why) => f.write_str(why),
        }
    }
}

impl StdError for RedirectError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, location: &str) -> Response {
        let head = format!("HTTP/1.1 {status} x\r\nLocation: {location}\r\n\r\n");
        Response::parse(head.as_bytes()).unwrap()
    }

    /// Where a chain of answers leads from a URL, and whether the user is known there.
    fn way(limit: usize, from: &str, locations: &[&str]) -> Result<(String, bool)> {
        let mut trail = Trail::new(limit);
        let mut endpoint = Endpoint::parse(from).unwrap();
        for location in locations {
            endpoint = trail.follow(&endpoint, &response(302, location))?.unwrap();
        }
        Ok((endpoint.url.to_string(), !trail.is_abroad))
    }

    #[test]
    fn rfc_9110_section_10_2_2_locations_may_be_relative() {
        for (from, location, to, known) in [
            ("ws://a/b/c?d", "e", "ws://a/b/e", true),
            ("ws://a/b/c?d", "/e?f#g", "ws://a/e?f", true),
            ("ws://a/b", "?c", "ws://a/b?c", true),
            ("ws://a/b", "//c/d", "ws://c/d", false),
            ("ws://a/b", "http://a:80/c", "ws://a/c", true),
            ("ws://a/b", "ws://a:81/b", "ws://a:81/b", false),
            ("ws://a/b", "https://a/b", "wss://a/b", false),
            ("https://a/b", "wss://a:443/c", "wss://a/c", true),
            ("ws://user:pw@a/b", "/c", "ws://a/c", true),
            ("ws://a/b", "ws://user:pw@a/c", "ws://a/c", true),
            ("ws://a/b", "ws://c/d", "ws://c/d", false),
        ] {
            assert_eq!(
                way(9, from, &[location]).unwrap(),
                (to.into(), known),
                "{from} {location}"
            );
        }
    }

    #[test]
    fn whoever_has_been_abroad_stays_unknown() {
        let (url, known) = way(9, "ws://a/", &["ws://b/", "ws://a/c"]).unwrap();
        assert_eq!((url.as_str(), known), ("ws://a/c", false));
    }

    #[test]
    fn what_is_not_followed_says_why() {
        for (limit, from, locations, problem) in [
            (
                2,
                "ws://a/0",
                &["/1", "/2", "/3"][..],
                RedirectError::TooMany { limit: 2 },
            ),
            (9, "ws://a/0", &["/0"], RedirectError::Loop),
            (9, "ws://a/0", &["/1", "/2", "/0"], RedirectError::Loop),
            (9, "wss://a/0", &["ws://a/1"], RedirectError::Insecure),
            (9, "wss://a/0", &["http://b/1"], RedirectError::Insecure),
        ] {
            let error = way(limit, from, locations).unwrap_err();
            assert!(
                matches!(&error, Error::Redirect { problem: found, .. } if *found == problem),
                "{error:?}"
            );
        }
        for location in ["ftp://a", "http://", "ws://a:99999", "mailto:a@b"] {
            let error = way(9, "ws://a/", &[location]).unwrap_err();
            assert!(
                matches!(
                    &error,
                    Error::Redirect {
                        problem: RedirectError::Location(_),
                        ..
                    }
                ),
                "{error:?}"
            );
        }
        let error = way(9, "wss://a/", &["ws://user:secret@b/"]).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("secret"));
    }

    #[test]
    fn by_default_and_for_other_answers_nothing_is_followed() {
        let endpoint = Endpoint::parse("ws://a").unwrap();
        let follow = |limit, status| {
            let response = response(status, "/b");
            Trail::new(limit).follow(&endpoint, &response).unwrap()
        };
        for status in [301, 302, 303, 307, 308] {
            assert!(follow(1, status).is_some());
            assert!(follow(0, status).is_none());
        }
        for status in [200, 201, 300, 304, 305, 401, 503] {
            assert!(follow(1, status).is_none(), "{status}");
        }
        let bare = Response::parse(b"HTTP/1.1 302 x\r\n\r\n").unwrap();
        assert!(Trail::new(1).follow(&endpoint, &bare).unwrap().is_none());
    }
}
