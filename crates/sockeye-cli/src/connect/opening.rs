//! Opens connections, and shows what is asked and answered in HTTP where `--verbose` wants it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sockeye::{
    Client, WebSocket,
    client::{Http2, Http3, Response},
};

use crate::{args::Connect, failure::cut, shown::one_line};

/// Opens one connection or one after another.
pub(super) struct Opening {
    client: Client,
    over: Over,
    /// Takes the lines that are to be shown, where any are.
    show: Option<Show>,
}

type Show = Arc<dyn Fn(String) + Send + Sync>;

impl Opening {
    /// `show` is called while a connection is being opened.
    pub(super) fn new(
        mut client: Client,
        args: &Connect,
        over: Over,
        show: impl Fn(String) + Send + Sync + 'static,
    ) -> Self {
        let show: Option<Show> = args.verbose.then(|| Arc::new(show) as Show);
        if let Some(show) = show.clone() {
            client = client.inspect_request(move |head| request(head, &*show));
        }
        Self { client, over, show }
    }

    pub(super) async fn open(&self) -> sockeye::Result<WebSocket> {
        let opened = self.over.open(&self.client).await;
        if let Some(show) = &self.show {
            let answer = match &opened {
                Ok(socket) => socket.response(),
                Err(error) => error.response(),
            };
            answer.into_iter().for_each(|it| response(it, &**show));
        }
        opened
    }
}

/// The version of HTTP on which connections are opened. Clones are of the same connections.
#[derive(Clone)]
pub(super) enum Over {
    Http1,
    Http2,
    /// With the last connection that there was.
    Http3(Arc<Mutex<Option<Http3>>>),
}

impl Over {
    pub(super) fn of(args: &Connect) -> Self {
        match (args.http2, args.http3) {
            (true, _) => Self::Http2,
            (_, true) => Self::Http3(Arc::default()),
            _ => Self::Http1,
        }
    }

    /// Opens a WebSocket, over HTTP/2 and HTTP/3 on a connection that is there for this alone.
    async fn open(&self, client: &Client) -> sockeye::Result<WebSocket> {
        match self {
            Self::Http1 => client.connect().await,
            Self::Http2 => Http2::connect(client).await?.open(client).await,
            Self::Http3(last) => {
                let http3 = Http3::connect(client).await?;
                let before = Self::lock(last).replace(http3.clone());
                drop(before);
                http3.open(client).await
            }
        }
    }

    /// Tells a server that does not hear of it otherwise that this program ends.
    pub(super) async fn end(self) {
        let Self::Http3(last) = self else { return };
        let last = Self::lock(&last).take();
        if let Some(http3) = last {
            http3.close().await;
        }
    }

    fn lock(last: &Mutex<Option<Http3>>) -> MutexGuard<'_, Option<Http3>> {
        last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What shows a server who the user is: a log is no place for its value.
const SECRETS: [&str; 3] = ["Authorization", "Cookie", "Proxy-Authorization"];

/// What the server is asked, as it goes out, but for what only the server is to see.
fn request(head: &[u8], show: &dyn Fn(String)) {
    for line in String::from_utf8_lossy(head).lines() {
        match line.split_once(':') {
            _ if line.is_empty() => {}
            Some((name, _)) if SECRETS.iter().any(|one| name.eq_ignore_ascii_case(one)) => {
                show(format!("> {}: <hidden>", one_line(name)));
            }
            _ => show(format!("> {}", one_line(line))),
        }
    }
}

/// What the server has answered, as it came.
fn response(answer: &Response, show: &dyn Fn(String)) {
    show(format!("< {}", one_line(&answer.to_string())));
    for (name, value) in answer.headers().iter() {
        let value = String::from_utf8_lossy(value);
        show(format!("< {}: {}", one_line(name), one_line(&value)));
    }
    for line in String::from_utf8_lossy(answer.body()).lines() {
        show(format!("  {}", one_line(line)));
    }
    if !cut(answer).is_empty() {
        show("  …".to_owned());
    }
}
