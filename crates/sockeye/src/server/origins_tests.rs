//! Who is let in by which policy (RFC 6454; RFC 6455 §4.2.2 and §10.2).

use super::*;

const PLAIN: bool = false;
const TLS: bool = true;

fn same(origin: &str, host: &str, secure: bool) -> bool {
    Origins::same().permit(origin.as_bytes(), host.as_bytes(), secure)
}

fn listed(entry: &str, origin: &str) -> bool {
    let origins = Origins::list([entry]).unwrap();
    origins.permit(origin.as_bytes(), b"server.example", PLAIN)
}

mod rfc_6454_section_5_comparing_origins {
    use super::*;

    #[test]
    fn host_and_port_are_those_that_were_asked_for() {
        for (origin, host, secure) in [
            ("http://example.com", "example.com", PLAIN),
            ("http://example.com", "example.com:80", PLAIN),
            ("http://example.com:80", "example.com", PLAIN),
            ("http://example.com:8080", "example.com:8080", PLAIN),
            // A proxy that speaks TLS in front of a server that does not.
            ("https://example.com", "example.com", PLAIN),
            ("https://example.com", "example.com:443", PLAIN),
            ("https://example.com:8443", "example.com:8443", PLAIN),
            ("https://example.com", "example.com", TLS),
            ("https://example.com", "example.com:443", TLS),
            ("https://example.com:443", "example.com", TLS),
            ("https://example.com:8443", "example.com:8443", TLS),
            ("http://127.0.0.1:8080", "127.0.0.1:8080", PLAIN),
            // An empty port is none (RFC 3986 §3.2.3).
            ("http://example.com", "example.com:", PLAIN),
        ] {
            assert!(same(origin, host, secure), "{origin} {host}");
        }
        for (origin, host, secure) in [
            ("http://evil.example", "example.com", PLAIN),
            ("http://example.com:8080", "example.com", PLAIN),
            ("http://example.com", "example.com:8080", PLAIN),
            ("http://example.com", "example.com:443", PLAIN),
            ("https://example.com", "example.com:80", PLAIN),
            ("https://example.com:80", "example.com", PLAIN),
            ("http://example.com:443", "example.com", PLAIN),
            ("http://www.example.com", "example.com", PLAIN),
            ("http://example.com", "www.example.com", PLAIN),
            ("http://example.com.evil.example", "example.com", PLAIN),
            ("http://evilexample.com", "example.com", PLAIN),
            ("http://example.co", "example.com", PLAIN),
            // Where it is known that TLS is spoken, a page without it is another origin's.
            ("http://example.com", "example.com", TLS),
            ("http://example.com:443", "example.com:443", TLS),
            ("http://example.com:8443", "example.com:8443", TLS),
            ("http://localhost:8080", "127.0.0.1:8080", PLAIN),
        ] {
            assert!(!same(origin, host, secure), "{origin} {host}");
        }
    }

    #[test]
    fn case_does_not_matter() {
        assert!(same("HTTP://Example.COM", "eXample.com", PLAIN));
        assert!(listed("HTTPS://Example.com", "https://example.COM"));
    }

    #[test]
    fn addresses_of_ipv6_are_compared_as_addresses() {
        for (origin, host) in [
            ("http://[::1]", "[::1]"),
            ("http://[::1]:8080", "[::1]:8080"),
            ("http://[2001:db8::a]", "[2001:DB8:0:0::A]:80"),
        ] {
            assert!(same(origin, host, PLAIN), "{origin} {host}");
        }
        for (origin, host) in [
            ("http://[::1]:8080", "[::1]"),
            ("http://[::2]", "[::1]"),
            ("http://::1", "[::1]"),
            ("http://[::1", "[::1]"),
            ("http://[::1]8080", "[::1]:8080"),
            ("http://[fe80::1%25eth0]", "[fe80::1%25eth0]"),
            ("http://[localhost]", "localhost"),
            ("http://[::ffff:127.0.0.1]", "127.0.0.1"),
        ] {
            assert!(!same(origin, host, PLAIN), "{origin} {host}");
        }
    }

    #[test]
    fn pages_of_other_schemes_are_not_this_servers() {
        for scheme in ["ws", "wss", "ftp", "file", "chrome-extension", "data"] {
            assert!(!same(
                &format!("{scheme}://example.com"),
                "example.com",
                PLAIN
            ));
            let origin = format!("{scheme}://example.com:80");
            assert!(!same(&origin, "example.com:80", PLAIN));
        }
    }
}

mod rfc_6454_section_6_2_serialized_origins {
    use super::*;

    #[test]
    fn what_is_no_origin_is_nobodys() {
        for origin in [
            "",
            "null",
            "example.com",
            "//example.com",
            "://example.com",
            "http://",
            "http:example.com",
            "http://example.com/",
            "http://example.com/page",
            "http://example.com?a",
            "http://example.com#a",
            "http://example.com:",
            "http://example.com:+80",
            "http://example.com:80a",
            "http://example.com:99999",
            "http://example.com:80:80",
            "http://exa%6dple.com",
            "http://exam ple.com",
            // Whoever is before the @ is not the host.
            "http://example.com@evil.example",
            "http://evil.example@example.com",
            "http://example.com:80@evil.example",
            "http://evil.example\\@example.com",
            // RFC 6454 §7.1 has lists; no browser sends one, and whose page it is they do not say.
            "http://example.com http://evil.example",
            "http://evil.example http://example.com",
            "http://example.com, http://example.com",
        ] {
            assert!(!same(origin, "example.com", PLAIN), "{origin}");
            assert!(!listed("http://example.com", origin), "{origin}");
        }
        assert!(!Origins::same().permit(b"http://example.com\xFF", b"example.com\xFF", PLAIN));
    }

    #[test]
    fn a_host_that_is_none_has_no_pages() {
        for host in [
            "",
            ":80",
            "evil@example.com",
            "example.com/",
            "example.com:80:80",
            "*",
        ] {
            assert!(!same("http://example.com", host, PLAIN), "{host}");
        }
        assert!(!same("http://*", "*", PLAIN));
    }
}

mod rfc_6455_section_10_2_lists {
    use super::*;

    #[test]
    fn scheme_host_and_port_are_compared() {
        assert!(listed("https://a.example", "https://a.example"));
        assert!(listed("https://a.example", "https://a.example:443"));
        assert!(listed("https://a.example:443", "https://a.example"));
        assert!(listed("http://localhost:5173", "http://localhost:5173"));
        assert!(listed(
            "chrome-extension://abcdef",
            "chrome-extension://abcdef"
        ));
        for origin in [
            "http://a.example",
            "https://a.example:8443",
            "https://b.example",
            "https://x.a.example",
            "https://a.example.evil.example",
            // Its own pages are no exception.
            "https://server.example",
        ] {
            assert!(!listed("https://a.example", origin), "{origin}");
        }
    }

    #[test]
    fn a_wildcard_is_what_is_below() {
        let entry = "https://*.example.com";
        for origin in [
            "https://a.example.com",
            "https://a.b.EXAMPLE.com",
            "https://a.example.com:443",
        ] {
            assert!(listed(entry, origin), "{origin}");
        }
        for origin in [
            "https://example.com",
            "https://.example.com",
            "https://evilexample.com",
            "https://a.example.com.evil.example",
            "http://a.example.com",
            "https://a.example.com:8443",
            "https://[::1]",
            "https://com",
        ] {
            assert!(!listed(entry, origin), "{origin}");
        }
        assert!(listed("http://*.localhost:8080", "http://a.localhost:8080"));
    }

    #[test]
    fn more_than_one_may_be_let_in_and_the_servers_own_too() {
        let origins = Origins::same().and(["https://a.example", "https://b.example"]);
        let origins = origins.unwrap();
        for origin in [
            "http://own.example",
            "https://a.example",
            "https://b.example",
        ] {
            assert!(origins.permit(origin.as_bytes(), b"own.example", PLAIN));
        }
        assert!(!origins.permit(b"https://c.example", b"own.example", PLAIN));
        assert_eq!(
            origins.to_string(),
            "pages of this host and port, and of https://a.example, https://b.example"
        );
    }

    #[test]
    fn what_is_no_origin_cannot_be_listed() {
        for (entry, words) in [
            ("*", "everyone is let in by `any`"),
            ("https://*", "everyone is let in by `any`"),
            ("null", "has none"),
            ("https://пример.рф", "xn--"),
            ("example.com", "scheme"),
            ("https://example.com/", "scheme"),
            ("https://user@example.com", "scheme"),
            ("https://a.*.example.com", "scheme"),
            ("https://*.", "scheme"),
            ("https://*.*.example.com", "scheme"),
            ("https://*.1.2.3.4", "below an address"),
            ("https://*.1.2.3.4.", "below an address"),
            ("https://*.3.4", "below an address"),
            ("https://*.[::1]", "below an address"),
            ("https://example.com:", "scheme"),
            ("", "scheme"),
        ] {
            let error = Origins::list([entry]).unwrap_err();
            assert!(error.is_user());
            let said = error.to_string();
            assert!(said.contains(words) && said.contains(entry), "{said}");
        }
    }
}
