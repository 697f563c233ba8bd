//! What `tracing` is told of connections.

use std::{
    collections::BTreeMap,
    fmt::{Debug, Write},
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use sockeye::{Client, CloseCode, Handler, MessageRef, Server, Socket, accept};
use tokio::{io::duplex, sync::mpsc};
use tracing::{
    Dispatch, Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
    subscriber::DefaultGuard,
};

use crate::wire::within;

/// Records spans and events, as one thread sees them.
#[derive(Clone, Default)]
struct Recorder(Arc<Recorded>);

#[derive(Default)]
struct Recorded {
    next: AtomicU64,
    spans: Mutex<BTreeMap<u64, Fields>>,
    entered: Mutex<Vec<u64>>,
    events: Mutex<Vec<Told>>,
}

#[derive(Clone, Debug, Default)]
struct Fields(BTreeMap<&'static str, String>);

#[derive(Clone, Debug)]
struct Told {
    level: Level,
    fields: Fields,
    /// The fields of the span that it is in.
    within: Option<Fields>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = self.0.entry(field.name()).or_default();
        write!(text, "{value:?}").unwrap();
    }
}

impl Fields {
    fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", |value| value)
    }
}

impl Subscriber for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "sockeye" || metadata.target() == "spans"
    }

    fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed) + 1;
        assert_eq!(*attributes.metadata().level(), Level::INFO);
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        self.0.spans.lock().unwrap().insert(id, fields);
        span::Id::from_u64(id)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let entered = self.0.entered.lock().unwrap().last().copied();
        let id = event.parent().map(span::Id::into_u64).or(entered);
        let within = id.map(|id| self.0.spans.lock().unwrap()[&id].clone());
        let level = *event.metadata().level();
        self.0.events.lock().unwrap().push(Told {
            level,
            fields,
            within,
        });
    }

    fn enter(&self, id: &span::Id) {
        self.0.entered.lock().unwrap().push(id.into_u64());
    }

    fn exit(&self, id: &span::Id) {
        assert_eq!(self.0.entered.lock().unwrap().pop(), Some(id.into_u64()));
    }
}

/// A recorder that hears nothing. While there is only one, tracing asks the thread that comes to an event first, once for
/// all, whether that is of interest: another test's thread would say that it is not.
static ANOTHER: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(Recorder::default()));

impl Recorder {
    fn hear_this_thread(&self) -> DefaultGuard {
        LazyLock::force(&ANOTHER);
        tracing::subscriber::set_default(self.clone())
    }

    fn events(&self) -> Vec<Told> {
        self.0.events.lock().unwrap().clone()
    }

    /// The only event with this message.
    fn the(&self, message: &str) -> Told {
        let events = self.events();
        let mut found = events
            .iter()
            .filter(|told| told.fields.get("message").starts_with(message));
        let told = found
            .next()
            .unwrap_or_else(|| panic!("{message}: {events:#?}"));
        assert!(found.next().is_none(), "{events:#?}");
        told.clone()
    }
}

struct Saying(mpsc::UnboundedSender<()>);

impl Handler for Saying {
    fn on_message(&mut self, socket: &mut Socket, message: MessageRef<'_>) {
        tracing::info!(target: "spans", "callback has {message}");
        socket.send(message);
    }

    fn on_close(&mut self, _: &mut Socket, _: &sockeye::Ended) {
        let _ = self.0.send(());
    }
}

#[tokio::test]
async fn a_servers_handler_runs_within_the_span_of_its_connection() {
    for events in [false, true] {
        let recorder = Recorder::default();
        let _default = recorder.hear_this_thread();
        let server = Server::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let acceptor = sockeye::Acceptor::new().subprotocol("chat");
        let server = server.acceptor(acceptor);
        let (done, mut ended) = mpsc::unbounded_channel();
        let serving = tokio::spawn(async move {
            if events {
                server.serve_handler(move || Saying(done.clone())).await
            } else {
                server
                    .serve(move |mut socket| {
                        let done = done.clone();
                        async move {
                            while let Some(message) = socket.recv().await? {
                                tracing::info!(target: "spans", "loop has {message}");
                                socket.send(message).await?;
                            }
                            let _ = done.send(());
                            Ok(())
                        }
                    })
                    .await
            }
        });
        let client = Client::new(format!("ws://user:secret@{address}/room?token=secret"));
        let mut client = client.subprotocol("chat").connect().await.unwrap();
        let peer = client.peer_addr().unwrap();
        assert_eq!(peer, address);
        client.send("ping").await.unwrap();
        within(client.recv()).await.unwrap();
        within(client.close(CloseCode::new(4000).unwrap(), "bye"))
            .await
            .unwrap();
        within(ended.recv()).await;
        within(async {
            while recorder.events().len() < 5 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        serving.abort();

        let said = recorder.the(if events { "callback has" } else { "loop has" });
        let span = said.within.unwrap();
        assert_eq!(span.get("role"), "\"server\"");
        assert_eq!(span.get("path"), "\"/room\"");
        assert_eq!(span.get("subprotocol"), "\"chat\"");
        assert!(span.get("peer").starts_with("127.0.0.1:"));
        assert!(span.get("id").parse::<u64>().unwrap() > 0);
        let all = recorder.events();
        assert!(!format!("{all:?}").contains("secret"), "{all:?}");
        for told in &all {
            let own = told.fields.get("message").contains(" has ");
            assert_eq!(told.level, if own { Level::INFO } else { Level::DEBUG });
        }
        let of = |role: &str, message: &str| {
            let mut found = all.iter().filter(|told| {
                let span = told.within.as_ref().unwrap();
                span.get("role").contains(role) && told.fields.get("message").starts_with(message)
            });
            let told = found
                .next()
                .unwrap_or_else(|| panic!("{role} {message}: {all:#?}"));
            assert!(found.next().is_none());
            told.clone()
        };
        of("server", "open");
        let url = format!("\"ws://{address}/room\"");
        assert_eq!(of("client", "open").within.unwrap().get("url"), url);
        let closed = of("server", "closed by the peer with 4000");
        assert_eq!(closed.fields.get("code"), "4000");
        assert_eq!(closed.fields.get("received_messages"), "1");
        assert_eq!(closed.fields.get("sent_bytes"), "4");
        of("client", "closed by this end");
    }
}

#[tokio::test]
async fn who_is_not_let_in_is_told_with_the_reason() {
    let recorder = Recorder::default();
    let _default = recorder.hear_this_thread();
    let (mut ours, theirs) = duplex(1000);
    let asked = async {
        use tokio::io::AsyncWriteExt;
        ours.write_all(b"nonsense\r\n\r\n").await.unwrap();
        drop(ours);
    };
    let (refused, ()) = tokio::join!(accept(theirs), asked);
    assert!(refused.is_err());
    let told = recorder.the("not let in");
    assert_eq!(told.level, Level::DEBUG);
    assert!(told.fields.get("message").contains("malformed"));
}
