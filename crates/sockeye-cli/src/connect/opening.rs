//! Opens connections, and shows what is asked and answered in HTTP where `--verbose` wants it.

use std::sync::Arc;

use sockeye::{
    Client, WebSocket,
    client::{Http2, Http3, Response},
};

use crate::{args::Connect, failure::cut, shown::one_line};

/// Opens one connection or one after another.
pub(super) struct Opening {
    client: Client,
    http2: bool,
    http3: bool,
    /// Takes the lines that are to be shown, where any are.
    show: Option<Show>,
}

type Show = Arc<dyn Fn(String) + Send + Sync>;

impl Opening {
    /// `show` is called while a connection is being opened.
    pub(super) fn new(
        mut client: Client,
        args: &Connect,
        show: impl Fn(String) + Send + Sync + 'static,
    ) -> Self {
        let show: Option<Show> = args.verbose.then(|| Arc::new(show) as Show);
        if let Some(show) = show.clone() {
            client = client.inspect_request(move |head| request(head, &*show));
        }
        Self {
            client,
            http2: args.http2,
            http3: args.http3,
            show,
        }
    }

    pub(super) async fn open(&self) -> sockeye::Result<WebSocket> {
        let opened = match (self.http2, self.http3) {
            (true, _) => over_http2(&self.client).await,
            (_, true) => over_http3(&self.client).await,
            _ => self.client.connect().await,
        };
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

/// On a connection of HTTP/2 that is there for this alone.
async fn over_http2(client: &Client) -> sockeye::Result<WebSocket> {
    Http2::connect(client).await?.open(client).await
}

/// On a connection of HTTP/3 that is there for this alone.
async fn over_http3(client: &Client) -> sockeye::Result<WebSocket> {
    Http3::connect(client).await?.open(client).await
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
