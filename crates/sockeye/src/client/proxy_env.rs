//! Which proxy a connection goes through: the user's, or that of the environment, read as curl reads
//! it.

use std::{ffi::OsString, fmt, net::IpAddr};

use super::{
    proxy::Proxy,
    url::{Endpoint, ascii_name},
};
use crate::{
    Error, Result,
    address::{bits, masked},
};

/// What the user has said about proxies.
#[derive(Clone, Debug, Default)]
pub(super) struct ProxyChoice {
    pub(super) source: Source,
    /// Who is reached without one, in place of `NO_PROXY`.
    pub(super) except: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub(super) enum Source {
    #[default]
    Environment,
    Given(Box<Proxy>),
    Nobody,
}

impl ProxyChoice {
    /// The proxy on the way to a server, where there is one.
    ///
    /// # Errors
    /// [`Error::Url`] for a variable that holds no proxy's URL.
    pub(super) fn proxy(
        &self,
        endpoint: &Endpoint,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Option<Proxy>> {
        // An empty variable is one that is not there.
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        // First: a variable that is wrong is nothing to whoever is excepted.
        let except = match (&self.except, &self.source) {
            (Some(except), _) => Some(except.clone()),
            (None, Source::Environment) => variable("no_proxy")
                .or_else(|| variable("NO_PROXY"))
                .map(|list| list.to_string_lossy().into_owned()),
            (None, _) => None,
        };
        if except.is_some_and(|list| is_listed(&list, &endpoint.host, endpoint.port)) {
            return Ok(None);
        }
        match &self.source {
            Source::Nobody => Ok(None),
            Source::Given(proxy) => Ok(Some(Proxy::clone(proxy))),
            Source::Environment => from_environment(endpoint.secure, variable),
        }
    }
}

/// The proxy that the environment names: the scheme's own, else that of HTTP, else that of all.
///
/// A CGI program has a request's header `Proxy` in `HTTP_PROXY`: that one is not read.
fn from_environment(
    secure: bool,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Option<Proxy>> {
    let names: &[&str] = if secure {
        &["wss_proxy", "WSS_PROXY", "https_proxy", "HTTPS_PROXY"]
    } else {
        &["ws_proxy", "WS_PROXY", "http_proxy"]
    };
    for name in names.iter().chain(&["all_proxy", "ALL_PROXY"]) {
        if let Some(value) = variable(name) {
            let wrong = |why: &dyn fmt::Display| {
                Error::Url(format!("the environment variable {name}: {why}").into())
            };
            // It is not shown: there may be a password in it.
            let value = value.to_str().ok_or_else(|| {
                wrong(&"it is not UTF-8; in a proxy's URL such bytes are percent-encoded")
            })?;
            return value
                .parse()
                .map(Some)
                .map_err(|error: Error| wrong(&error));
        }
    }
    Ok(None)
}

/// Whether a host is in a list as `NO_PROXY` has it: names (as they are read or as they travel, which stand for
/// those below them too, with a dot in front or without), addresses, networks as `10.0.0.0/8`, each with a port or
/// without, or `*`; apart by commas or spaces.
fn is_listed(list: &str, host: &str, port: u16) -> bool {
    let host = host.trim_end_matches('.');
    let address: Option<IpAddr> = host.parse().ok();
    list.split([',', ' ', '\t'])
        .filter(|entry| !entry.is_empty())
        .any(|entry| {
            let (entry, only) = without_port(entry);
            if only.is_some_and(|only| only != port) {
                return false;
            }
            match address {
                _ if entry == "*" => true,
                Some(address) => is_in_network(address, entry),
                None => is_below(host, entry),
            }
        })
}

/// An entry of the list, and its port where it has one. Brackets, which an IPv6 address with a
/// port needs, come off.
fn without_port(entry: &str) -> (&str, Option<u16>) {
    if let Some((address, rest)) = entry.strip_prefix('[').and_then(|e| e.split_once(']')) {
        return (
            address,
            rest.strip_prefix(':').and_then(|port| port.parse().ok()),
        );
    }
    match entry.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') => match port.parse() {
            Ok(port) => (name, Some(port)),
            Err(_) => (entry, None),
        },
        _ => (entry, None),
    }
}

fn is_below(host: &str, entry: &str) -> bool {
    let name = entry.trim_start_matches('*').trim_start_matches('.');
    let ascii = ascii_name(name);
    let name = ascii.as_deref().unwrap_or(name).trim_end_matches('.');
    let Some(at) = host.len().checked_sub(name.len()) else {
        return false;
    };
    let is_end = host
        .get(at..)
        .is_some_and(|end| end.eq_ignore_ascii_case(name));
    !name.is_empty() && is_end && (at == 0 || host.as_bytes()[at - 1] == b'.')
}

/// Whether an entry is that address, or a network that it is in; bits beyond those of the network do no harm.
fn is_in_network(address: IpAddr, entry: &str) -> bool {
    let all = bits(address);
    let (network, prefix) = match entry.split_once('/') {
        None => (entry, Ok(all)),
        Some((network, prefix)) => (network, prefix.parse()),
    };
    match (network.parse::<IpAddr>(), prefix) {
        (Ok(network), Ok(prefix)) if prefix <= all => {
            masked(address, prefix) == masked(network, prefix)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The proxy on the way to a URL, with these variables.
    fn chosen(choice: &ProxyChoice, url: &str, variables: &[(&str, &str)]) -> String {
        let endpoint = Endpoint::parse(url).unwrap();
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name)?;
            Some(found.1.into())
        };
        match choice.proxy(&endpoint, variable) {
            Ok(Some(proxy)) => proxy.to_string(),
            Ok(None) => "none".into(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn variables_are_read_as_curl_reads_them() {
        for (url, variables, proxy) in [
            ("ws://a", &[][..], "none"),
            ("ws://a", &[("http_proxy", "p:1")], "http://p:1"),
            ("ws://a", &[("HTTP_PROXY", "p:1")], "none"),
            ("ws://a", &[("https_proxy", "p:1")], "none"),
            ("wss://a", &[("http_proxy", "p:1")], "none"),
            ("wss://a", &[("https_proxy", "p:1")], "http://p:1"),
            ("wss://a", &[("HTTPS_PROXY", "https://p")], "https://p:443"),
            (
                "wss://a",
                &[("HTTPS_PROXY", "p:1"), ("https_proxy", "p:2")],
                "http://p:2",
            ),
            (
                "wss://a",
                &[("HTTPS_PROXY", "p:1"), ("wss_proxy", "p:2")],
                "http://p:2",
            ),
            (
                "ws://a",
                &[("WS_PROXY", "p:1"), ("http_proxy", "p:2")],
                "http://p:1",
            ),
            ("ws://a", &[("all_proxy", "socks5://p")], "socks5://p:1080"),
            (
                "wss://a",
                &[("ALL_PROXY", "socks5h://p")],
                "socks5h://p:1080",
            ),
            (
                "ws://a",
                &[("http_proxy", ""), ("ALL_PROXY", "p:1")],
                "http://p:1",
            ),
            (
                "ws://a",
                &[("http_proxy", "p:1"), ("NO_PROXY", "b,a")],
                "none",
            ),
            (
                "ws://a",
                &[("http_proxy", "p:1"), ("no_proxy", "b"), ("NO_PROXY", "a")],
                "http://p:1",
            ),
            // A variable that is wrong is nothing to whoever is excepted.
            (
                "ws://a",
                &[("http_proxy", "socks4://p"), ("no_proxy", "a")],
                "none",
            ),
        ] {
            let choice = ProxyChoice::default();
            assert_eq!(
                chosen(&choice, url, variables),
                proxy,
                "{url} {variables:?}"
            );
        }
    }

    #[test]
    fn the_user_has_the_last_word() {
        let variables = [("http_proxy", "p:1"), ("no_proxy", "a")];
        let nobody = ProxyChoice {
            source: Source::Nobody,
            except: None,
        };
        assert_eq!(chosen(&nobody, "ws://b", &variables), "none");
        let given = ProxyChoice {
            source: Source::Given(Box::new("q:2".parse().unwrap())),
            except: None,
        };
        assert_eq!(chosen(&given, "ws://a", &variables), "http://q:2");
        let except = ProxyChoice {
            except: Some("c".into()),
            ..given
        };
        assert_eq!(chosen(&except, "ws://a", &variables), "http://q:2");
        assert_eq!(chosen(&except, "ws://c", &variables), "none");
        let environment = ProxyChoice {
            except: Some(String::new()),
            ..ProxyChoice::default()
        };
        assert_eq!(chosen(&environment, "ws://a", &variables), "http://p:1");
    }

    /// A bug: the host of a URL is ASCII by then, and was compared with what is not.
    #[test]
    fn names_may_be_written_in_their_own_script() {
        for (except, proxy) in [
            ("внутри.рф", "none"),
            ("ВНУТРИ.РФ.", "none"),
            ("внутри。рф", "none"),
            ("рф", "none"),
            ("a .рф", "none"),
            ("*.рф", "none"),
            ("xn--P1AI", "none"),
            ("внутри.рф:80", "none"),
            ("внутри.рф:81", "http://q:2"),
            ("нутри.рф", "http://q:2"),
            ("a.внутри.рф", "http://q:2"),
        ] {
            let choice = ProxyChoice {
                source: Source::Given(Box::new("q:2".parse().unwrap())),
                except: Some(except.into()),
            };
            assert_eq!(chosen(&choice, "ws://внутри.рф/", &[]), proxy, "{except}");
        }
    }

    #[test]
    fn a_variable_that_is_wrong_is_named_without_its_password() {
        let variables = [("http_proxy", "socks4://user:secret@p")];
        let error = chosen(&ProxyChoice::default(), "ws://a", &variables);
        assert!(
            error.contains("http_proxy") && error.contains("socks5://"),
            "{error}"
        );
        assert!(
            !error.contains("secret") && !error.contains("user"),
            "{error}"
        );
    }

    /// A bug: it counted as not set, and what was to go through a proxy went past it.
    #[cfg(unix)]
    #[test]
    fn a_variable_that_is_not_utf8_is_none_the_less_there() {
        use std::os::unix::ffi::OsStringExt;

        let endpoint = Endpoint::parse("ws://a").unwrap();
        let choose = |variables: &[(&str, &[u8])]| {
            let variable = |name: &str| {
                let found = variables.iter().find(|(known, _)| *known == name)?;
                Some(OsString::from_vec(found.1.to_vec()))
            };
            ProxyChoice::default().proxy(&endpoint, variable)
        };
        let latin = ("http_proxy", &b"http://u:caf\xe9@p:1"[..]);
        let error = choose(&[latin]).unwrap_err().to_string();
        assert!(
            error.contains("http_proxy") && !error.contains("caf"),
            "{error}"
        );
        assert!(
            choose(&[latin, ("no_proxy", b"caf\xe9, a")])
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn no_proxy_lists() {
        for (list, host, is_in) in [
            ("*", "a.b", true),
            ("x *", "::1", true),
            ("", "a", false),
            ("a.b", "a.b", true),
            ("a.b", "A.B.", true),
            ("A.b.", "a.b", true),
            ("a.b", "x.a.b", true),
            (".a.b", "x.a.b", true),
            (".a.b", "a.b", true),
            ("*.a.b", "x.a.b", true),
            ("a.b", "xa.b", false),
            ("a.b", "b", false),
            (".", "a", false),
            ("x, a.b ,y", "a.b", true),
            ("x a.b", "a.b", true),
            ("a.b:81", "a.b", true),
            ("a.b:80", "a.b", false),
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1:81", "10.0.0.1", true),
            ("10.0.0.1:80", "10.0.0.1", false),
            ("0.0.1", "10.0.0.1", false),
            ("10.0.0.0/8", "10.9.8.7", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.9.8.6/31", "10.9.8.7", true),
            ("0.0.0.0/0", "10.9.8.7", true),
            ("10.0.0.0/33", "10.0.0.0", false),
            ("10.0.0.0/x", "10.0.0.0", false),
            ("::1", "::1", true),
            ("[::1]", "::1", true),
            ("[::1]:81", "::1", true),
            ("[::1]:80", "::1", false),
            ("fe80::/10", "fe80::9", true),
            ("fe80::/10", "fec0::9", false),
            ("::/0", "fec0::9", true),
            ("::/0", "10.0.0.1", false),
            ("10.0.0.0/8", "a.b", false),
        ] {
            assert_eq!(is_listed(list, host, 81), is_in, "{list:?} {host}");
        }
    }
}
