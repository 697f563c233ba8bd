//! The examples run, against each other, and are short.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::network::Pki;

/// Built by `cargo test` next to this test.
fn example(name: &str) -> Command {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    Command::new(path.join("examples").join(name))
}

/// Runs an example to its end, which has to come in time.
fn run(name: &str, arguments: &[&str]) -> Output {
    let mut child = example(name)
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_secs(20) {
            child.kill().unwrap();
            panic!("{name} does not end: {:?}", child.wait_with_output());
        }
        thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

/// What an example prints that ends well.
fn lines(name: &str, arguments: &[&str]) -> Vec<String> {
    let output = run(name, arguments);
    assert!(output.status.success(), "{name}: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(Into::into).collect()
}

/// A server in a process of its own, ended with the test.
struct Server {
    child: Child,
    url: String,
    stdout: BufReader<std::process::ChildStdout>,
}

impl Server {
    fn start(name: &str) -> Self {
        let mut child = example(name)
            .arg("127.0.0.1:0")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut url = String::new();
        stdout.read_line(&mut url).unwrap();
        let url = url.trim().to_owned();
        assert!(url.starts_with("ws://127.0.0.1:"), "{url}");
        Self { child, url, stdout }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_clients_run_against_both_servers() {
    for name in ["echo", "events"] {
        let mut server = Server::start(name);
        let url = &server.url.clone()[..];
        assert_eq!(
            lines("client", &[url]),
            [
                "Получено сообщение: Привет",
                "closed by this end with 1000 (normal closure): Завершаю соединение",
            ]
        );
        if name == "events" {
            assert!(server.line().starts_with("open: Some(127.0.0.1:"));
            assert_eq!(
                server.line(),
                "close: closed by the peer with 1000 (normal closure): Завершаю соединение"
            );
        }
        assert_eq!(
            lines("split", &[url]),
            [
                "message 1",
                "message 2",
                "message 3",
                "closed by this end with 1000 (normal closure): that was all",
            ]
        );
        assert_eq!(lines("many_senders", &[url]), ["100 messages came back"]);
        assert_eq!(
            lines("browser", &[url]),
            [
                "Соединение открыто",
                "Получено сообщение: Привет",
                "Соединение закрыто",
            ]
        );
        assert_eq!(
            lines("reconnecting", &[url]),
            ["open", "subscribe", "message 1", "message 2"]
        );
    }
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn a_page_and_a_socket_of_an_axum_application() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let server = Server::start("axum");
    let address = server.url.strip_prefix("ws://").unwrap();
    let address = address.strip_suffix("/socket").unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    assert!(page.ends_with("<h1>Добро пожаловать</h1>"), "{page}");
    let url = server.url.clone();
    let said = tokio::task::spawn_blocking(move || lines("client", &[&url]));
    assert_eq!(said.await.unwrap()[0], "Получено сообщение: Привет");
}

#[tokio::test]
async fn a_broadcast_reaches_everyone() {
    let server = Server::start("broadcast");
    let mut members = Vec::new();
    for number in 0..3 {
        let mut member = sockeye::connect(&server.url).await.unwrap();
        // Its own message comes back once it is one of them.
        let hello = format!("member {number}");
        member.send(&hello).await.unwrap();
        members.push(member);
        for member in &mut members {
            let message = member.recv().await.unwrap().unwrap();
            assert_eq!(message.as_text(), Some(&hello[..]));
        }
    }
    // Whoever has left is forgotten, and holds up nobody.
    members.remove(0);
    members[0].send("two are left").await.unwrap();
    for member in &mut members {
        let message = member.recv().await.unwrap().unwrap();
        assert_eq!(message.as_text(), Some("two are left"));
    }
}

#[test]
fn a_client_without_a_server_fails() {
    let output = run("client", &["ws://127.0.0.1:1/"]);
    assert!(!output.status.success());
}

#[test]
fn a_stream_of_ones_own() {
    assert_eq!(lines("own_stream", &[]), ["through the pipe"]);
}

#[test]
fn wss_with_an_authority_of_ones_own() {
    let pki = Pki::new();
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("wss-example");
    fs::create_dir_all(&directory).unwrap();
    let write = |name: &str, pem: String| {
        let path: PathBuf = directory.join(name);
        fs::write(&path, pem).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let files = [
        write("chain.pem", pki.certificate),
        write("key.pem", pki.key),
        write("ca.pem", pki.ca),
    ];
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    assert_eq!(lines("wss", &files), ["Добро пожаловать на сервер!"]);
    // Without its three files it says so.
    assert!(!run("wss", &[]).status.success());
}

#[test]
fn each_is_under_forty_lines() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut names = Vec::new();
    for file in fs::read_dir(directory).unwrap() {
        let path = file.unwrap().path();
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines < 40, "{} has {lines} lines", path.display());
        names.push(path.file_stem().unwrap().to_str().unwrap().to_owned());
    }
    names.sort();
    // One that is added here is to be run above.
    let run = [
        "axum",
        "broadcast",
        "browser",
        "client",
        "echo",
        "events",
        "many_senders",
        "own_stream",
        "reconnecting",
        "split",
        "wss",
    ];
    assert_eq!(names, run);
}
