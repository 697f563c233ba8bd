//! `sockeye connect` in a terminal: what a person types and sees.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Condvar, Mutex, mpsc},
    thread,
    time::Duration,
};

use nix::{
    pty::{Winsize, openpty},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::program::{self, DEADLINE, Port, directory, serve, status_of, within};

/// `sockeye connect` in a terminal of 100 columns and 30 lines.
struct Terminal {
    child: Child,
    keys: File,
    screen: Arc<(Mutex<vt100::Parser>, Condvar)>,
    /// Kept open, so that the screen can be read after the program has ended.
    _far: File,
}

impl Terminal {
    fn start(state: &Path, args: &[&str]) -> Self {
        Self::start_with(state, args, &[])
    }

    fn start_with(state: &Path, args: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::start_on(state, args, variables, None)
    }

    /// With this as its standard input, where that is no terminal.
    fn start_on(
        state: &Path,
        args: &[&str],
        variables: &[(&str, &str)],
        input: Option<Stdio>,
    ) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sockeye"));
        command
            .arg("connect")
            .args(args)
            .env("TERM", "xterm-256color")
            .env("XDG_STATE_HOME", state)
            .env_remove("NO_COLOR")
            .envs(variables.iter().copied());
        Self::run(&mut command, input)
    }

    fn run(command: &mut Command, input: Option<Stdio>) -> Self {
        let size = Winsize {
            ws_row: 30,
            ws_col: 100,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(&size, None).unwrap();
        let far = File::from(pty.slave);
        let end = || Stdio::from(far.try_clone().unwrap());
        let child = command
            .stdin(input.unwrap_or_else(end))
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        let keys = File::from(pty.master);
        let mut shown = keys.try_clone().unwrap();
        let screen = Arc::new((Mutex::new(vt100::Parser::new(30, 100, 100)), Condvar::new()));
        let to = screen.clone();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = shown.read(&mut buffer) {
                to.0.lock().unwrap().process(&buffer[..count]);
                to.1.notify_all();
            }
        });
        Self {
            child,
            keys,
            screen,
            _far: far,
        }
    }

    fn keys(&mut self, keys: &str) -> &mut Self {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self
    }

    fn line(&mut self, line: &str) -> &mut Self {
        self.keys(&format!("{line}\r"))
    }

    /// Waits until the screen is as wanted, and gives it: its lines, without those at the end that
    /// are empty.
    fn until(&self, what: &str, wanted: impl Fn(&[String]) -> bool) -> Vec<String> {
        let lines = |parser: &vt100::Parser| -> Vec<String> {
            let text = parser.screen().contents();
            text.trim_end_matches('\n')
                .lines()
                .map(Into::into)
                .collect()
        };
        let parser = self.screen.0.lock().unwrap();
        let (parser, timeout) = self
            .screen
            .1
            .wait_timeout_while(parser, DEADLINE, |parser| !wanted(&lines(parser)))
            .unwrap();
        let lines = lines(&parser);
        assert!(!timeout.timed_out(), "never {what}:\n{}", lines.join("\n"));
        lines
    }

    /// Waits until some line contains a text.
    fn shows(&self, text: &str) -> Vec<String> {
        self.until(text, |lines| lines.iter().any(|line| line.contains(text)))
    }

    /// Waits until the last line is this one.
    fn prompts(&self, line: &str) -> Vec<String> {
        self.until(&format!("the prompt {line:?}"), |lines| {
            lines
                .last()
                .is_some_and(|last| last.trim_end() == line.trim_end())
        })
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    fn end(&mut self) -> Option<i32> {
        status_of(&mut self.child)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn greets_echoes_and_leaves() {
    let server = serve(&["--subprotocol", "chat"]);
    let mut terminal = Terminal::start(&directory("greets"), &["-s", "chat", &server.url]);
    let screen = terminal.prompts(">");
    assert!(
        screen[0].starts_with(&format!("connected to {}", server.url)),
        "{screen:?}"
    );
    assert!(
        screen[1].starts_with("no TLS; subprotocol chat; extensions permessage"),
        "{screen:?}"
    );
    assert!(screen.iter().any(|line| line.contains("/help")));
    terminal.line("Привет");
    terminal.shows("↓ text        12 B  Привет");
    terminal.line("/quit");
    let screen = terminal.shows("closed by this end with 1000 (normal closure), after");
    assert_eq!(terminal.end(), Some(0));
    // The prompt is gone, and with it nothing of what was said.
    assert!(!screen.iter().any(|line| line == ">"), "{screen:?}");
    assert!(
        screen
            .iter()
            .any(|line| line.ends_with("↑ close             1000 (normal closure)"))
    );
    assert!(
        screen
            .iter()
            .any(|line| line.ends_with("↓ close             1000 (normal closure)"))
    );
}

#[test]
fn a_place_that_cannot_be_had_for_the_history_is_named() {
    let server = serve(&[]);
    let mut terminal = Terminal::start(Path::new("/dev/null"), &[&server.url]);
    terminal.shows("there will be no history, as with --no-history: /dev/null/sockeye: ");
    terminal.line("/quit");
    assert_eq!(terminal.end(), Some(0));
}

/// As with `echo hello | sockeye connect URL`: what the peer says is shown to a person all the same.
#[test]
fn what_comes_cannot_control_the_terminal_where_only_the_input_is_a_pipe() {
    let server = serve(&[]);
    for way in [&[][..], &["--reconnect"], &["--one-message"], &["--binary"]] {
        let args = [way, &["--linger", "0.1", &server.url]].concat();
        let input = Some(Stdio::piped());
        let mut terminal = Terminal::start_on(&directory("piped"), &args, &[], input);
        let mut input = terminal.child.stdin.take().unwrap();
        input.write_all(b"\x1b]0;title\x07 \x1b[2J\n").unwrap();
        drop(input);
        terminal.shows("closed by this end with 1000");
        terminal.shows("\\u{1b}]0;title\\u{7} \\u{1b}[2J");
        assert_eq!(terminal.end(), Some(0));
    }
}

/// As from a terminal that is set to another encoding.
#[test]
fn a_line_that_is_not_utf8_is_not_sent_and_ends_nothing() {
    let server = serve(&[]);
    let mut terminal = Terminal::start(&directory("latin1"), &[&server.url]);
    terminal.prompts(">");
    terminal.keys.write_all(b"caf\xe9 au lait\r").unwrap();
    terminal.shows("what was typed is not UTF-8");
    terminal.line("tea");
    terminal.shows("↓ text         3 B  tea");
    terminal.line("/quit");
    terminal.shows("1 message (3 B) received, 1 message (3 B) sent");
    assert_eq!(terminal.end(), Some(0));
}

/// As from tmux, a script or a slow line: all but the first was lost.
#[test]
fn lines_that_come_together_are_all_sent() {
    let server = serve(&[]);
    let mut terminal = Terminal::start(&directory("together"), &[&server.url]);
    terminal.prompts(">");
    terminal.keys("one\rtwo\rthree\r");
    terminal.shows("↓ text         5 B  three");
    terminal.line("/quit");
    terminal.shows("3 messages (11 B) received, 3 messages (11 B) sent");
    assert_eq!(terminal.end(), Some(0));
}

#[tokio::test]
async fn a_message_that_comes_while_a_line_is_typed_stands_above_it() {
    let server = serve(&["--broadcast"]);
    let mut terminal = Terminal::start(&directory("above"), &[&server.url]);
    terminal.prompts(">");
    terminal.keys("half a li");
    terminal.prompts("> half a li");
    let mut other = sockeye::connect(&server.url).await.unwrap();
    other.send("from another").await.unwrap();
    within(other.recv()).await.unwrap();
    terminal.shows("↓ text        12 B  from another");
    let screen = terminal.prompts("> half a li");
    assert!(
        screen[screen.len() - 2].ends_with("from another"),
        "{screen:?}"
    );
    terminal.line("ne");
    assert_eq!(
        within(other.recv()).await.unwrap(),
        Some("half a line".into())
    );
    terminal.shows("↓ text        11 B  half a line");
}

#[tokio::test]
async fn a_flood_does_not_hinder_typing_and_loses_no_line() {
    let server = serve(&["--broadcast"]);
    let mut terminal = Terminal::start(&directory("flood"), &[&server.url]);
    terminal.prompts(">");
    let mut other = sockeye::connect(&server.url).await.unwrap();
    for number in 0..2000 {
        other.send(format!("message {number}")).await.unwrap();
        if number == 1000 {
            terminal.keys("still here");
        }
        within(other.recv()).await.unwrap();
    }
    terminal.shows("message 1999");
    terminal.prompts("> still here");
    terminal.line("");
    assert_eq!(
        within(other.recv()).await.unwrap(),
        Some("still here".into())
    );
    terminal.line("/quit");
    terminal.shows("2,001 messages");
    assert_eq!(terminal.end(), Some(0));
}

#[test]
fn commands_do_what_help_says() {
    let server = serve(&[]);
    let state = directory("commands");
    let file = state.join("a file");
    fs::write(&file, "file").unwrap();
    let mut terminal = Terminal::start(&state, &[&server.url]);
    terminal.prompts(">");
    terminal.line("/help").shows("/binary HEX");
    terminal.line("/ping").shows("↑ ping         1 B  1");
    terminal.shows("↓ pong         1 B  1  took ");
    terminal
        .line("/ping are you there")
        .shows("↓ pong        13 B  are you there  took ");
    terminal
        .line("/binary 00 ff 1a")
        .shows("↓ binary       3 B  00 ff 1a");
    terminal.line("//slash").shows("↓ text         6 B  /slash");
    terminal.line("/text").shows("↓ text         0 B");
    terminal
        .line(&format!("/file {}", file.display()))
        .shows("↓ binary       4 B  66 69 6c 65");
    terminal
        .line("/pong unasked")
        .shows("↑ pong         7 B  unasked");
    terminal.line("/nonsense").shows("/nonsense is no command");
    terminal.line("/file /none").shows("/none: No such file");
    terminal
        .line("/close 1005")
        .shows("close code 1005 may not be sent");
    terminal
        .line("/close 4000 so long")
        .shows("closed by this end with 4000 (private use): so long");
    assert_eq!(terminal.end(), Some(0));
    server
        .program
        .stdout
        .expect("closed by the peer with 4000 (private use): so long");
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_and_pongs_of_the_peer_are_shown() {
    let server = sockeye::Server::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/", server.local_addr().unwrap());
    tokio::spawn(server.serve(|mut socket| async move {
        socket.ping(b"hello").await?;
        socket.pong(&[0, 255]).await?;
        socket.send("one\ntwo\x1b[31m").await?;
        while socket.recv().await?.is_some() {}
        Ok(())
    }));
    let terminal = Terminal::start(&directory("control"), &[&url]);
    terminal.shows("↓ ping         5 B  hello  answered");
    terminal.shows("↓ pong         2 B  00 ff  nobody asked for it");
    terminal.shows("↓ text        12 B  one");
    let screen = terminal.prompts(">");
    let second = &screen[screen.len() - 2];
    assert_eq!(second.trim_start(), "two\\u{1b}[31m");
}

mod end {
    use super::*;

    #[test]
    fn of_the_server_ends_the_line_that_is_being_typed() {
        let server = serve(&[]);
        let mut terminal = Terminal::start(&directory("server-ends"), &[&server.url]);
        terminal.prompts(">");
        terminal.keys("half a li");
        terminal.prompts("> half a li");
        server.program.signal(Signal::SIGINT);
        terminal.shows("↓ close             1001 (going away)");
        let screen = terminal.shows("closed by the peer with 1001 (going away), after");
        assert_eq!(terminal.end(), Some(3));
        assert!(
            !screen.iter().any(|line| line.starts_with('>')),
            "{screen:?}"
        );
    }

    #[test]
    fn by_ctrl_c_or_ctrl_d_is_normal() {
        for key in ["\x03", "\x04"] {
            let server = serve(&[]);
            let mut terminal = Terminal::start(&directory("keys"), &[&server.url]);
            terminal.prompts(">");
            terminal.keys(key).shows("closed by this end with 1000");
            assert_eq!(terminal.end(), Some(0));
        }
    }

    #[test]
    fn by_ctrl_c_twice_waits_for_nobody() {
        let server = serve(&[]);
        let mut terminal = Terminal::start(&directory("twice"), &[&server.url]);
        terminal.prompts(">");
        server.program.signal(Signal::SIGSTOP);
        terminal.keys("\x03").shows("↑ close");
        terminal.prompts(">");
        terminal
            .keys("\x03")
            .shows("left without waiting for the peer");
        assert_eq!(terminal.end(), Some(130));
    }

    /// As of a window that stands still: what holds the screen keeps the terminal from being read.
    #[tokio::test(flavor = "multi_thread")]
    async fn by_a_second_signal_comes_where_the_terminal_takes_nothing() {
        let server = sockeye::Server::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/", server.local_addr().unwrap());
        let (tell, told) = mpsc::channel();
        tokio::spawn(server.serve(move |mut socket| {
            let tell = tell.clone();
            async move {
                socket.recv().await?;
                loop {
                    socket.send("x".repeat(10_000)).await?;
                    let _ = tell.send(());
                }
            }
        }));
        let mut terminal = Terminal::start(&directory("still"), &[&url]);
        terminal.prompts(">");
        terminal.line("go").shows("xxx");
        let screen = terminal.screen.clone();
        let _still = screen.0.lock().unwrap();
        // Until it takes no more of what comes either.
        while told.recv_timeout(Duration::from_secs(1)).is_ok() {}
        terminal.signal(Signal::SIGTERM);
        std::thread::sleep(program::APART);
        terminal.signal(Signal::SIGHUP);
        assert_eq!(terminal.end(), Some(143));
    }

    /// A peer that is slow has what was typed before.
    #[test]
    fn by_ctrl_d_comes_behind_what_was_typed() {
        for way in [&[][..], &["--reconnect"]] {
            let server = serve(&[]);
            let state = directory("behind");
            let path = state.join("large");
            File::create(&path).unwrap().set_len(8 << 20).unwrap();
            let args = [way, &["--no-compress", &server.url]].concat();
            let mut terminal = Terminal::start(&state, &args);
            terminal.shows("connected to");
            terminal.prompts(">");
            server.program.signal(Signal::SIGSTOP);
            for sent in 1..=2 {
                terminal.line(&format!("/file {}", path.display()));
                terminal.until("each message", |lines| {
                    let shown = lines.iter().filter(|line| line.contains("↑ binary"));
                    shown.count() == sent && lines.last().is_some_and(|line| line.trim() == ">")
                });
            }
            terminal.keys("\x04").shows("↑ close");
            server.program.signal(Signal::SIGCONT);
            let screen = terminal.shows("closed by this end with 1000");
            let came = screen.iter().filter(|line| line.contains("↓ binary"));
            assert_eq!(came.count(), 2, "{way:?}: {screen:?}");
            assert_eq!(terminal.end(), Some(0), "{way:?}");
        }
    }

    /// It closes the connection, and does not wait until the peer has taken what was typed before.
    #[test]
    fn by_sigterm_is_not_kept_waiting_by_a_message_on_its_way() {
        for way in [&[][..], &["--reconnect"]] {
            let server = serve(&[]);
            let state = directory("on-its-way");
            let path = state.join("large");
            File::create(&path).unwrap().set_len(40 << 20).unwrap();
            let args = ["--no-compress", "--ping-interval", "0", "--close-timeout"];
            let args = [way, &args, &["0.2", &server.url]].concat();
            let mut terminal = Terminal::start(&state, &args);
            terminal.prompts(">");
            server.program.signal(Signal::SIGSTOP);
            for _ in 0..2 {
                terminal
                    .line(&format!("/file {}", path.display()))
                    .shows("↑ binary");
                terminal.prompts(">");
            }
            terminal.signal(Signal::SIGTERM);
            assert_eq!(terminal.end(), Some(143), "{way:?}");
        }
    }

    #[test]
    fn by_sigterm_leaves_the_terminal_as_it_was() {
        let server = serve(&[]);
        let mut terminal = Terminal::start(&directory("terminated"), &[&server.url]);
        terminal.prompts(">");
        let modes = || {
            nix::sys::termios::tcgetattr(&terminal.keys)
                .unwrap()
                .local_flags
        };
        let echo = nix::sys::termios::LocalFlags::ECHO | nix::sys::termios::LocalFlags::ICANON;
        assert!(!modes().intersects(echo), "the line editor takes each key");
        terminal.signal(Signal::SIGTERM);
        terminal.shows("closed by this end with 1001");
        assert_eq!(terminal.end(), Some(143));
        let modes = nix::sys::termios::tcgetattr(&terminal.keys)
            .unwrap()
            .local_flags;
        assert!(modes.contains(echo));
    }
}

/// Ctrl-Z gives the terminal to the shell as it was, and `fg` takes it again.
#[test]
fn ctrl_z_suspends_it_until_it_goes_on() {
    let server = serve(&[]);
    let mut shell = Command::new("setsid");
    shell.args(["--ctty", "--wait", "sh", "-i"]);
    shell
        .env("PS1", "$ ")
        .env("XDG_STATE_HOME", directory("ctrl-z"));
    let mut terminal = Terminal::run(&mut shell, None);
    terminal.prompts("$");
    terminal.line(&format!(
        "{} connect {}",
        env!("CARGO_BIN_EXE_sockeye"),
        server.url
    ));
    terminal.prompts(">");
    terminal.keys("half").prompts("> half");
    terminal.keys("\x1a").shows("Stopped");
    terminal.line("echo it is $((20 + 3))").shows("it is 23");
    terminal.prompts("$");
    terminal.line("fg").prompts("> half");
    terminal.keys("\x1b[D\x1b[Cway").prompts("> halfway");
    terminal.line("").shows("↓ text         7 B  halfway");
    terminal.prompts(">");
    terminal.line("/quit").shows("closed by this end with 1000");
    terminal.prompts("$");
    terminal.line("echo and $((40 + 2))").shows("and 42");
    terminal.line("exit");
    assert_eq!(terminal.end(), Some(0));
}

/// The line editor shows nothing in the middle of a key, and while it looks for something in the history.
mod held_up {
    use super::*;

    const ECHO: nix::sys::termios::LocalFlags = nix::sys::termios::LocalFlags::ECHO;

    fn echoes(terminal: &Terminal) -> bool {
        let modes = nix::sys::termios::tcgetattr(&terminal.keys).unwrap();
        modes.local_flags.contains(ECHO)
    }

    #[tokio::test]
    async fn by_esc_for_a_moment() {
        let server = serve(&["--broadcast"]);
        let mut terminal = Terminal::start(&directory("esc"), &[&server.url]);
        terminal.prompts(">");
        terminal.keys("\x1b");
        let mut other = sockeye::connect(&server.url).await.unwrap();
        other.send("after Esc").await.unwrap();
        terminal.shows("↓ text         9 B  after Esc");
    }

    #[test]
    fn it_ends_all_the_same_with_all_that_was_said() {
        for key in ["\x12", "\x16", "\x18"] {
            let server = serve(&[]);
            let mut terminal = Terminal::start(&directory("held-end"), &[&server.url]);
            terminal.prompts(">");
            terminal.line("first").shows("↓ text         5 B  first");
            terminal.prompts(">");
            // Looks through the history, takes the next key as it is, begins a key of two.
            terminal.keys(key);
            thread::sleep(Duration::from_millis(200));
            server.program.signal(Signal::SIGTERM);
            terminal.shows("↓ close             1001");
            terminal.shows("closed by the peer with 1001");
            assert_eq!(terminal.end(), Some(3), "{key:?}");
            assert!(echoes(&terminal));
        }
    }

    /// A peer that says much, and pings: it is answered, and what could not be shown is counted.
    #[tokio::test]
    async fn the_connection_goes_on() {
        let server = serve(&["--broadcast", "--ping-interval", "4", "--ping-timeout", "7"]);
        let mut terminal = Terminal::start(&directory("held-on"), &[&server.url]);
        terminal.prompts(">");
        terminal.line("first").shows("↓ text         5 B  first");
        terminal.prompts(">");
        terminal.keys("\x12").shows("search");
        let mut other = sockeye::connect(&server.url).await.unwrap();
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_secs(14) {
            for _ in 0..100 {
                other.send("again and again").await.unwrap();
                within(other.recv()).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        terminal.keys("\x07").shows("again and again");
        other.send("the last").await.unwrap();
        terminal.shows("the last");
        let screen = terminal.shows("not shown: ");
        assert!(
            screen.iter().any(|line| line.contains(" events, while")),
            "{screen:?}"
        );
        terminal.line("/quit");
        terminal.shows("closed by this end with 1000");
        assert_eq!(terminal.end(), Some(0));
    }
}

mod history {
    use super::*;

    fn file(state: &Path) -> PathBuf {
        state.join("sockeye/history")
    }

    #[test]
    fn is_there_the_next_time_and_private() {
        let server = serve(&[]);
        let state = directory("history");
        let mut terminal = Terminal::start(&state, &[&server.url]);
        terminal.prompts(">");
        terminal.line("first").shows("↓ text         5 B  first");
        terminal
            .line(" secret")
            .shows("↓ text         7 B   secret");
        terminal.line("/quit");
        assert_eq!(terminal.end(), Some(0));

        let kept = fs::read_to_string(file(&state)).unwrap();
        assert!(
            kept.contains("first\n/quit\n") && !kept.contains("secret"),
            "{kept}"
        );
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&file(&state)), 0o600);
        assert_eq!(mode(&state.join("sockeye")), 0o700);

        let mut terminal = Terminal::start(&state, &[&server.url]);
        terminal.prompts(">");
        terminal.keys("\x1b[A").prompts("> /quit");
        terminal.keys("\x1b[A").prompts("> first");
        terminal.keys("\r").shows("↓ text         5 B  first");
    }

    #[test]
    fn is_not_kept_where_that_is_not_wanted() {
        let server = serve(&[]);
        let state = directory("no-history");
        let mut terminal = Terminal::start(&state, &["--no-history", &server.url]);
        terminal.prompts(">");
        terminal.line("first").shows("↓ text");
        terminal.line("/quit");
        assert_eq!(terminal.end(), Some(0));
        assert!(!state.join("sockeye").exists());
    }
}

#[test]
fn tab_completes_commands_and_paths() {
    let server = serve(&[]);
    let state = directory("tab");
    fs::write(state.join("salmon.bin"), "s").unwrap();
    let mut terminal = Terminal::start(&state, &[&server.url]);
    terminal.prompts(">");
    terminal.keys("/fi\t").prompts("> /file");
    terminal
        .keys(&format!("{}/sal\t", state.display()))
        .shows("salmon.bin");
    terminal.line("").shows("↓ binary       1 B  73");
}

#[test]
fn color_is_used_unless_it_is_not_wanted() {
    let server = serve(&[]);
    let is_colored = |variables: &[(&str, &str)]| {
        let terminal = Terminal::start_with(&directory("color"), &[&server.url], variables);
        terminal.prompts(">");
        let parser = terminal.screen.0.lock().unwrap();
        let screen = parser.screen();
        (0..30).any(|row| {
            (0..100).any(|column| {
                let cell = screen.cell(row, column).unwrap();
                cell.dim() || cell.bold() || cell.fgcolor() != vt100::Color::Default
            })
        })
    };
    assert!(is_colored(&[]));
    assert!(!is_colored(&[("NO_COLOR", "1")]));
}

#[test]
fn a_terminal_that_can_nothing_is_enough() {
    let server = serve(&[]);
    let mut terminal =
        Terminal::start_with(&directory("dumb"), &[&server.url], &[("TERM", "dumb")]);
    terminal.shows("/help");
    terminal.line("hello").shows("↓ text         5 B  hello");
    terminal
        .keys("/quit\n")
        .shows("closed by this end with 1000");
    assert_eq!(terminal.end(), Some(0));
}

mod reconnecting {
    use super::*;

    fn start(name: &str, args: &[&str]) -> Terminal {
        Terminal::start(&directory(name), &[&["--reconnect"], args].concat())
    }

    #[test]
    fn what_is_typed_meanwhile_is_sent_when_the_server_is_back() {
        let port = Port::new();
        let mut server = port.serve(&[]);
        let mut terminal = start("again", &[&server.url]);
        terminal.shows("connected to ");
        terminal.line("before").shows("↓ text         6 B  before");
        terminal.line("/ping").shows("↓ pong         1 B  1  took ");
        terminal.keys("half a li");
        terminal.prompts("> half a li");
        // No Close, no goodbye.
        server.program.kill();
        drop(server);
        // Above the line that is being typed.
        terminal.shows("; attempt 2 in ");
        terminal.prompts("> half a li");
        terminal
            .line("ne")
            .shows("it is sent when there is a connection");
        terminal.prompts(">");
        terminal
            .line("/ping")
            .shows("not sent: there is no connection");
        terminal.prompts(">");
        terminal.line("another").until("a second note", |lines| {
            let note = |line: &&String| line.starts_with("it is sent when");
            lines.iter().filter(note).count() == 2
        });
        let _server = port.serve(&[]);
        terminal.shows("↓ text        11 B  half a line");
        let screen = terminal.shows("↓ text         7 B  another");
        let opened = |line: &&String| line.starts_with("connected to ");
        assert_eq!(screen.iter().filter(opened).count(), 2, "{screen:?}");
        terminal.line("/help").shows("With --reconnect");
        terminal
            .line("/quit")
            .shows("closed by this end with 1000 (normal closure), after");
        terminal.shows("3 messages (24 B) received, 3 messages (24 B) sent");
        assert_eq!(terminal.end(), Some(0));
    }

    #[test]
    fn leaving_while_there_is_no_connection_tells_what_was_not_sent() {
        let port = Port::new();
        let url = format!("ws://{}/", port.address());
        for leave in ["/quit\r", "\x03", "\x04"] {
            let mut terminal = start("nobody", &[&url]);
            terminal.shows("; attempt 2 in ");
            terminal.line("hello").shows("it is sent when");
            // Only then is each key taken.
            terminal.prompts(">");
            terminal.keys(leave).shows("not sent: 1 message");
            let screen = terminal.shows("there was no connection, after");
            assert_eq!(terminal.end(), Some(4));
            // Nobody was there to get one.
            let close = |line: &String| line.contains("close ");
            assert!(!screen.iter().any(close), "{screen:?}");
        }
    }

    /// It was said to be lost.
    #[test]
    fn leaving_before_there_was_a_connection_loses_nothing() {
        let port = Port::new();
        let url = format!("ws://{}/", port.address());
        for (leave, status) in [("/quit\r", 0), ("\x04", 0), ("\x03", 130)] {
            let mut terminal = start("never", &[&url]);
            terminal.shows("; attempt 2 in ");
            terminal.prompts(">");
            terminal.keys(leave).shows("there was no connection, after");
            assert_eq!(terminal.end(), Some(status), "{leave:?}");
        }
    }

    #[test]
    fn verbose_shows_what_each_connection_is_opened_with_above_what_is_typed() {
        let port = Port::new();
        let mut server = port.serve(&[]);
        let mut terminal = start("verbose", &["--verbose", &server.url]);
        terminal.shows("> GET / HTTP/1.1");
        terminal.shows("< 101 Switching Protocols");
        terminal.shows("connected to ");
        terminal.keys("half a li");
        terminal.prompts("> half a li");
        server.program.kill();
        drop(server);
        let _server = port.serve(&[]);
        let screen = terminal.until("a second answer", |lines| {
            let answer = |line: &&String| line.starts_with("< 101 Switching Protocols");
            lines.iter().filter(answer).count() == 2
        });
        assert!(screen.iter().any(|line| line.contains("; attempt 2 in ")));
        terminal.prompts("> half a li");
        terminal.line("ne").shows("↓ text        11 B  half a line");
        terminal.keys("\x04");
        assert_eq!(terminal.end(), Some(0));
    }

    #[test]
    fn a_refusal_that_stays_one_is_an_end() {
        let server = serve(&[]);
        // A code that no server may send is answered with 400.
        let mut terminal = start("refused", &[&format!("{}?close=1", server.url)]);
        terminal.shows("400");
        assert_eq!(terminal.end(), Some(1));
    }

    #[test]
    fn a_close_of_ours_or_the_servers_for_good_is_an_end() {
        let server = serve(&[]);
        let mut terminal = start("for-good", &[&server.url]);
        terminal.shows("connected to ");
        terminal
            .line("/close 4000 so long")
            .shows("closed by this end with 4000 (private use): so long");
        assert_eq!(terminal.end(), Some(0));
        let mut terminal = start("for-good", &[&format!("{}?close=1000", server.url)]);
        terminal.shows("closed by the peer with 1000");
        assert_eq!(terminal.end(), Some(0));
    }
}
