//! A user's future and the driver of its connection, as a server runs them.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use crate::{
    Ended, Result, WebSocket,
    driver::{Driver, code_of},
};

/// What [`WebSocket::drive`] does, for a connection that is open for hours.
///
/// Written out: an async function keeps what it is given beside what becomes of that, which was 230
/// bytes beside the user's own future.
pub(crate) enum Driven<Fut> {
    Working {
        /// First, so that it is dropped first: the socket in it may be given back only then. In a box,
        /// as its size is the user's.
        work: Pin<Box<Fut>>,
        /// None within a handler already: that one's driver writes.
        driver: Option<Driver>,
    },
    /// The last of the connection.
    Finishing(Pin<Box<dyn Future<Output = Result<Option<Ended>>> + Send>>),
}

impl<Fut: Future<Output = Result<()>>> Driven<Fut> {
    pub(crate) fn new(mut socket: WebSocket, work: impl FnOnce(WebSocket) -> Fut) -> Self {
        let mut driver = Driver::new(socket.shared().clone());
        if let Some(link) = driver.as_mut().and_then(Driver::link) {
            socket.lend_to(link);
        }
        Self::Working {
            work: Box::pin(work(socket)),
            driver,
        }
    }
}

impl<Fut: Future<Output = Result<()>>> Future for Driven<Fut> {
    type Output = Result<Option<Ended>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match &mut *self {
                Self::Working { work, driver } => {
                    let result = ready!(match driver {
                        Some(driver) => driver.poll_run(cx, work.as_mut()),
                        None => work.as_mut().poll(cx),
                    });
                    let driver = driver.take();
                    // The work is dropped here, and the socket with it.
                    *self = Self::Finishing(Box::pin(async move {
                        let ended = match driver {
                            Some(driver) => driver.finish(code_of(&result)).await,
                            None => None,
                        };
                        result.map(|()| ended)
                    }));
                }
                Self::Finishing(finishing) => return finishing.as_mut().poll(cx),
            }
        }
    }
}
