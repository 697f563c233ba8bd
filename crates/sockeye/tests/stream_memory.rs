//! Messages far larger than the memory they take: there and back through one message each, both
//! ends in this process, whose resident memory never passes 64 MiB.
//!
//! 256 MiB by default; `SOCKEYE_STREAMED_MIB` asks for more. The whole of it, 4 GiB:
//! `SOCKEYE_STREAMED_MIB=4096 cargo test --release -p sockeye --test stream_memory -- --nocapture`.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs, io,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use sockeye::{Acceptor, Client, CloseCode, DeflateConfig, MessageKind, Server, browser};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, copy};

/// The most that this process may ever have had resident, in bytes.
const BOUND: u64 = 64 << 20;

/// The most resident memory there has been, in bytes.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() * 1024
}

/// A sequence that does not repeat at any power of two, so that no part of it can be lost, come
/// twice or change places unseen. It compresses to about two thirds.
struct Sequence {
    block: Vec<u8>,
    at: u64,
    len: u64,
}

impl Sequence {
    fn new(len: u64) -> Self {
        let block = (0..65_521u64).map(|i| (i.wrapping_mul(i * i + 7) >> 11) as u8 & 0x1F);
        Self {
            block: block.collect(),
            at: 0,
            len,
        }
    }

    /// What comes next of it, as much as is in one piece.
    fn next(&self) -> &[u8] {
        let start = (self.at % self.block.len() as u64) as usize;
        let left = usize::try_from(self.len - self.at).unwrap_or(usize::MAX);
        let end = start.saturating_add(left).min(self.block.len());
        &self.block[start..end]
    }
}

/// Gives the sequence.
impl AsyncRead for Sequence {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let count = self.next().len().min(buffer.remaining());
        buffer.put_slice(&self.next()[..count]);
        self.at += count as u64;
        Poll::Ready(Ok(()))
    }
}

/// Takes it, and nothing else.
impl AsyncWrite for Sequence {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let count = self.next().len().min(bytes.len());
        assert!(count > 0, "more than was sent");
        assert_eq!(self.next()[..count], bytes[..count], "at {}", self.at);
        self.at += count as u64;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Sends `len` bytes as one message to a server that sends them back as one while they come.
async fn there_and_back(len: u64, deflate: Option<DeflateConfig>) {
    let server = Server::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/", server.local_addr().unwrap());
    let server = server.acceptor(Acceptor::new().deflate(deflate));
    let serving = tokio::spawn(server.serve(|socket| async move {
        let (sender, mut receiver) = socket.split();
        while let Some(mut message) = receiver.recv_stream().await? {
            let mut echo = sender.send_stream(message.kind()).await?;
            copy(&mut message, &mut echo).await?;
            echo.finish().await?;
        }
        Ok(())
    }));

    let began = Instant::now();
    let client = Client::new(&url).deflate(deflate);
    let mut socket = client.connect().await.unwrap();
    assert_eq!(socket.extensions().is_empty(), deflate.is_none());
    let sender = socket.sender();
    let sending = tokio::spawn(async move {
        let mut message = sender.send_stream(MessageKind::Binary).await.unwrap();
        let sent = copy(&mut Sequence::new(len), &mut message).await.unwrap();
        message.shutdown().await.unwrap();
        sent
    });
    let mut message = socket.recv_stream().await.unwrap().unwrap();
    let mut expected = Sequence::new(len);
    let received = copy(&mut message, &mut expected).await.unwrap();
    assert_eq!((sending.await.unwrap(), received), (len, len));
    socket.close(CloseCode::NORMAL, "").await.unwrap();
    serving.abort();
    println!(
        "{} MiB there and back in one message each{}: {:.1} s, at most {:.1} MiB resident",
        len >> 20,
        if deflate.is_some() { ", deflate" } else { "" },
        began.elapsed().as_secs_f64(),
        peak() as f64 / (1 << 20) as f64,
    );
}

/// Sends `len` bytes as one message to a browser's WebSocket, which reads them as a blob.
async fn as_a_blob(len: u64) {
    let server = Server::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/", server.local_addr().unwrap());
    let server = server.acceptor(Acceptor::new().deflate(None));
    let serving = tokio::spawn(server.serve(move |mut socket| async move {
        let mut message = socket.send_stream(MessageKind::Binary).await?;
        copy(&mut Sequence::new(len), &mut message).await?;
        message.finish().await?;
        while socket.recv().await?.is_some() {}
        Ok(())
    }));
    let socket = browser::WebSocket::new(&url).unwrap();
    let (tell, told) = tokio::sync::oneshot::channel();
    let mut tell = Some(tell);
    socket.on_message(move |event| {
        let browser::Data::Blob(blob) = event.data else {
            panic!("{:?}", event.data);
        };
        let tell = tell.take().unwrap();
        tokio::spawn(async move {
            let read = copy(&mut blob.stream(), &mut Sequence::new(len)).await;
            tell.send(read.unwrap()).unwrap();
        });
    });
    assert_eq!(told.await.unwrap(), len);
    serving.abort();
    println!(
        "{} MiB as a blob: at most {:.1} MiB resident",
        len >> 20,
        peak() as f64 / (1 << 20) as f64,
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_larger_than_memory() {
    let asked = std::env::var("SOCKEYE_STREAMED_MIB").ok();
    let asked = asked.map(|mib| mib.parse::<u64>().unwrap());
    let len = asked.unwrap_or(256) << 20;
    there_and_back(len, None).await;
    // Compressing costs ten times as much.
    let compressed = if asked.is_some() { len } else { len / 8 };
    there_and_back(compressed, DeflateConfig::available()).await;
    as_a_blob(len / 2).await;
    let peak = peak();
    assert!(peak > 1 << 20, "{peak} bytes: measured wrongly");
    assert!(peak < BOUND, "{peak} bytes were resident");
}
