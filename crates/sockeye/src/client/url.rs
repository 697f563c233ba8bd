//! WebSocket URLs, read as browsers read them (RFC 6455 §3, the WHATWG URL standard).

use std::net::IpAddr;

use url::{Host, Url};

use crate::{Error, Result};

/// What a URL says about whom to connect to and what to ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// `wss`: TLS first.
    pub(super) secure: bool,
    /// A name in its ASCII form, or an address without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// The value of `Host`: with the port where it is not the scheme's own (§4.1, 4).
    pub(super) host_header: String,
    /// Path and query (§3, "resource-name").
    pub(super) target: String,
}

impl Endpoint {
    /// Reads a URL. `http` and `https` stand for `ws` and `wss`, as in browsers.
    ///
    /// # Errors
    /// [`Error::Url`], which says what is wrong and what to write instead.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let error = |problem: &str| Error::Url(format!("{text:?}: {problem}").into());
        let url = Url::parse(text).map_err(|problem| match problem {
            url::ParseError::RelativeUrlWithoutBase => {
                error("not a URL: write it as ws://host:port/path or wss://host/path")
            }
            problem => error(&format!("not a URL: {problem}")),
        })?;
        let secure = match url.scheme() {
            "ws" | "http" => false,
            "wss" | "https" => true,
            // `host:port` is a URL, whose scheme is the host.
            _ => return Err(error("a WebSocket's URL begins with ws:// or wss://")),
        };
        if url.fragment().is_some() {
            return Err(error("a WebSocket's URL has no fragment: write '#' as %23"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            // Not repeated in the message, which may end in a log.
            let problem = "a URL with a user name or password is not accepted: \
                send an Authorization header instead";
            return Err(Error::Url(problem.into()));
        }
        let host = match url.host() {
            Some(Host::Domain(name)) => name.to_owned(),
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => address.to_string(),
            None => return Err(error("no host")),
        };
        let (Some(port), Some(written)) = (url.port_or_known_default(), url.host_str()) else {
            return Err(error("no host"));
        };
        Ok(Self {
            secure,
            host,
            port,
            host_header: match url.port() {
                Some(port) => format!("{written}:{port}"),
                None => written.to_owned(),
            },
            target: match url.query() {
                Some(query) => format!("{}?{query}", url.path()),
                None => url.path().to_owned(),
            },
        })
    }

    /// The host where it is an address already.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

#[cfg(test)]
mod section_3 {
    use super::*;

    fn parts(url: &str) -> (bool, String, u16, String, String) {
        let endpoint = Endpoint::parse(url).unwrap();
        let Endpoint {
            secure,
            host,
            port,
            host_header,
            target,
        } = endpoint;
        (secure, host, port, host_header, target)
    }

    #[test]
    fn default_ports_are_elided() {
        for (url, secure, port, host_header) in [
            ("ws://a", false, 80, "a"),
            ("ws://a:80/", false, 80, "a"),
            ("ws://a:443/", false, 443, "a:443"),
            ("wss://a", true, 443, "a"),
            ("wss://a:443", true, 443, "a"),
            ("WSS://A:80", true, 80, "a:80"),
            ("https://a", true, 443, "a"),
        ] {
            let found = parts(url);
            assert_eq!(
                (found.0, found.2, found.3.as_str()),
                (secure, port, host_header),
                "{url}"
            );
        }
    }

    #[test]
    fn hosts_are_names_or_addresses() {
        assert_eq!(parts("ws://[::1]:9/").1, "::1");
        assert_eq!(parts("ws://[::1]:9/").3, "[::1]:9");
        assert!(
            Endpoint::parse("ws://127.0.0.1")
                .unwrap()
                .address()
                .is_some()
        );
        assert_eq!(parts("ws://ПРИМЕР.рф").1, "xn--e1afmkfd.xn--p1ai");
    }

    #[test]
    fn targets_are_path_and_query() {
        assert_eq!(parts("ws://a").4, "/");
        assert_eq!(parts("ws://a?b=c").4, "/?b=c");
        assert_eq!(parts("ws://a/b/../c d?e=é").4, "/c%20d?e=%C3%A9");
    }

    #[test]
    fn what_is_no_websocket_url_is_refused_with_a_reason() {
        for (url, words) in [
            ("example.com", "write it as ws://"),
            ("/chat", "write it as ws://"),
            ("", "write it as ws://"),
            ("localhost:8080", "begins with ws://"),
            ("ftp://a", "begins with ws://"),
            ("ws://a/#b", "no fragment"),
            ("ws://a/#", "no fragment"),
            ("ws://", "empty host"),
            ("ws://a:99999", "port"),
            ("ws://user@a", "Authorization"),
            ("ws://:secret@a", "Authorization"),
        ] {
            let message = Endpoint::parse(url).unwrap_err().to_string();
            assert!(message.contains(words), "{url}: {message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }
}
