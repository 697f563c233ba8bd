//! The names of a server that only this machine reaches: others that lead here are somebody else's (DNS rebinding).

use std::net::IpAddr;

use hyper::Uri;
use sockeye::{
    Shown,
    server::{Listener, Refusal, Request},
};

use crate::args::Serve;

/// Whether only this machine reaches the server, and nobody has said whose pages may connect. Behind a proxy that is
/// believed it has the names of that.
pub(super) fn are_local(args: &Serve, listeners: &[Listener]) -> bool {
    // A Unix socket is reached from this machine too.
    let is_local = |listener: &Listener| {
        let address = listener.local_addr();
        address.is_none_or(|address| address.ip().to_canonical().is_loopback())
    };
    let has_proxy =
        args.proxy_protocol.is_some() || args.forwarded.is_some() || args.x_forwarded_for.is_some();
    let has_port = listeners.iter().any(|it| it.local_addr().is_some());
    args.origin.is_empty() && !has_proxy && has_port && listeners.iter().all(is_local)
}

/// Refuses a page of another name. Whoever owns that can have it lead here once a browser shows their page, whose
/// `Origin` then agrees with `Host`.
pub(super) fn check(request: &Request) -> Result<(), Refusal> {
    let Some(origin) = request.headers().first_str("Origin") else {
        return Ok(());
    };
    let uri = origin.parse::<Uri>().unwrap_or_default();
    if uri.host().is_some_and(is_local) {
        return Ok(());
    }
    let why = format!(
        "a page of {:?} may not connect by default: only this machine reaches this server, and the name may be \
         somebody else's that leads here. `sockeye serve --origin` with it lets its pages in, in place of others\n",
        Shown(origin)
    );
    Err(Refusal::new(403, why))
}

/// Whether a host is this machine for every browser, or an address, which nobody can have lead elsewhere.
fn is_local(host: &str) -> bool {
    let name = host.to_ascii_lowercase();
    let name = name.strip_suffix('.').unwrap_or(&name);
    let address = host.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.ends_with(".localhost") || address.parse::<IpAddr>().is_ok()
}
