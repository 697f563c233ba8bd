//! How `sockeye serve` ends and is replaced: closes that are spread, sockets that outlive it, a
//! certificate that is read again.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::{SocketAddr, TcpListener, TcpStream},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::PermissionsExt, net::UnixDatagram},
    },
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal::{SIGHUP, SIGINT, SIGTERM};
use sockeye::{Client, WebSocket, client::ClientTls};

use crate::program::{
    self, DEADLINE, Program, Unread, certificates, directory, eventually, run, serve, within,
};

async fn expect_echo(socket: &mut WebSocket, text: &str) {
    socket.send(text).await.unwrap();
    assert_eq!(within(socket.recv()).await.unwrap(), Some(text.into()));
}

async fn expect_close(socket: &mut WebSocket, code: u16) {
    assert_eq!(within(socket.recv()).await.unwrap(), None);
    assert_eq!(socket.ended().unwrap().code(), code);
}

#[tokio::test]
async fn drain_spreads_the_closes_and_restart_gives_the_code() {
    let server = serve(&["--drain", "1", "--restart"]);
    let mut sockets = Vec::new();
    for _ in 0..20 {
        sockets.push(sockeye::connect(&server.url).await.unwrap());
    }
    for socket in &mut sockets {
        expect_echo(socket, "hello").await;
    }
    let began = Instant::now();
    server.program.signal(SIGTERM);
    server
        .program
        .stdout
        .expect("Closing 20 connections within 1.0 s;");
    let mut closing = tokio::task::JoinSet::new();
    for mut socket in sockets {
        closing.spawn(async move {
            expect_close(&mut socket, 1012).await;
            began.elapsed()
        });
    }
    let mut times = Vec::new();
    while let Some(time) = closing.join_next().await {
        times.push(time.unwrap());
    }
    // The last one's turn is after 19 twentieths of the window.
    assert!(times[19] >= Duration::from_millis(900), "{times:?}");
    let early = times.iter().filter(|time| time.as_millis() < 500).count();
    assert!(early <= 11, "{times:?}");
    let end = server.program.end();
    assert_eq!(end.status, Some(0));
    assert!(
        end.stdout.contains("Closed 20 connections in "),
        "{}",
        end.stdout
    );
    assert!(
        end.stdout.contains(": 20 closed with 1012\n"),
        "{}",
        end.stdout
    );
}

#[tokio::test]
async fn shutdown_timeout_cuts_off_who_does_not_close() {
    let server = serve(&["--shutdown-timeout", "0.3"]);
    // It never answers the Close.
    let silent = sockeye::connect(&server.url).await.unwrap();
    server.program.stdout.expect("open");
    server.program.signal(SIGINT);
    let end = server.program.end();
    assert_eq!(end.status, Some(0));
    assert!(
        end.stdout.contains("1 cut off at the deadline"),
        "{}",
        end.stdout
    );
    drop(silent);
}

/// As under a pager, or beside a collector of logs that hangs.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_has_to_read_what_it_says() {
    for way in [&[][..], &["--broadcast"]] {
        let args = [&["serve", "--listen", "127.0.0.1:0"], way].concat();
        let mut program = Unread::start(&args);
        let mut greeting = String::new();
        let mut output = BufReader::new(&program.output);
        output.read_line(&mut greeting).unwrap();
        let url = greeting.split_whitespace().last().unwrap();
        // More than a pipe holds, at two lines each.
        let url = format!("{url}{}", "x".repeat(100));
        for _ in 0..500 {
            let mut socket = within(sockeye::connect(&url)).await.unwrap();
            expect_echo(&mut socket, "hello").await;
        }
        let mut left = within(sockeye::connect(&url)).await.unwrap();
        program.signal(SIGTERM);
        expect_close(&mut left, 1001).await;
        assert_eq!(program.end(), Some(0));
    }
}

/// Whoever reads a byte now and then holds up the end, but not for long, and not a second signal.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_is_heard_while_somebody_reads_slowly() {
    for way in [&[][..], &["--broadcast"]] {
        let args = [&["serve", "--listen", "127.0.0.1:0"], way].concat();
        let mut program = Unread::start(&args);
        let mut greeting = String::new();
        let mut output = BufReader::new(program.output.try_clone().unwrap());
        output.read_line(&mut greeting).unwrap();
        let url = greeting.split_whitespace().last().unwrap();
        let address = url.split('/').nth(2).unwrap().to_owned();
        // More than a pipe holds, at two lines each.
        let url = format!("{url}{}", "x".repeat(100));
        for _ in 0..500 {
            let mut socket = within(sockeye::connect(&url)).await.unwrap();
            expect_echo(&mut socket, "hello").await;
        }
        thread::spawn(move || {
            let mut part = [0; 1024];
            while let Ok(1..) = output.read(&mut part) {
                thread::sleep(Duration::from_millis(100));
            }
        });
        program.signal(SIGTERM);
        // It serves nobody any more, and has that to say.
        eventually("nobody listens", || TcpStream::connect(&address).is_err());
        tokio::time::sleep(program::APART).await;
        program.signal(SIGINT);
        assert_eq!(program.end(), Some(130), "{way:?}");
    }
}

#[tokio::test]
async fn a_unix_socket_has_its_mode_and_goes_with_the_server() {
    let path = directory("leaving-unix").join("app.sock");
    let listen = format!("unix:{}", path.display());
    let args = [
        "serve",
        "--listen",
        &listen,
        "--listen",
        "127.0.0.1:0",
        "--socket-mode",
        "600",
    ];
    let server = Program::start(&args);
    server.stdout.expect("Ctrl-C closes");
    let url = format!("ws+unix:{}:/room", path.display());
    let said = server.stdout.text();
    assert!(
        said.contains(&format!(
            "Echoing on {}/, and on ws://127.0.0.1:",
            url.replace("/room", "")
        )),
        "{said}"
    );
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let mut socket = sockeye::connect(&url).await.unwrap();
    expect_echo(&mut socket, "hello").await;
    server.stdout.expect("open    #1 unix  /room");
    let tcp = said
        .split_whitespace()
        .find(|word| word.starts_with("ws://"));
    expect_echo(&mut sockeye::connect(tcp.unwrap()).await.unwrap(), "hello").await;

    let taken = run(&["serve", "--listen", &listen], "");
    assert_eq!(taken.status, Some(1));
    assert!(
        taken.stderr.contains("choose another path"),
        "{}",
        taken.stderr
    );

    server.signal(SIGTERM);
    expect_close(&mut socket, 1001).await;
    assert_eq!(server.end().status, Some(0));
    assert!(!path.exists());
}

#[tokio::test]
async fn two_servers_share_a_port_while_one_replaces_the_other() {
    let old = serve(&["--reuse-port", "--restart"]);
    let mut of_old = sockeye::connect(&old.url).await.unwrap();
    expect_echo(&mut of_old, "the old").await;
    let address = old.address.to_string();
    let new = Program::start(&["serve", "--listen", &address, "--reuse-port"]);
    new.stdout.expect("Ctrl-C closes");
    old.program.signal(SIGTERM);
    expect_close(&mut of_old, 1012).await;
    assert_eq!(old.program.end().status, Some(0));
    for _ in 0..10 {
        expect_echo(&mut sockeye::connect(&old.url).await.unwrap(), "the new").await;
    }
    new.stdout.expect("open    #10 ");
}

/// This test is systemd: it holds the socket, and hands it over to one server after another.
#[cfg(target_os = "linux")]
mod systemd {
    use super::*;

    /// A server with a listening socket as its descriptor 3.
    fn start(socket: OwnedFd, notify: &Path) -> Program {
        let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ exec \"$0\" serve --listen systemd";
        let mut command = Command::new("sh");
        command.args(["-c", script, env!("CARGO_BIN_EXE_sockeye")]);
        command.env("LISTEN_FDS", "1").env("NOTIFY_SOCKET", notify);
        let program = Program::run_with_input(&mut command, Stdio::from(socket));
        program.stdout.expect("Ctrl-C closes");
        program
    }

    pub(super) fn told(by: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let count = by.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..count]).trim().into()
    }

    #[tokio::test]
    async fn holds_the_socket_over_a_restart() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let url = format!("ws://{address}/");
        let path = directory("leaving-systemd").join("notify");
        let notify = UnixDatagram::bind(&path).unwrap();
        notify.set_read_timeout(Some(DEADLINE)).unwrap();
        let hand_over = || start(listener.as_fd().try_clone_to_owned().unwrap(), &path);

        let first = hand_over();
        assert!(
            first.stdout.text().contains(&url),
            "{}",
            first.stdout.text()
        );
        assert_eq!(told(&notify), "READY=1");
        let mut socket = sockeye::connect(&url).await.unwrap();
        expect_echo(&mut socket, "the first").await;
        first.signal(SIGTERM);
        expect_close(&mut socket, 1001).await;
        assert_eq!(told(&notify), "STOPPING=1");
        assert_eq!(first.end().status, Some(0));

        // Nobody serves; who comes now waits.
        let waits = TcpStream::connect(address).unwrap();
        let second = hand_over();
        assert_eq!(told(&notify), "READY=1");
        waits.set_nonblocking(true).unwrap();
        let waits = tokio::net::TcpStream::from_std(waits).unwrap();
        let mut socket = within(Client::new(url).connect_over(waits)).await.unwrap();
        expect_echo(&mut socket, "the second").await;
        drop(second);
    }

    #[test]
    fn that_hands_nothing_over_is_told() {
        let end = run(&["serve", "--listen", "systemd"], "");
        assert_eq!(end.status, Some(1));
        assert!(end.stderr.contains(".socket unit"), "{}", end.stderr);
    }

    #[test]
    fn hands_over_something_else() {
        let path = directory("leaving-datagram").join("notify");
        let datagram = UnixDatagram::bind(&path).unwrap();
        let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ exec \"$0\" serve --listen systemd";
        let mut command = Command::new("sh");
        command.args(["-c", script, env!("CARGO_BIN_EXE_sockeye")]);
        command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "web");
        let end = Program::run_with_input(&mut command, Stdio::from(OwnedFd::from(datagram))).end();
        assert_eq!(end.status, Some(1));
        let expected = "cannot listen on the socket \"web\" of systemd: it does not listen";
        assert!(end.stderr.contains(expected), "{}", end.stderr);
    }
}

mod hang_up {
    use super::*;

    fn client(authority: &str) -> ClientTls {
        ClientTls::new()
            .ca_pem(&fs::read(authority).unwrap())
            .unwrap()
    }

    async fn connect(url: &str, tls: ClientTls) -> sockeye::Result<WebSocket> {
        within(Client::new(url).tls(tls).connect()).await
    }

    #[tokio::test]
    async fn reads_the_certificate_again_and_disconnects_nobody() {
        let [old_ca, certificate, key] = certificates("leaving-renewed");
        let [new_ca, new_certificate, new_key] = certificates("leaving-renewal");
        let server = serve(&["--tls-cert", &certificate, "--tls-key", &key]);
        let mut open = connect(&server.url, client(&old_ca)).await.unwrap();
        expect_echo(&mut open, "before").await;

        // Half of it: the key is still the old one's.
        fs::copy(&new_certificate, &certificate).unwrap();
        server.program.signal(SIGHUP);
        server
            .program
            .stderr
            .expect("sockeye: the certificate stays as it was: ");
        connect(&server.url, client(&old_ca)).await.unwrap();
        assert!(connect(&server.url, client(&new_ca)).await.is_err());

        fs::copy(&new_key, &key).unwrap();
        server.program.signal(SIGHUP);
        server.program.stdout.expect("Certificate read again");
        connect(&server.url, client(&new_ca)).await.unwrap();
        assert!(connect(&server.url, client(&old_ca)).await.is_err());
        expect_echo(&mut open, "after").await;

        server.program.signal(SIGTERM);
        expect_close(&mut open, 1001).await;
        assert_eq!(server.program.end().status, Some(0));
    }

    /// As with `nohup`, or where a shell has said `disown -h` for it.
    #[tokio::test]
    async fn is_ignored_where_it_was_before() {
        let script = "trap '' HUP; exec \"$0\" serve --listen 127.0.0.1:0";
        let program =
            Program::run_as(Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_sockeye")]));
        program.stdout.expect("Ctrl-C closes");
        let said = program.stdout.text();
        let url = said.split_whitespace().find(|word| word.starts_with("ws"));
        let mut open = sockeye::connect(url.unwrap()).await.unwrap();
        program.signal(SIGHUP);
        for _ in 0..10 {
            let mut socket = sockeye::connect(url.unwrap()).await.unwrap();
            expect_echo(&mut socket, "after").await;
        }
        program.signal(SIGTERM);
        expect_close(&mut open, 1001).await;
        assert_eq!(program.end().status, Some(0));
    }

    /// As under a pager that stands still.
    #[cfg(target_os = "linux")]
    #[tokio::test(flavor = "multi_thread")]
    async fn of_no_avail_stops_no_server_whose_complaints_nobody_reads() {
        let [ca, certificate, key] = certificates("leaving-unread");
        let args = ["serve", "--listen", "127.0.0.1:0", "--broadcast", "--quiet"];
        let tls = ["--tls-cert", &certificate, "--tls-key", &key];
        let mut program = Unread::start(&[&args[..], &tls].concat());
        let mut greeting = String::new();
        let mut output = BufReader::new(program.output.try_clone().unwrap());
        output.read_line(&mut greeting).unwrap();
        let url = greeting.split_whitespace().last().unwrap();
        let mut open = connect(url, client(&ca)).await.unwrap();
        program::fill(&format!("/proc/{}/fd/2", program.child.id()));
        fs::write(&key, "no key").unwrap();
        program.signal(SIGHUP);
        for _ in 0..100 {
            expect_echo(&mut open, "hello").await;
        }
        program.signal(SIGTERM);
        expect_close(&mut open, 1001).await;
        assert_eq!(program.end(), Some(0));
    }

    /// As of a key that somebody is to type or to send.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn that_waits_for_a_file_delays_no_end() {
        let [_, certificate, key] = certificates("leaving-fifo");
        let directory = directory("leaving-fifo-notify");
        let (fifo, notify) = (directory.join("key"), directory.join("notify"));
        assert!(
            Command::new("mkfifo")
                .arg(&fifo)
                .status()
                .unwrap()
                .success()
        );
        let told = UnixDatagram::bind(&notify).unwrap();
        told.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_sockeye"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--tls-cert"]);
        command.args([&certificate, "--tls-key"]).arg(&fifo);
        let program = Program::run_as(command.env("NOTIFY_SOCKET", &notify));
        fs::write(&fifo, fs::read(&key).unwrap()).unwrap();
        program.stdout.expect("Ctrl-C closes");
        program.signal(SIGHUP);
        while !systemd::told(&told).starts_with("RELOADING=1") {}
        program.signal(SIGTERM);
        assert_eq!(program.end().status, Some(0));
    }

    #[tokio::test]
    async fn ends_a_server_without_a_certificate() {
        let server = serve(&[]);
        let mut socket = sockeye::connect(&server.url).await.unwrap();
        expect_echo(&mut socket, "hello").await;
        server.program.signal(SIGHUP);
        expect_close(&mut socket, 1001).await;
        assert_eq!(server.program.end().status, Some(0));
    }
}

/// Never listened on: the command line is looked at first.
#[test]
fn what_cannot_be_is_refused() {
    for args in [
        &["serve", "--socket-mode", "999"][..],
        &["serve", "--drain", "-1"],
        &["serve", "--shutdown-timeout", "soon"],
    ] {
        assert_eq!(run(args, "").status, Some(2), "{args:?}");
    }
    let file = directory("leaving-file").join("file");
    fs::write(&file, "mine").unwrap();
    let listen = format!("unix:{}", file.display());
    let end = run(&["serve", "--listen", &listen], "");
    assert_eq!(end.status, Some(1));
    assert!(
        end.stderr.contains("something else than a socket"),
        "{}",
        end.stderr
    );
    assert_eq!(fs::read_to_string(file).unwrap(), "mine");
    let nowhere: SocketAddr = "192.0.2.1:1".parse().unwrap();
    let end = run(
        &["serve", "--reuse-port", "--listen", &nowhere.to_string()],
        "",
    );
    assert_eq!(end.status, Some(1));
}
