//! Routes by path: both forms of handlers in one table, beside pages, on one thread or a server a core.

use std::net::SocketAddr;

use axum::{Router, routing::get};
use sockeye::{
    Acceptor, Client, Error, Handler, MessageRef, PerCore, Result, Server, Socket, WebSocket,
    server::{Answer, Refusal, Routes},
};
use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use crate::{
    http,
    wire::{Peer, within},
};

/// Says which room it is, again and again.
async fn chat(mut socket: WebSocket) -> Result<()> {
    while socket.recv().await?.is_some() {
        let room = socket.param("room").unwrap().to_owned();
        assert_eq!(socket.param("symbol"), None);
        socket.send(format!("room {room}")).await?;
    }
    Ok(())
}

struct Ticker;

impl Handler for Ticker {
    fn on_message(&mut self, socket: &mut Socket, _: MessageRef<'_>) {
        let symbol = socket.param("symbol").unwrap_or("all").to_owned();
        socket.send(format!("ticker {symbol}"));
    }
}

fn routes() -> Routes {
    Routes::new()
        .at("/chat/{room}", chat)
        .handler("/ticker", || Ticker)
        .handler("/ticker/{symbol}", || Ticker)
}

async fn serve(
    set_up: impl FnOnce(Server) -> Server,
) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<Result<()>>) {
    let server = Server::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = set_up(server).shutdown_on(async {
        let _ = stopped.await;
    });
    (address, stop, tokio::spawn(server.serve_routes(routes())))
}

fn asking(path: &str) -> String {
    http::with("nothing", "").replace("GET / ", &format!("GET {path} "))
}

/// What is said at a path.
async fn hear(address: SocketAddr, path: &str) -> String {
    within(async {
        let url = format!("ws://{address}{path}");
        let mut socket = Client::new(url).no_proxy().connect().await.unwrap();
        socket.send("?").await.unwrap();
        socket.recv().await.unwrap().unwrap().to_string()
    })
    .await
}

#[tokio::test]
async fn each_path_leads_to_its_handler_in_either_form() {
    let (address, stop, served) = serve(|server| server).await;
    assert_eq!(hear(address, "/chat/tea").await, "room tea");
    assert_eq!(hear(address, "/chat/чай%2F1?a=b").await, "room чай/1");
    assert_eq!(hear(address, "/ticker").await, "ticker all");
    assert_eq!(hear(address, "/ticker/GOLD").await, "ticker GOLD");
    stop.send(()).unwrap();
    within(served).await.unwrap().unwrap();
}

#[tokio::test]
async fn section_4_2_2_an_unknown_path_is_refused_in_the_handshake() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let (address, _stop, _) =
        serve(|server| server.on_error(move |_, error| tell.send(error.to_string()).unwrap()))
            .await;
    for (path, status, words) in [
        ("/", 404, "no WebSocket at /"),
        ("/chat", 404, "no WebSocket at /chat"),
        ("/chat/", 404, "no WebSocket at /chat/"),
        ("/chat/tea/more", 404, "no WebSocket at /chat/tea/more"),
        ("/chat/%FF", 400, "room in the path is not UTF-8"),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let answer = within(http::ask(&mut stream, &asking(path))).await;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        assert!(answer.body.contains(words), "{path}: {answer:?}");
        // Before the server has waited for this end to close.
        drop(stream);
        let told = within(told.recv()).await.unwrap();
        assert!(told.contains(words), "{told}");
    }
    // What breaks the standard's rules is told of first.
    let request = asking("/").replace("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8");
    let mut stream = TcpStream::connect(address).await.unwrap();
    assert_eq!(within(http::ask(&mut stream, &request)).await.status, 426);
    assert_eq!(hear(address, "/ticker").await, "ticker all");
}

#[tokio::test]
async fn pages_are_beside_and_may_come_before() {
    let pages = Router::new().route("/chat/{room}", get(async || "a page"));
    let (address, _stop, _) = serve(|server| server.router(pages)).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let answer = within(http::get(&mut stream, "/chat/tea")).await;
    assert_eq!((answer.status, &answer.body[..]), (200, "a page"));
    // The service is not asked where somebody wants a WebSocket.
    let answer = within(http::ask(&mut stream, &asking("/nowhere"))).await;
    assert_eq!(answer.status, 404);
    assert!(
        answer.body.contains("no WebSocket at /nowhere"),
        "{answer:?}"
    );
    let mut stream = TcpStream::connect(address).await.unwrap();
    within(http::get(&mut stream, "/chat/tea")).await;
    let answer = within(http::ask(&mut stream, &asking("/chat/tea"))).await;
    assert_eq!(answer.status, 101, "{answer:?}");
    let mut peer = Peer::opened(stream);
    peer.send_frame(0x81, "?").await;
    peer.expect_text("room tea").await;
}

#[tokio::test]
async fn the_decision_knows_the_parameters_and_is_not_asked_without_a_route() {
    let acceptor = Acceptor::new().on_request(async |request| match request.param("room") {
        Some("private") => Err(Refusal::new(403, "by invitation\n")),
        room => Ok(Answer::new().header("X-Room", room.unwrap_or("none"))),
    });
    let (address, _stop, _) = serve(|server| server.acceptor(acceptor)).await;
    for (path, status, header) in [
        ("/chat/private", 403, ""),
        ("/chat/tea", 101, "x-room: tea"),
        ("/ticker", 101, "x-room: none"),
        ("/nowhere", 404, ""),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let answer = within(http::ask(&mut stream, &asking(path))).await;
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(answer.head.contains(header), "{answer:?}");
    }
}

#[tokio::test]
async fn a_path_that_is_no_route_is_told_before_anything_is_accepted() {
    let server = Server::bind("127.0.0.1:0").await.unwrap();
    let routes = routes().at("/chat/{name}", chat).at("no slash", chat);
    let error = within(server.serve_routes(routes)).await.unwrap_err();
    assert!(matches!(error, Error::Setup(_)), "{error:?}");
    assert!(error.to_string().contains("/chat/{name}"), "{error}");
}

#[tokio::test]
async fn the_same_table_serves_every_core() {
    let servers = PerCore::bind("127.0.0.1:0").unwrap().threads(2);
    let address = servers.local_addr();
    let (stop, stopped) = oneshot::channel::<()>();
    let stopped = std::sync::Mutex::new(Some(stopped));
    let served = std::thread::spawn(move || {
        let routes = routes();
        servers.serve(|server| {
            let stopped = stopped.lock().unwrap().take();
            let server = server.shutdown_on(async {
                match stopped {
                    Some(stopped) => drop(stopped.await),
                    None => std::future::pending().await,
                }
            });
            server.serve_routes(routes.clone())
        })
    });
    for number in 0..8 {
        let path = format!("/chat/{number}");
        assert_eq!(hear(address, &path).await, format!("room {number}"));
        assert_eq!(hear(address, "/ticker").await, "ticker all");
    }
    stop.send(()).unwrap();
    let joined = tokio::task::spawn_blocking(|| served.join());
    within(joined).await.unwrap().unwrap().unwrap();
}
