//! Connected again after the server was killed: the library's client, and `sockeye connect`.

use std::time::Duration;

use sockeye::{
    Client,
    client::{Cause, Reconnecting, Update},
};

use crate::program::{Port, Program, Server, run, serve, within};

/// `sockeye serve`, killed, and another on its port.
fn restart(mut server: Server, port: &Port, args: &[&str]) -> Server {
    // SIGKILL: no Close, no goodbye.
    server.program.kill();
    drop(server);
    port.serve(args)
}

#[tokio::test]
async fn the_library_is_connected_again_when_the_server_is() {
    let port = Port::new();
    let mut server = port.serve(&[]);
    let mut socket = Reconnecting::new(Client::new(&server.url))
        .max_delay(Duration::from_secs(1))
        .on_open(|mut socket| async move {
            socket.send("subscribe").await?;
            Ok(socket)
        });
    for round in 0..3 {
        // What comes first on every connection, and comes back.
        let message = within(socket.recv()).await.unwrap().unwrap();
        assert_eq!(message.as_text(), Some("subscribe"));
        let text = format!("round {round}");
        within(socket.send(&text)).await.unwrap();
        let message = within(socket.recv()).await.unwrap().unwrap();
        assert_eq!(message.as_text(), Some(&text[..]));
        server = restart(server, &port, &[]);
        match within(socket.recv_update()).await.unwrap().unwrap() {
            Update::Waiting {
                cause: Cause::Connection(ended),
                ..
            } => assert_eq!(ended.code(), 1006),
            other => panic!("{other:?}"),
        }
    }
    let message = within(socket.recv()).await.unwrap().unwrap();
    assert_eq!(message.as_text(), Some("subscribe"));
}

#[test]
fn the_command_carries_on() {
    for over in [&[][..], &["--http2"]] {
        let port = Port::new();
        let mut server = port.serve(over);
        let args = ["connect", "--reconnect", "--linger", "0.5", &server.url];
        let mut program = Program::start(&[&args, over].concat());
        for round in 0..3 {
            let line = format!("line {round}\n");
            // Held while nobody is there.
            program.write(&line);
            program.stdout.expect(&line);
            server = restart(server, &port, over);
        }
        program.write("last\n");
        let end = program.finish();
        assert_eq!(end.status, Some(0), "{}", end.stderr);
        assert_eq!(end.stdout, "line 0\nline 1\nline 2\nlast\n");
        assert_eq!(end.stderr.matches("connected to").count(), 4);
        // No connection has lasted ten seconds.
        assert!(end.stderr.contains("; attempt 4 in "), "{}", end.stderr);
        let carried = "4 messages (22 B) received, 4 messages (22 B) sent";
        assert!(end.stderr.contains(carried), "{}", end.stderr);
    }
}

#[test]
fn verbose_shows_what_each_connection_is_opened_with() {
    let port = Port::new();
    let server = port.serve(&[]);
    let args = [
        "connect",
        "--reconnect",
        "-v",
        "--linger",
        "0.5",
        &server.url,
    ];
    let mut program = Program::start(&args);
    program.write("hello\n");
    program.stdout.expect("hello\n");
    let _server = restart(server, &port, &[]);
    program.write("again\n");
    let end = program.finish();
    assert_eq!(end.status, Some(0), "{}", end.stderr);
    // Asked of whoever was there to be asked.
    assert!(end.stderr.matches("> GET / HTTP/1.1\n").count() >= 2);
    assert_eq!(end.stderr.matches("< 101 Switching Protocols\n").count(), 2);
    let first = end.stderr.find("< 101 ").unwrap();
    assert!(
        first < end.stderr.find("connected to").unwrap(),
        "{}",
        end.stderr
    );
}

#[test]
fn the_command_gives_up_when_it_is_told_to() {
    let port = Port::new();
    let url = format!("ws://{}/", port.address());
    let args = ["connect", "--reconnect", "--max-attempts", "2", &url];
    let end = run(&args, "");
    assert_eq!(end.status, Some(1), "{}", end.stderr);
    assert_eq!(end.stderr.matches("; attempt 2 in ").count(), 1);
    assert!(
        end.stderr.contains("nothing listens there"),
        "{}",
        end.stderr
    );
    // There was no connection whose end could be told.
    assert_eq!(end.stderr.lines().count(), 2, "{}", end.stderr);
    // One flag without the other is no use.
    let alone = run(&["connect", "--max-attempts", "2", &url], "");
    assert_eq!(alone.status, Some(2));
    let none = ["connect", "--reconnect", "--max-attempts", "0", &url];
    assert_eq!(run(&none, "").status, Some(2));
}

#[test]
fn what_the_server_refuses_is_not_asked_for_again() {
    let server = serve(&[]);
    // A code that no server may send is answered with 400.
    let url = format!("{}?close=1", server.url);
    let end = run(&["connect", "--reconnect", &url], "");
    assert_eq!(end.status, Some(1), "{}", end.stderr);
    assert!(end.stderr.contains("400"), "{}", end.stderr);
    assert!(!end.stderr.contains("attempt"), "{}", end.stderr);
}

/// As without `--reconnect`: it is no other end because none follows.
#[test]
fn an_end_that_none_follows_has_its_own_status() {
    let server = serve(&[]);
    let args = ["connect", "--reconnect", "--max-message", "1K", &server.url];
    let end = run(&args, &"x".repeat(2000));
    assert_eq!(end.status, Some(4), "{}", end.stderr);
    let told = "the peer went over a limit: a message is larger";
    assert_eq!(end.stderr.matches(told).count(), 1, "{}", end.stderr);
}
