//! WebSocket URLs, read as browsers read them (RFC 6455 §3, the WHATWG URL standard).

#[cfg(unix)]
use std::path::PathBuf;

use url::{Host, Url};

use super::credentials::{Credentials, redacted};
use crate::{Error, Result};

/// What a URL says about whom to connect to and what to ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// As `ws` or `wss`, without user name and password: what redirects are relative to.
    pub(super) url: Url,
    /// `wss`: TLS first.
    pub(super) secure: bool,
    /// A name in its ASCII form, or an address without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// The value of `Host`: with the port where it is not the scheme's own (§4.1, 4).
    pub(super) host_header: String,
    /// Path and query (§3, "resource-name").
    pub(super) target: String,
    pub(super) credentials: Option<Credentials>,
    /// What is connected to in place of the host.
    #[cfg(unix)]
    pub(super) unix_socket: Option<PathBuf>,
}

impl Endpoint {
    /// Reads a URL. `http` and `https` stand for `ws` and `wss`, as in browsers;
    /// `ws+unix:/path/to.sock:/request/path` is a Unix socket's, as in Node's `ws`.
    ///
    /// # Errors
    /// [`Error::Url`], which says what is wrong and what to write instead.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let error = |problem: &str| Error::Url(format!("{:?}: {problem}", redacted(text)).into());
        let url = Url::parse(text).map_err(|problem| match problem {
            url::ParseError::RelativeUrlWithoutBase => {
                error("not a URL: write it as ws://host:port/path or wss://host/path")
            }
            problem => error(&format!("not a URL: {problem}")),
        })?;
        let endpoint = match url.scheme() {
            "ws+unix" => Self::from_unix_url(&url),
            _ => Self::from_url(url),
        };
        endpoint.map_err(error)
    }

    /// For those who look on: without a user, a password and a query, any of which may be secret.
    pub(super) fn to_tell(&self) -> Box<str> {
        let (path, _) = self.target.split_once('?').unwrap_or((&self.target, ""));
        #[cfg(unix)]
        if let Some(socket) = &self.unix_socket {
            return format!("ws+unix:{}:{path}", socket.display()).into();
        }
        let scheme = if self.secure { "wss" } else { "ws" };
        format!("{scheme}://{}{path}", self.host_header).into()
    }

    /// Takes a URL apart.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn from_url(mut url: Url) -> Result<Self, &'static str> {
        let scheme = match url.scheme() {
            "ws" | "http" => "ws",
            "wss" | "https" => "wss",
            // `host:port` is a URL, whose scheme is the host.
            _ => return Err("a WebSocket's URL begins with ws:// or wss://"),
        };
        // Refused only where a URL would become another kind of URL.
        let _ = url.set_scheme(scheme);
        if url.fragment().is_some() {
            return Err("a WebSocket's URL has no fragment: write '#' as %23");
        }
        let credentials = Credentials::take(&mut url);
        let (Some(host), Some(written), Some(port)) =
            (host(&url), url.host_str(), url.port_or_known_default())
        else {
            return Err("no host");
        };
        Ok(Self {
            secure: scheme == "wss",
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
            credentials,
            #[cfg(unix)]
            unix_socket: None,
            url,
        })
    }

    /// Takes the URL of a Unix socket apart. The first colon ends the socket's path, which is
    /// percent-decoded; the request's path may be missing. The host that is asked for is localhost.
    #[cfg(unix)]
    fn from_unix_url(url: &Url) -> Result<Self, &'static str> {
        use std::{ffi::OsString, os::unix::ffi::OsStringExt};
        if url.fragment().is_some() {
            return Err("a WebSocket's URL has no fragment: write '#' as %23");
        }
        if url.has_host() || !url.path().starts_with('/') {
            return Err("a Unix socket's URL is written as ws+unix:/path/to.sock:/request/path");
        }
        let (socket, target) = url.path().split_once(':').unwrap_or((url.path(), "/"));
        let target = target.strip_prefix('/').unwrap_or(target);
        let query = url.query().map(|query| format!("?{query}"));
        let url = format!("ws://localhost/{target}{}", query.unwrap_or_default());
        let url = Url::parse(&url).map_err(|_| "its path is none")?;
        let socket: Vec<u8> = percent_encoding::percent_decode_str(socket).collect();
        Ok(Self {
            unix_socket: Some(OsString::from_vec(socket).into()),
            ..Self::from_url(url)?
        })
    }

    #[cfg(not(unix))]
    fn from_unix_url(_: &Url) -> Result<Self, &'static str> {
        Err("this system has no Unix sockets")
    }
}

/// A name, as it is read or as it travels, in its ASCII form; nothing for what is none.
pub(super) fn ascii_name(name: &str) -> Option<String> {
    match Host::parse(name) {
        Ok(Host::Domain(name)) => Some(name),
        _ => None,
    }
}

/// The host of a URL: a name in its ASCII form, or an address without brackets.
pub(super) fn host(url: &Url) -> Option<String> {
    Some(match url.host()? {
        Host::Domain(name) => name.to_owned(),
        Host::Ipv4(address) => address.to_string(),
        Host::Ipv6(address) => address.to_string(),
    })
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
            ..
        } = endpoint;
        (secure, host, port, host_header, target)
    }

    #[test]
    fn what_is_told_is_a_url_too() {
        for (url, told) in [
            ("ws://user:secret@a/b?secret", "ws://a/b"),
            ("https://a:443", "wss://a/"),
            ("wss://[::1]:9/a", "wss://[::1]:9/a"),
            #[cfg(unix)]
            ("ws+unix:/run/a%20b:/c?secret", "ws+unix:/run/a b:/c"),
        ] {
            assert_eq!(*Endpoint::parse(url).unwrap().to_tell(), *told);
        }
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
            ("ws://user:secret@a:99999", "port"),
            ("ws://user:secret@a/#b", "no fragment"),
            ("ftp://user:secret@a", "begins with ws://"),
            #[cfg(unix)]
            ("ws+unix:a.sock", "ws+unix:/path"),
            #[cfg(unix)]
            ("ws+unix://a/b.sock", "ws+unix:/path"),
            #[cfg(unix)]
            ("ws+unix:/a.sock:/b#c", "no fragment"),
            #[cfg(not(unix))]
            ("ws+unix:/a.sock", "has no Unix sockets"),
        ] {
            let message = Endpoint::parse(url).unwrap_err().to_string();
            assert!(message.contains(words), "{url}: {message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }

    #[test]
    fn users_and_passwords_are_apart_from_the_host() {
        let endpoint = Endpoint::parse("wss://us%65r:p%40ss@a:9/b").unwrap();
        assert_eq!(endpoint.host_header, "a:9");
        assert_eq!(endpoint.url.as_str(), "wss://a:9/b");
        assert_eq!(endpoint.credentials, Some(Credentials::new("user", "p@ss")));
        assert_eq!(Endpoint::parse("ws://a").unwrap().credentials, None);
    }

    #[cfg(unix)]
    #[test]
    fn a_unix_socket_is_written_as_in_nodes_ws() {
        for (url, socket, target) in [
            (
                "ws+unix:/run/a.sock:/b/c?d=e:f",
                "/run/a.sock",
                "/b/c?d=e:f",
            ),
            ("ws+unix:/run/a.sock", "/run/a.sock", "/"),
            ("ws+unix:///run/a.sock:/", "/run/a.sock", "/"),
            ("ws+unix:/run/a.sock?b", "/run/a.sock", "/?b"),
            ("ws+unix:/run/a%3Ab c.sock:d", "/run/a:b c.sock", "/d"),
        ] {
            let endpoint = Endpoint::parse(url).unwrap();
            assert_eq!(endpoint.unix_socket, Some(socket.into()), "{url}");
            assert_eq!(endpoint.target, target, "{url}");
            assert_eq!(
                (endpoint.host_header.as_str(), endpoint.secure),
                ("localhost", false)
            );
        }
    }
}
