//! HTTP/1.1 as it stands on the wire, on a connection that stays open.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    missing_debug_implementations,
    clippy::unwrap_used
)] // other programs have this file too, and take what they need of it

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A request for a WebSocket on `/`, without the empty line.
pub const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: peer\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\n";

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// In lower case.
    pub head: String,
    pub body: String,
}

/// Sends a request and reads the answer to its end, and nothing behind it.
pub async fn ask<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, request: &str) -> Answer {
    stream.write_all(request.as_bytes()).await.unwrap();
    // The answer to HEAD tells of a body that does not come (RFC 9110 §9.3.2).
    read_answer(stream, !request.starts_with("HEAD ")).await
}

pub async fn get<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, path: &str) -> Answer {
    ask(
        stream,
        &format!("GET {path} HTTP/1.1\r\nHost: peer\r\n\r\n"),
    )
    .await
}

pub async fn answer<S: AsyncRead + Unpin>(stream: &mut S) -> Answer {
    read_answer(stream, true).await
}

async fn read_answer<S: AsyncRead + Unpin>(stream: &mut S, has_body: bool) -> Answer {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let length = head.split_once("content-length: ").map_or(0, |(_, rest)| {
        rest.split_once('\r').unwrap().0.parse().unwrap()
    });
    let mut body = vec![0; if has_body { length } else { 0 }];
    stream.read_exact(&mut body).await.unwrap();
    Answer {
        status: head[9..12].parse().unwrap(),
        head,
        body: String::from_utf8(body).unwrap(),
    }
}

/// A request for a WebSocket with one line replaced by others, or by none.
pub fn with(line: &str, instead: &str) -> String {
    let kept = UPGRADE.split_inclusive("\r\n");
    let kept: String = kept.filter(|kept| !kept.starts_with(line)).collect();
    format!("{kept}{instead}\r\n")
}
