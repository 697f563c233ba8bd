//! The handshake's rules on the types of the `http` crate, for HTTP stacks that have read the
//! head themselves.

use alloc::{
    string::{String, ToString},
    vec::Vec,
};

use super::{
    Acceptance, Agreed, HandshakeError, Headers, Offer, Refusal, Request, Response, UpgradeRequest,
    Version,
    headers::Draft,
    request::{CONNECTION_FIELDS, LINE_TOO_LONG},
};

impl From<http::Version> for Version {
    fn from(version: http::Version) -> Self {
        match version {
            http::Version::HTTP_11 => Self::Http11,
            http::Version::HTTP_2 => Self::Http2,
            http::Version::HTTP_3 => Self::Http3,
            _ => Self::Http10,
        }
    }
}

impl Request {
    /// A request that an HTTP stack has read. The names of its headers are in lower case, and those
    /// of one name stand together.
    ///
    /// # Errors
    /// [`HandshakeError::InvalidHeader`], which no stack gives cause for.
    pub fn from_http(
        method: &http::Method,
        uri: &http::Uri,
        version: http::Version,
        headers: &http::HeaderMap,
    ) -> Result<Self, HandshakeError> {
        let target = uri.to_string();
        Self::from_parts(version.into(), method.as_str(), &target, |line| {
            own(line, headers)
        })
    }

    /// A request by extended CONNECT that says `websocket` as its `:protocol`, which the `http` crate has no place for
    /// (RFC 8441 §4; RFC 9220 for HTTP/3).
    ///
    /// # Errors
    /// As [`from_http`](Self::from_http).
    pub fn from_extended_connect(
        uri: &http::Uri,
        version: http::Version,
        headers: &http::HeaderMap,
    ) -> Result<Self, HandshakeError> {
        let target = uri.to_string();
        let joined = with_one_cookie(headers);
        let headers = joined.as_ref().unwrap_or(headers);
        Self::from_connect_parts(version.into(), &target, |line| own(line, headers))
    }
}

/// The headers with one of cookies, where a client has sent them apart, as it may there and browsers do
/// (RFC 9113 §8.2.3, RFC 9114 §4.2.1).
fn with_one_cookie(headers: &http::HeaderMap) -> Option<http::HeaderMap> {
    const COOKIE: http::HeaderName = http::header::COOKIE;
    let mut cookies = headers.get_all(COOKIE).iter();
    cookies.nth(1)?;
    let cookies: Vec<_> = headers
        .get_all(COOKIE)
        .iter()
        .map(http::HeaderValue::as_bytes)
        .collect();
    // What may stand in values may stand in one.
    let joined = http::HeaderValue::from_bytes(&cookies.join(&b"; "[..])).ok()?;
    let mut headers = headers.clone();
    headers.insert(COOKIE, joined);
    Some(headers)
}

impl Offer {
    /// Applies the rules of RFC 6455 §4.2.1 to a request whose body and target are not looked at: whoever has found what
    /// answers it knows its target. [`Request::from_http`] and [`Request::check`] look at that too.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check_http<B>(request: &http::Request<B>) -> Result<Self, HandshakeError> {
        let method = request.method().as_str();
        Self::check(method, request.version().into(), request.headers())
    }
}

impl Acceptance {
    /// The response: 101 Switching Protocols, or 200 to a request by extended CONNECT.
    pub fn to_http(&self) -> http::Response<()> {
        let mut response = http::Response::new(());
        if self.accept.is_some() {
            *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
        }
        append(response.headers_mut(), &self.to_headers());
        if self.accept.is_none() {
            remove_connection_fields(response.headers_mut());
        }
        response
    }
}

impl Refusal {
    /// The response with its body, where its status permits one, over HTTP/1.1. The stack writes `Connection` and
    /// `Content-Length` itself.
    pub fn to_http(&self) -> http::Response<String> {
        let body = if self.has_body() { self.body() } else { "" };
        let mut response = http::Response::new(body.into());
        // A refusal's status is within 200-599.
        if let Ok(status) = http::StatusCode::from_u16(self.status()) {
            *response.status_mut() = status;
        }
        let headers = response.headers_mut();
        append(headers, &self.to_headers());
        headers.remove(http::header::CONTENT_LENGTH);
        if headers.contains_key(http::header::UPGRADE) {
            // RFC 9110 §7.8: who says `Upgrade` says so there, and no stack adds it.
            let upgrade = http::HeaderValue::from_static("Upgrade");
            headers.insert(http::header::CONNECTION, upgrade);
        } else {
            headers.remove(http::header::CONNECTION);
        }
        response
    }

    /// The response to a request by extended CONNECT. There any status of 2xx would open the WebSocket (RFC 8441 §5), and
    /// is 500; and no field may be about a connection (RFC 9113 §8.2.2), without which 426 cannot be (RFC 9110 §15.5.22),
    /// and is 400.
    pub fn to_http_connect(&self) -> http::Response<String> {
        let mut refusal = self.clone();
        refusal.status = match self.status {
            200..=299 => 500,
            426 => 400,
            status => status,
        };
        let mut response = refusal.to_http();
        remove_connection_fields(response.headers_mut());
        response
    }
}

impl UpgradeRequest {
    /// The request, its target as the URI.
    ///
    /// # Errors
    /// As [`to_bytes`](Self::to_bytes).
    pub fn to_http(&self) -> Result<http::Request<()>, HandshakeError> {
        let mut request = http::Request::new(());
        append(request.headers_mut(), &self.to_headers()?);
        *request.uri_mut() = self
            .target()
            .parse()
            .map_err(|_| HandshakeError::InvalidTarget(self.target().into()))?;
        Ok(request)
    }

    /// The request by extended CONNECT, for a `wss` URL where it is `secure` (RFC 8441 §5). That it is for a WebSocket is
    /// to be said as its `:protocol`, which the `http` crate has no place for.
    ///
    /// # Errors
    /// As [`to_bytes`](Self::to_bytes), and for headers that are about a connection.
    pub fn to_extended_connect(&self, secure: bool) -> Result<http::Request<()>, HandshakeError> {
        let mut request = http::Request::new(());
        append(request.headers_mut(), &self.to_connect_headers()?);
        *request.method_mut() = http::Method::CONNECT;
        *request.version_mut() = http::Version::HTTP_2;
        *request.uri_mut() = http::Uri::builder()
            .scheme(if secure { "https" } else { "http" })
            .authority(self.host())
            .path_and_query(self.target())
            .build()
            .map_err(|_| HandshakeError::InvalidTarget(self.target().into()))?;
        Ok(request)
    }

    /// Judges the server's answer by the rules of RFC 6455 §4.1.
    ///
    /// # Errors
    /// The first rule that is broken. [`HandshakeError::Status`] carries the headers, no body.
    pub fn check_http<B>(&self, response: &http::Response<B>) -> Result<Agreed, HandshakeError> {
        if response.status() == http::StatusCode::SWITCHING_PROTOCOLS {
            // Only there it is known (RFC 9110 §7.8, RFC 9113 §8.6).
            return match Version::from(response.version()) {
                Version::Http11 => self.check_headers(response.headers()),
                Version::Http10 => Err(HandshakeError::Http10),
                _ => Err(HandshakeError::HttpVersion),
            };
        }
        let headers = own(&[], response.headers())?;
        let status = response.status().as_u16();
        Err(HandshakeError::Status(
            Response::from_parts(status, headers, false).into(),
        ))
    }
}

impl Response {
    /// The answer to extended CONNECT that an HTTP stack has read.
    ///
    /// # Errors
    /// As [`Request::from_http`].
    pub fn of_connect<B>(response: &http::Response<B>) -> Result<Self, HandshakeError> {
        let headers = own(&[], response.headers())?;
        Ok(Self::from_parts(response.status().as_u16(), headers, true))
    }
}

fn own(line: &[&str], map: &http::HeaderMap) -> Result<Headers, HandshakeError> {
    let fields = || {
        let fields = map.iter();
        fields.map(|(name, value)| (name.as_str(), value.as_bytes()))
    };
    let mut draft = Draft::behind(line, fields()).ok_or(LINE_TOO_LONG)?;
    for (name, value) in fields() {
        draft.push(name, value)?;
    }
    Ok(draft.finish())
}

/// What may not stand on a stream (RFC 9113 §8.2.2).
fn remove_connection_fields(map: &mut http::HeaderMap) {
    map.remove(http::header::CONNECTION);
    map.remove(http::header::UPGRADE);
    for name in CONNECTION_FIELDS {
        map.remove(name);
    }
}

fn append(map: &mut http::HeaderMap, headers: &Headers) {
    for (name, value) in headers.iter() {
        // What may stand in `Headers` may stand in a `HeaderMap`.
        if let (Ok(name), Ok(value)) = (
            http::HeaderName::try_from(name),
            http::HeaderValue::from_bytes(value),
        ) {
            map.append(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handshake::Key;

    fn client() -> UpgradeRequest {
        let mut client = UpgradeRequest::new("example.com", "/chat?a=1", Key::new([1; 16]));
        client.header("X-Name", "value").unwrap();
        client
    }

    #[test]
    fn both_roles_agree() {
        let request = client().to_http().unwrap();
        assert_eq!(request.uri(), "/chat?a=1");
        assert_eq!(request.headers()["x-name"], "value");
        let offer = Offer::check_http(&request).unwrap();
        let mut answer = Acceptance::new(&offer);
        answer.header("Set-Cookie", "a=b").unwrap();
        let response = answer.to_http();
        assert_eq!(response.headers()["set-cookie"], "a=b");
        assert_eq!(client().check_http(&response).unwrap().subprotocol, None);
    }

    #[test]
    fn a_request_is_the_same_as_from_bytes() {
        let http = client().to_http().unwrap();
        let (method, headers) = (http.method(), http.headers());
        let request = Request::from_http(method, http.uri(), http.version(), headers).unwrap();
        let bytes = client().to_bytes().unwrap();
        let parsed = Request::parse(&bytes).unwrap();
        assert_eq!(request.check(), parsed.check());
        assert_eq!(request.target(), parsed.target());
        assert_eq!(request.path(), "/chat");
        assert_eq!(request.headers().first_str("X-Name"), Some("value"));
    }

    #[test]
    fn the_same_rules_hold() {
        let mut request = client().to_http().unwrap();
        request.headers_mut().append("host", "b".parse().unwrap());
        assert_eq!(
            Offer::check_http(&request),
            Err(HandshakeError::Repeated("Host"))
        );
        let mut request = client().to_http().unwrap();
        *request.version_mut() = http::Version::HTTP_2;
        let error = Offer::check_http(&request).unwrap_err();
        assert_eq!(error, HandshakeError::HttpVersion);
        let refusal = Refusal::from(error).to_http();
        assert_eq!(refusal.status(), 400);
        assert!(!refusal.headers().contains_key("connection"));
        let refusal = Refusal::from(HandshakeError::Upgrade).to_http();
        assert_eq!(refusal.headers()["connection"], "Upgrade");
    }

    /// RFC 9110 §7.8 and RFC 9113 §8.6: only HTTP/1.1 has a 101.
    #[test]
    fn an_answer_of_another_version_opens_nothing() {
        let offer = Offer::check_http(&client().to_http().unwrap()).unwrap();
        let mut answer = Acceptance::new(&offer).to_http();
        for (version, error) in [
            (http::Version::HTTP_10, HandshakeError::Http10),
            (http::Version::HTTP_2, HandshakeError::HttpVersion),
        ] {
            *answer.version_mut() = version;
            assert_eq!(client().check_http(&answer), Err(error), "{version:?}");
        }
    }

    /// RFC 8441 §4 and §5.
    mod extended_connect {
        use super::*;

        fn request(url: &str, fields: &[(&'static str, &str)]) -> Request {
            let mut headers = http::HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, value.parse().unwrap());
            }
            let url = url.parse().unwrap();
            Request::from_extended_connect(&url, http::Version::HTTP_2, &headers).unwrap()
        }

        const VERSION: (&str, &str) = ("sec-websocket-version", "13");

        #[test]
        fn a_stream_is_opened_without_a_key() {
            for url in [
                "https://example.com/chat?a=1",
                "http://example.com/chat?a=1",
            ] {
                let request = request(url, &[VERSION, ("sec-websocket-protocol", "a, b")]);
                assert!(request.is_upgrade());
                assert_eq!(
                    (request.method(), request.version()),
                    ("CONNECT", Version::Http2)
                );
                assert_eq!((request.path(), request.query()), ("/chat", Some("a=1")));
                assert_eq!(request.authority(), Some("example.com"));
                let offer = request.check().unwrap();
                assert_eq!(offer.accept, None);
                let mut answer = Acceptance::new(&offer);
                answer.subprotocol("b").header("X-Name", "value").unwrap();
                let response = answer.to_http();
                assert_eq!(response.status(), 200);
                let names = response.headers().keys().map(http::HeaderName::as_str);
                let names: alloc::vec::Vec<_> = names.collect();
                assert_eq!(names, ["sec-websocket-protocol", "x-name"]);
            }
        }

        #[test]
        fn both_roles_agree() {
            let request = client().to_extended_connect(true).unwrap();
            assert_eq!(request.method(), http::Method::CONNECT);
            assert_eq!(request.uri(), "https://example.com/chat?a=1");
            let names = request.headers().keys().map(http::HeaderName::as_str);
            let names: alloc::vec::Vec<_> = names.collect();
            assert_eq!(names, ["sec-websocket-version", "x-name"]);
            let (uri, version) = (request.uri(), request.version());
            let read = Request::from_extended_connect(uri, version, request.headers()).unwrap();
            let answer = Acceptance::new(&read.check().unwrap()).to_http();
            let answer = Response::of_connect(&answer).unwrap();
            assert_eq!(client().check_connect(&answer).unwrap().subprotocol, None);
        }

        /// A bug: only the first of them was seen. RFC 9113 §8.2.3: browsers send each by itself.
        #[test]
        fn cookies_that_come_apart_are_one_header() {
            let url = "https://example.com/";
            for (sent, seen) in [
                (&["a=1"][..], Some("a=1")),
                (&["a=1", "b=2", "c=3"], Some("a=1; b=2; c=3")),
                (&[], None),
            ] {
                let fields: Vec<_> = sent.iter().map(|cookie| ("cookie", *cookie)).collect();
                let request = request(url, &[&fields[..], &[VERSION, ("x", "y")]].concat());
                assert_eq!(request.headers().first_str("Cookie"), seen);
                let count = request
                    .headers()
                    .iter()
                    .filter(|(name, _)| name.eq_ignore_ascii_case("cookie"));
                assert_eq!(count.count(), usize::from(seen.is_some()));
                assert_eq!(request.headers().first_str("x"), Some("y"));
            }
        }

        #[test]
        fn an_answer_of_another_status_declines() {
            for (status, opens) in [
                (101, false),
                (200, true),
                (204, true),
                (300, false),
                (403, false),
            ] {
                let answer = http::Response::builder().status(status).body(()).unwrap();
                let answer = Response::of_connect(&answer).unwrap();
                let checked = client().check_connect(&answer);
                assert_eq!(checked.is_ok(), opens, "{status}");
                if let Err(error) = checked {
                    let told = error.to_string();
                    assert!(told.contains("instead of 200 OK"), "{told}");
                }
            }
        }

        /// A bug: a 2xx that a server refuses with opened the stream (RFC 8441 §5), and 426 had fields that no stream
        /// has (RFC 9113 §8.2.2).
        #[test]
        fn a_refusal_opens_nothing_and_is_not_about_a_connection() {
            let version = HandshakeError::WebSocketVersion("8".into());
            let kept = Refusal::new(403, "a").header("Keep-Alive", "timeout=5");
            for (refusal, status) in [
                (Refusal::new(200, "a"), 500),
                (Refusal::new(204, "a"), 500),
                (Refusal::new(302, "a"), 302),
                (kept.unwrap(), 403),
                (version.into(), 400),
                (HandshakeError::Upgrade.into(), 400),
            ] {
                let answer = refusal.to_http_connect();
                assert_eq!(answer.status(), status, "{refusal}");
                assert_eq!(answer.body(), refusal.body());
                for name in ["connection", "upgrade", "keep-alive", "content-length"] {
                    assert!(!answer.headers().contains_key(name), "{answer:?}");
                }
                let answer = Response::of_connect(&answer).unwrap();
                assert!(client().check_connect(&answer).is_err());
            }
            let mut answer = Acceptance::new(&request("http://a/", &[VERSION]).check().unwrap());
            answer.header("Keep-Alive", "timeout=5").unwrap();
            assert!(answer.to_http().headers().is_empty());
        }

        #[test]
        fn what_was_not_offered_is_refused() {
            for (name, value) in [
                ("sec-websocket-protocol", "chat"),
                ("sec-websocket-extensions", "permessage-deflate"),
            ] {
                let answer = http::Response::builder()
                    .header(name, value)
                    .body(())
                    .unwrap();
                let answer = Response::of_connect(&answer).unwrap();
                assert!(client().check_connect(&answer).is_err(), "{name}");
            }
        }

        #[test]
        fn what_is_about_a_connection_cannot_be_sent() {
            for name in ["Keep-Alive", "Proxy-Connection", "te"] {
                let mut client = client();
                client.header(name, "trailers").unwrap();
                let error = client.to_extended_connect(false).unwrap_err();
                assert!(
                    matches!(error, HandshakeError::ReservedHeader(_)),
                    "{error}"
                );
            }
        }

        #[test]
        fn it_is_one_of_a_later_version_too() {
            let url = "https://example.com/".parse().unwrap();
            let mut headers = http::HeaderMap::new();
            headers.insert("sec-websocket-version", "13".parse().unwrap());
            let version = http::Version::HTTP_3;
            let request = Request::from_extended_connect(&url, version, &headers).unwrap();
            assert_eq!(request.version(), Version::Http3);
            assert!(request.check().is_ok());
        }

        #[test]
        fn the_rules_hold() {
            let url = "https://example.com/";
            let error = |url, fields: &[_]| request(url, fields).check().unwrap_err();
            for fields in [&[][..], &[("sec-websocket-version", "8")]] {
                let error = error(url, fields);
                assert!(
                    matches!(error, HandshakeError::WebSocketVersion(_)),
                    "{error}"
                );
            }
            let twice = error(url, &[VERSION, VERSION]);
            assert_eq!(twice, HandshakeError::Repeated("Sec-WebSocket-Version"));
            // Without a scheme there is no authority either.
            for url in ["/chat", "example.com"] {
                let missing = error(url, &[VERSION]);
                assert_eq!(missing, HandshakeError::Missing(":authority"), "{url}");
            }
            let nobody = error("https://:443/", &[VERSION]);
            assert_eq!(nobody, HandshakeError::Malformed(":authority is no host"));
            for url in ["ftp://example.com/", "ws://example.com/"] {
                let scheme = error(url, &[VERSION]);
                assert!(matches!(scheme, HandshakeError::Malformed(_)), "{scheme}");
            }
            for field in [
                ("host", "other"),
                ("upgrade", "websocket"),
                ("connection", "close"),
            ] {
                let malformed = error(url, &[VERSION, field]);
                assert!(
                    matches!(malformed, HandshakeError::Malformed(_)),
                    "{field:?}"
                );
            }
            let body = error(url, &[VERSION, ("content-length", "1")]);
            assert_eq!(body, HandshakeError::Body);
            let expect = error(url, &[VERSION, ("expect", "100-continue")]);
            assert_eq!(expect, HandshakeError::Expect);
            assert!(
                request(url, &[VERSION, ("host", "Example.com")])
                    .check()
                    .is_ok()
            );
        }

        #[test]
        fn another_request_of_http_2_opens_nothing() {
            let url = "https://example.com/".parse().unwrap();
            let mut headers = http::HeaderMap::new();
            headers.insert("sec-websocket-version", "13".parse().unwrap());
            for method in [http::Method::GET, http::Method::CONNECT] {
                let request = Request::from_http(&method, &url, http::Version::HTTP_2, &headers);
                let request = request.unwrap();
                assert!(!request.is_upgrade());
                assert_eq!(request.check(), Err(HandshakeError::HttpVersion));
            }
        }
    }

    /// RFC 9110 §6.4.1 and §15.3.6.
    #[test]
    fn a_refusal_without_content_has_none_either() {
        for status in [204, 205, 304] {
            let refusal = Refusal::new(status, "text").to_http();
            assert_eq!(refusal.status(), status);
            assert_eq!(refusal.body(), "", "{status}");
        }
        assert_eq!(Refusal::new(403, "text").to_http().body(), "text");
    }

    #[test]
    fn the_stack_writes_the_length_of_a_refusal() {
        let refusal = Refusal::new(403, "text").to_http();
        assert!(!refusal.headers().contains_key("content-length"));
    }

    #[test]
    fn a_status_is_handed_on() {
        let mut response = http::Response::new(());
        *response.status_mut() = http::StatusCode::FOUND;
        response
            .headers_mut()
            .insert("location", "/other".parse().unwrap());
        let Err(HandshakeError::Status(answer)) = client().check_http(&response) else {
            panic!("accepted");
        };
        assert_eq!(answer.status(), 302);
        assert_eq!(answer.headers().first_str("Location"), Some("/other"));
    }
}
