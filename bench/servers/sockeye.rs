//! Sockeye: the event form and the async form; on one thread, on several, and once a core; and one
//! message for everyone: prepared, sent to each, or by the registry of groups.

use std::{
    env,
    sync::{LazyLock, Mutex, PoisonError},
};

use sockeye::{
    Acceptor, DeflateConfig, Groups, Handler, MessageRef, PerCore, Prepared, Result, Sender,
    Server, Socket, WebSocket, proto::deflate::Level, server::ServerTls,
};

mod serve;

struct Echo;

impl Handler for Echo {
    fn on_message(&mut self, socket: &mut Socket, message: MessageRef<'_>) {
        socket.send(message);
    }
}

fn main() -> Result<()> {
    let (form, address) = serve::arguments();
    let acceptor = acceptor(form);
    let one = async || run(Server::bind(address).await?, acceptor.clone(), form).await;
    let mut more = env::args().skip(3);
    let (how, threads) = (more.next(), more.next());
    let threads = threads.map_or(1, |count| count.parse().expect("a number of threads"));
    match how.as_deref() {
        None => serve::run(one()),
        Some("--workers") => tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build()
            .expect("a runtime can be built")
            .block_on(one()),
        Some("--per-core") => PerCore::bind(address)?
            .threads(threads)
            .serve(|server| run(server, acceptor.clone(), form)),
        Some(other) => panic!("{other} is neither --workers nor --per-core"),
    }
}

async fn run(server: Server, acceptor: Acceptor, form: &str) -> Result<()> {
    // All connections come from this machine, as many as there is memory for.
    let server = server.acceptor(acceptor).max_connections(None);
    match form {
        "events" => server.serve_handler(|| Echo).await,
        "prepared" => server.serve(publish_prepared).await,
        "send" => server.serve(publish_to_each).await,
        "groups" => server.serve(publish_to_group).await,
        _ => server.serve(echo).await,
    }
}

async fn echo(mut socket: WebSocket) -> Result<()> {
    while let Some(message) = socket.recv().await? {
        socket.send(message).await?;
    }
    Ok(())
}

/// Everyone who is connected.
static MEMBERS: Mutex<Vec<Sender>> = Mutex::new(Vec::new());

fn with_members<R>(work: impl FnOnce(&mut Vec<Sender>) -> R) -> R {
    work(&mut MEMBERS.lock().unwrap_or_else(PoisonError::into_inner))
}

async fn publish_prepared(mut socket: WebSocket) -> Result<()> {
    with_members(|members| members.push(socket.sender()));
    while let Some(message) = socket.recv().await? {
        let message = Prepared::new(message);
        with_members(|members| members.retain(|member| member.try_send(&message).is_ok()));
    }
    Ok(())
}

async fn publish_to_each(mut socket: WebSocket) -> Result<()> {
    with_members(|members| members.push(socket.sender()));
    while let Some(message) = socket.recv().await? {
        let members = with_members(std::mem::take);
        for member in &members {
            member.send(&message).await?;
        }
        with_members(|left| *left = members);
    }
    Ok(())
}

async fn publish_to_group(mut socket: WebSocket) -> Result<()> {
    static GROUPS: LazyLock<Groups> = LazyLock::new(Groups::new);
    let member = GROUPS.member(socket.sender());
    member.join("everyone")?;
    while let Some(message) = socket.recv().await? {
        GROUPS.send_to("everyone", message);
    }
    Ok(())
}

/// Compression at `ECHO_LEVEL`, TLS where `ECHO_TLS` is set. A broadcast is compressed whatever its
/// size.
fn acceptor(form: &str) -> Acceptor {
    let mut acceptor = Acceptor::new();
    if let Ok(level) = env::var("ECHO_LEVEL") {
        let level = level.parse().ok().and_then(Level::new);
        let mut config = DeflateConfig {
            level: level.expect("ECHO_LEVEL is a level of zlib"),
            ..DeflateConfig::default()
        };
        if matches!(form, "prepared" | "send" | "groups") {
            config.threshold = 0;
        }
        acceptor = acceptor.deflate(config);
    }
    match serve::tls_config() {
        Some(config) => acceptor.tls(ServerTls::from_config(config)),
        None => acceptor,
    }
}
