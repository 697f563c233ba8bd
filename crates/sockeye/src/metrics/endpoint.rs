//! Where Prometheus asks for the metrics: an HTTP server for that alone.

use std::{future::poll_fn, io, sync::Arc, time::Duration};

use sockeye_proto::handshake::{HandshakeError, HeadLimits, HeadScanner, Refusal, Request};
use tokio::{
    sync::Semaphore,
    task::spawn_blocking,
    time::{sleep, timeout},
};

use super::Metrics;
use crate::{
    Error, Result,
    head::read_head,
    server::{Listener, refusal},
    stream::Stream,
};

/// How long a request may take, its answer included.
const TIME: Duration = Duration::from_secs(10);

/// How many are answered at once: Prometheus asks now and then, and nobody else should.
const AT_ONCE: usize = 8;

/// How long to wait where the system has run out of descriptors.
const PAUSE: Duration = Duration::from_millis(50);

impl Metrics {
    /// Answers `GET /metrics` on a port of its own, for as long as it is polled: run it in a task. It
    /// speaks HTTP/1.1, closes each connection after its answer, and answers eight at once, each within 10 s.
    ///
    /// Anyone who reaches the port can read the metrics; listen where the public does not. To have them
    /// on the port of the server, answer with [`encode`](Self::encode) from its HTTP service.
    ///
    /// # Cancel safety
    /// Dropping the future stops listening.
    pub async fn serve(self, listener: impl Into<Listener>) {
        let (listener, room) = (listener.into(), Arc::new(Semaphore::new(AT_ONCE)));
        loop {
            // Never closed.
            let Ok(place) = room.clone().acquire_owned().await else {
                return;
            };
            match poll_fn(|cx| listener.poll_accept(cx)).await {
                Ok((stream, _)) => {
                    let metrics = self.clone();
                    tokio::spawn(async move {
                        // What goes wrong is between the two of them; the next request comes soon.
                        let _ = timeout(TIME, metrics.answer(stream)).await;
                        drop(place);
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_) => sleep(PAUSE).await,
            }
        }
    }

    async fn answer(&self, mut stream: Stream) -> Result<()> {
        let response = match self.response(&mut stream).await {
            Ok(response) => response,
            Err(Error::Handshake(error)) if error != HandshakeError::UnexpectedEnd => {
                refusal::to_bytes(&Refusal::from(&error), false)
            }
            Err(error) => return Err(error),
        };
        let written = refusal::write_last(&mut stream, &response, 64 * 1024).await;
        written.map_err(Error::lost)
    }

    async fn response(&self, stream: &mut Stream) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut scanner = HeadScanner::request(HeadLimits::default());
        let end = read_head(stream, &mut scanner, &mut bytes).await?;
        let request = Request::parse(&bytes[..end])?;
        match (request.method(), request.path()) {
            ("GET" | "HEAD", "/metrics") => {}
            (method @ ("GET" | "HEAD"), _) => {
                let elsewhere = Refusal::new(404, "the metrics are at /metrics\n");
                return Ok(refusal::to_bytes(&elsewhere, method == "HEAD"));
            }
            _ => {
                let refused = Refusal::new(405, "metrics are read with GET\n");
                return Ok(refusal::to_bytes(
                    &refused.header("Allow", "GET, HEAD")?,
                    false,
                ));
            }
        }
        let metrics = self.clone();
        // With many connections it takes some milliseconds, in which others want this thread.
        let Ok(body) = spawn_blocking(move || metrics.encode()).await else {
            let failed = Refusal::new(500, "the metrics cannot be told\n");
            return Ok(refusal::to_bytes(&failed, false));
        };
        let mut response = format!(
            "HTTP/1.1 200 OK\r\nDate: {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            refusal::now(),
            Self::CONTENT_TYPE,
            body.len()
        );
        if request.method() == "GET" {
            response.push_str(&body);
        }
        Ok(response.into_bytes())
    }
}
