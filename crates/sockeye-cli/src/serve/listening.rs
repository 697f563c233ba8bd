//! Where `--listen` says to: TCP addresses, Unix sockets, and what systemd hands over.

use std::{io::ErrorKind, net::UdpSocket};

use sockeye::{Server, server::Listener};

use crate::{args::Serve, failure::Failure};

/// A server on all the places that were named.
pub(super) async fn listen(args: &Serve) -> Result<Server, Failure> {
    let (mut listeners, mut udp) = (Vec::new(), Vec::new());
    for place in &args.listen {
        match place.strip_prefix("unix:") {
            Some(path) => listeners.push(unix(path, args.socket_mode)?),
            None if place == "systemd" => listeners.extend(systemd()?),
            None if args.http3 => {
                let (listener, socket) = tcp_and_udp(place).await?;
                listeners.push(listener);
                udp.push(socket);
            }
            None => listeners.push(tcp(place, args.reuse_port).await?),
        }
    }
    if args.http3 && udp.is_empty() {
        return Err(Failure::new(
            "--http3 has no address to listen on: name one with --listen",
        ));
    }
    let mut listeners = listeners.into_iter();
    let first = listeners
        .next()
        .ok_or_else(|| Failure::new("there is nothing to listen on; name it with --listen"))?;
    let server = listeners.fold(Server::from_listener(first), Server::also);
    Ok(udp.into_iter().fold(server, Server::http3))
}

/// An address, and the same on UDP.
async fn tcp_and_udp(place: &str) -> Result<(Listener, UdpSocket), Failure> {
    /// A port that the system chooses for the one may be somebody's for the other.
    const TRIES: usize = 16;
    let mut taken = Vec::new();
    loop {
        let listener = tcp(place, false).await?;
        let Some(address) = listener.local_addr() else {
            let problem = format!("the system does not say where {place} is");
            return Err(Failure::new(problem));
        };
        match UdpSocket::bind(address) {
            Ok(socket) => return Ok((listener, socket)),
            Err(error)
                if error.kind() == ErrorKind::AddrInUse
                    && place.ends_with(":0")
                    && taken.len() < TRIES =>
            {
                taken.push(listener);
            }
            Err(error) => {
                let problem = format!(
                    "cannot listen on {address} on UDP, where --http3 is: {error}; choose another port with --listen"
                );
                return Err(Failure::new(problem));
            }
        }
    }
}

#[cfg(unix)]
async fn tcp(address: &str, shared: bool) -> Result<Listener, Failure> {
    Ok(match shared {
        true => Listener::reuse_port(address).await?,
        false => Listener::tcp(address).await?,
    })
}

#[cfg(unix)]
fn unix(path: &str, mode: Option<u32>) -> Result<Listener, Failure> {
    Ok(match mode {
        Some(mode) => Listener::unix_with_mode(path, mode)?,
        None => Listener::unix(path)?,
    })
}

#[cfg(not(unix))]
async fn tcp(address: &str, shared: bool) -> Result<Listener, Failure> {
    match shared {
        true => Err(Failure::new("--reuse-port is not to be had on this system")),
        false => Ok(Listener::tcp(address).await?),
    }
}

#[cfg(not(unix))]
fn unix(path: &str, _: Option<u32>) -> Result<Listener, Failure> {
    let problem = format!("unix:{path}: this system has no Unix sockets here");
    Err(Failure::new(problem))
}

#[cfg(target_os = "linux")]
fn systemd() -> Result<Vec<Listener>, Failure> {
    let listeners = Listener::systemd()?;
    if listeners.is_empty() {
        return Err(Failure::new(
            "systemd has handed over no sockets: start this by a .socket unit, or name an address with --listen",
        ));
    }
    Ok(listeners)
}

#[cfg(not(target_os = "linux"))]
fn systemd() -> Result<Vec<Listener>, Failure> {
    Err(Failure::new("--listen systemd is for Linux"))
}
