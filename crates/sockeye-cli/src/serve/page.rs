//! The page at `/`, one embedded file: a browser's side of a WebSocket, or an example's.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{
        ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue,
        REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    },
    service::Service,
};

/// A browser's side of a WebSocket.
pub(super) const CLIENT: &str = include_str!("../../web/index.html");

/// The page's own script and style are inline; nothing else may load, only sockets may connect,
/// and no other page may show this one.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
    img-src data:; connect-src ws: wss:; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

type Answer = Result<Response<Full<Bytes>>, Infallible>;

/// Answers every request that is not for a WebSocket.
pub(super) fn service(
    page: &'static str,
) -> impl Service<
    Request<Incoming>,
    Response = Response<Full<Bytes>>,
    Error = Infallible,
    Future = std::future::Ready<Answer>,
> + Clone
+ Send
+ Sync
+ 'static {
    hyper::service::service_fn(move |request: Request<Incoming>| {
        std::future::ready(Ok(answer(page, request.method(), request.uri().path())))
    })
}

fn answer(page: &'static str, method: &Method, path: &str) -> Response<Full<Bytes>> {
    const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
    const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
    let (status, kind, body) = match (method, path) {
        (&Method::GET | &Method::HEAD, "/") => (StatusCode::OK, HTML, page),
        (&Method::GET | &Method::HEAD, _) => (
            StatusCode::NOT_FOUND,
            TEXT,
            "There is one page here, at /; WebSockets are accepted at every path.\n",
        ),
        _ => (
            StatusCode::METHOD_NOT_ALLOWED,
            TEXT,
            "Only GET and HEAD are understood here.\n",
        ),
    };
    // hyper leaves the body of an answer to HEAD out, and says how long it would be.
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let mut set = |name: HeaderName, value| response.headers_mut().insert(name, value);
    set(CONTENT_TYPE, kind);
    set(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    set(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    set(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    // The next version of the binary may have another page.
    set(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        set(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}
