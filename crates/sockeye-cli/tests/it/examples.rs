//! `sockeye serve --example`: the servers, as clients without their pages see them. What the pages make of them is tested in
//! a browser.

use nix::sys::signal::Signal::SIGINT;
use sockeye::{Client, Message, WebSocket};

use crate::program::{Server, http, run, serve, within};

async fn open(server: &Server) -> WebSocket {
    let client = Client::new(&server.url);
    within(client.connect()).await.unwrap()
}

async fn next(socket: &mut WebSocket) -> Message {
    let message = within(socket.recv()).await.unwrap();
    message.unwrap_or_else(|| panic!("{:?}", socket.ended()))
}

/// Waits for a message that has this in it.
async fn expect(socket: &mut WebSocket, text: &str) {
    while !next(socket).await.to_string().contains(text) {}
}

/// With which code the server closes a connection, whatever it sends before that.
async fn closed(mut socket: WebSocket, message: &str) -> u16 {
    // Refused where the server was quicker.
    let _ = socket.send(message).await;
    while within(socket.recv()).await.unwrap().is_some() {}
    socket.ended().unwrap().code()
}

#[tokio::test]
async fn each_has_its_page_and_ends_as_it_should() {
    for (name, title) in [
        ("chat", "Chat"),
        ("ticker", "Prices"),
        ("game", "Pond"),
        ("monitor", "Monitor"),
    ] {
        let server = serve(&["--example", name]);
        let request = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let page = http(server.address, request);
        assert!(page.starts_with("HTTP/1.1 200 "), "{page}");
        assert!(page.contains(&format!("<title>{title} · Sockeye</title>")));
        assert!(page.to_lowercase().contains("content-security-policy"));
        // A longer message than any of them makes sense of.
        let long = "x".repeat(100_000);
        assert_eq!(closed(open(&server).await, &long).await, 1009, "{name}");
        let mut socket = open(&server).await;
        next(&mut socket).await;
        server.program.signal(SIGINT);
        while within(socket.recv()).await.unwrap().is_some() {}
        assert_eq!(socket.ended().unwrap().code(), 1001, "{name}");
        assert_eq!(server.program.end().status, Some(0), "{name}");
    }
}

#[test]
fn what_is_no_example_is_refused_with_the_names_of_those_that_are() {
    for args in [
        &["serve", "--example", "poker"][..],
        &["serve", "--example"],
    ] {
        let end = run(args, "");
        assert_eq!(end.status, Some(2));
        for name in ["chat", "ticker", "game", "monitor"] {
            assert!(end.stderr.contains(name), "{}", end.stderr);
        }
    }
}

#[tokio::test]
async fn chat_goes_to_the_room_and_to_no_other() {
    let server = serve(&["--example", "chat"]);
    let mut people = Vec::new();
    for (name, room) in [("Ada", "lobby"), ("Grace", "lobby"), ("Bo", "fish")] {
        let mut socket = open(&server).await;
        let join = format!(r#"{{"type":"join","room":"{room}","name":"{name}"}}"#);
        socket.send(join).await.unwrap();
        expect(&mut socket, r#""type":"joined""#).await;
        people.push(socket);
    }
    let say = r#"{"type":"say","text":"\"Привет\" <b>"}"#;
    people[0].send(say).await.unwrap();
    for person in &mut people[..2] {
        let said = r#"{"type":"said","name":"Ada","text":"\"Привет\" <b>"}"#;
        expect(person, said).await;
    }
    // Whatever Bo was sent has come before this.
    people[2].send(say).await.unwrap();
    let first_said = loop {
        let message = next(&mut people[2]).await.to_string();
        if message.contains(r#""type":"said""#) {
            break message;
        }
    };
    assert!(first_said.contains(r#""name":"Bo""#), "{first_said}");

    let mut late = open(&server).await;
    let join = r#"{"type":"join","room":"lobby","name":"Ada"}"#;
    late.send(join).await.unwrap();
    expect(&mut late, "somebody is called Ada already").await;
    drop(people.remove(0));
    expect(&mut people[0], r#""left":"Ada""#).await;
    late.send(join).await.unwrap();
    expect(&mut late, r#""type":"joined""#).await;
    for text in ["", "a\\u0000b"] {
        let say = format!(r#"{{"type":"say","text":"{text}"}}"#);
        late.send(say).await.unwrap();
        expect(&mut late, r#""type":"error""#).await;
    }
    assert_eq!(closed(late, "{}").await, 1008);
}

#[tokio::test]
async fn ticker_sends_one_update_for_each_that_was_dealt_with() {
    let server = serve(&["--example", "ticker"]);
    let mut socket = open(&server).await;
    let mut other = open(&server).await;
    let tick = |message: &Message| {
        let text = message.to_string();
        let number = text.strip_prefix(r#"{"tick":"#).unwrap();
        number[..number.find(',').unwrap()].parse::<u64>().unwrap()
    };
    let first = tick(&next(&mut socket).await);
    // Meanwhile another client is sent many; of those there is none for this one.
    let mut newest = first;
    while newest < first + 20 {
        newest = tick(&next(&mut other).await);
        other.send("ready").await.unwrap();
    }
    socket.send("ready").await.unwrap();
    let second = tick(&next(&mut socket).await);
    assert!(second >= newest, "{second}, while there was {newest}");
    assert_eq!(closed(socket, "what?").await, 1008);
}
