//! The registry: who is in it gets what is sent there, whoever does not read holds up nobody, and
//! whoever is gone is forgotten.

use std::{
    future::pending,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use sockeye::{
    CloseCode, Ended, Error, Groups, Handler, Member, MessageRef, PerCore, Prepared, Result,
    Server, Socket, WebSocket,
    groups::{JoinError, Slow},
};
use tokio::{io::DuplexStream, net::TcpStream, sync::watch, task::JoinHandle, time::timeout};

use crate::wire::*;

struct Seat {
    member: Member,
    peer: Peer<DuplexStream>,
    seen: JoinHandle<Seen>,
}

/// A connection in one of its forms, as a member.
async fn seat(groups: &Groups, form: Form, role: Role, setup: &Setup) -> Seat {
    let (socket, mut peer) = setup.open(role).await;
    let member = groups.member(socket.sender());
    let seen = echo(form, socket);
    peer.expect_echo("it runs by now").await;
    Seat { member, peer, seen }
}

/// Checks until it holds: for what other tasks and threads do.
async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let checking = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    let waited = timeout(Duration::from_secs(20), checking).await;
    assert!(waited.is_ok(), "never: {what}");
}

#[tokio::test(start_paused = true)]
async fn everyone_in_the_group_gets_the_same_bytes_and_nobody_else() {
    for setup in [Setup::default(), Setup::deflate()] {
        for role in BOTH {
            let groups = Groups::new();
            let mut inside = Vec::new();
            for form in FORMS {
                let seat = seat(&groups, form, role, &setup).await;
                assert!(seat.member.join("room").unwrap());
                assert!(!seat.member.join("room").unwrap(), "it is in it already");
                inside.push(seat);
            }
            let mut outside = seat(&groups, Form::Driven, role, &setup).await;
            outside.member.join("other").unwrap();
            let text = "a text that is long enough to be compressed, ".repeat(20);
            assert_eq!(groups.send_to("room", &text), 3);
            assert_eq!(groups.send_to("room", Prepared::new(&text)), 3);
            assert_eq!(groups.send_to("nobody's", &text), 0);
            let mut first = None;
            for seat in &mut inside {
                for _ in 0..2 {
                    let frame = seat.peer.next().await.unwrap();
                    let compressed = setup.deflate.is_some();
                    assert_eq!(frame.first, if compressed { 0xC1 } else { 0x81 });
                    assert_eq!(*first.get_or_insert(frame.clone()), frame);
                }
                seat.peer.expect_echo("and nothing more").await;
            }
            outside.peer.expect_echo("nothing at all").await;
            assert_eq!(groups.send_to_all([1, 2, 3].as_slice()), 4);
            for seat in inside.iter_mut().chain([&mut outside]) {
                assert_eq!(seat.peer.expect(0x82).await, [1, 2, 3]);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn others_are_all_but_itself() {
    let groups = Groups::new();
    let mut seats = Vec::new();
    for form in FORMS {
        let seat = seat(&groups, form, Role::Server, &Setup::default()).await;
        seat.member.join("room").unwrap();
        seats.push(seat);
    }
    assert_eq!(seats[1].member.send_to_others("room", "to the others"), 2);
    // Whoever is not in it can send there too.
    seats[1].member.leave("room");
    assert_eq!(seats[1].member.send_to_others("room", "from outside"), 2);
    for number in [0, 2] {
        seats[number].peer.expect_text("to the others").await;
        seats[number].peer.expect_text("from outside").await;
    }
    seats[1].peer.expect_echo("nothing").await;
}

#[tokio::test(start_paused = true)]
async fn counts_and_names_tell_who_is_where() {
    let groups = Groups::new();
    let setup = Setup::default();
    let one = seat(&groups, Form::Driven, Role::Server, &setup).await;
    let other = seat(&groups, Form::Events, Role::Server, &setup).await;
    assert_eq!((groups.members(), groups.names().len()), (2, 0));
    for name in ["b", "a", ""] {
        one.member.join(name).unwrap();
    }
    other.member.join("a").unwrap();
    let sorted = |mut names: Vec<String>| {
        names.sort();
        names
    };
    assert_eq!(sorted(one.member.groups()), ["", "a", "b"]);
    assert_eq!(other.member.groups(), ["a"]);
    assert_eq!(sorted(groups.names()), ["", "a", "b"]);
    assert_eq!((groups.members_of("a"), groups.members_of("b")), (2, 1));
    assert_eq!(groups.members_of("c"), 0);

    assert!(one.member.leave("b"));
    assert!(!one.member.leave("b"));
    assert!(!one.member.leave("c"));
    assert_eq!(sorted(groups.names()), ["", "a"]);
    drop(one.member);
    assert_eq!((groups.members(), groups.members_of("a")), (1, 1));
    assert_eq!(groups.names(), ["a"]);
    // The connection itself is none the worse for it, and may come again.
    let mut peer = one.peer;
    peer.expect_echo("still there").await;
    drop(other.member);
    assert_eq!((groups.members(), groups.names().len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_too_much_is_refused_and_changes_nothing() {
    let groups = Groups::new()
        .max_groups(3)
        .max_groups_per_member(2)
        .max_name(8);
    let setup = Setup::default();
    let one = seat(&groups, Form::Driven, Role::Server, &setup).await;
    let other = seat(&groups, Form::Driven, Role::Server, &setup).await;
    let refused = |joined: Result<bool>| match joined.unwrap_err() {
        Error::Join(error) => (error, error.to_string()),
        other => panic!("{other:?}"),
    };
    // Eight bytes, and nine.
    assert!(one.member.join("нерк").unwrap());
    let (error, text) = refused(one.member.join("нерка"));
    assert_eq!(error, JoinError::Name { len: 10, most: 8 });
    assert!(text.contains("10 bytes") && text.contains('8'), "{text}");

    one.member.join("a").unwrap();
    let (error, text) = refused(one.member.join("b"));
    assert_eq!(error, JoinError::GroupsOfMember { most: 2 });
    assert!(text.contains('2'), "{text}");
    one.member.leave("a");
    one.member.join("b").unwrap();

    other.member.join("c").unwrap();
    let (error, _) = refused(other.member.join("d"));
    assert_eq!(error, JoinError::Groups { most: 3 });
    // One that is there already is not one more.
    other.member.join("b").unwrap();
    assert_eq!(groups.names().len(), 3);
    assert_eq!(groups.members_of("d"), 0);
}

/// Wherever the member is kept: here it is not with the handler.
#[tokio::test(start_paused = true)]
async fn it_leaves_everything_when_its_connection_ends() {
    for role in BOTH {
        for form in FORMS {
            for way in ["close", "gone", "broken"] {
                let groups = Groups::new();
                let Seat {
                    member,
                    mut peer,
                    seen,
                } = seat(&groups, form, role, &Setup::default()).await;
                member.join("room").unwrap();
                match way {
                    "close" => peer.send_close(1000, "").await,
                    "broken" => peer.send_frame(0x83, "no such opcode").await,
                    _ => {}
                }
                drop(peer);
                let seen = within(seen).await.unwrap();
                seen.assert_ended(|ended| ended.was_clean() == (way == "close"));
                assert_eq!(groups.members(), 0, "{role:?} {form:?} {way}");
                assert_eq!(groups.names(), [""; 0]);
                assert_eq!(groups.send_to("room", "anyone?"), 0);
                // It can still tell the others.
                assert_eq!(member.groups(), ["room"]);
                assert!(member.join("another").unwrap_err().is_closed());
                assert_eq!(groups.members_of("another"), 0);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_of_a_connection_that_has_ended_is_none() {
    for form in FORMS {
        let (socket, mut peer) = Setup::default().open(Role::Server).await;
        let sender = socket.sender();
        let seen = echo(form, socket);
        peer.send_close(1000, "").await;
        within(seen).await.unwrap();
        let groups = Groups::new();
        let member = groups.member(sender);
        assert_eq!(groups.members(), 0, "{form:?}");
        assert!(member.join("room").unwrap_err().is_closed());
    }
}

/// From the moment of this end's Close there is nothing to send to it.
#[tokio::test(start_paused = true)]
async fn whoever_is_being_closed_is_forgotten_with_the_next_message() {
    for form in FORMS {
        let groups = Groups::new();
        let (socket, mut peer) = Setup::default().open(Role::Server).await;
        let sender = socket.sender();
        let member = groups.member(sender.clone());
        member.join("room").unwrap();
        let _seen = echo(form, socket);
        peer.expect_echo("it runs").await;
        sender.close(CloseCode::NORMAL, "").await.unwrap();
        assert_eq!(groups.send_to("room", "too late"), 0, "{form:?}");
        assert_eq!(groups.members(), 0, "{form:?}");
        assert_eq!(peer.expect_close().await.0, 1000);
    }
}

fn narrow() -> Setup {
    Setup {
        pipe: 500,
        ..Setup::default()
    }
}

#[tokio::test(start_paused = true)]
async fn who_reads_slowly_misses_messages_and_delays_nobody() {
    for slow_form in FORMS {
        let groups = Groups::new().slow(Slow::Skip { above: 1000 });
        let mut seats = Vec::new();
        for form in FORMS {
            seats.push(seat(&groups, form, Role::Server, &narrow()).await);
        }
        let mut slow = seat(&groups, slow_form, Role::Server, &narrow()).await;
        let mut given = Vec::new();
        for number in 0..200 {
            let text = format!("{number:050}");
            if groups.send_to_all(&text) == 4 {
                given.push(text.clone());
            }
            for seat in &mut seats {
                seat.peer.expect_text(&text).await;
            }
        }
        // What the pipe holds, what may wait, and one.
        assert!((20..=35).contains(&given.len()), "{}", given.len());
        assert_eq!(groups.members(), 4);
        for text in &given {
            slow.peer.expect_text(text).await;
        }
        // It reads again, and so it is given the next one.
        slow.peer.expect_echo("nothing was kept").await;
        assert_eq!(groups.send_to_all("the newest"), 4);
        slow.peer.expect_text("the newest").await;
    }
}

/// Of each key the newest, whatever becomes of other messages.
#[tokio::test(start_paused = true)]
async fn of_what_is_sent_latest_one_waits() {
    for form in FORMS {
        let groups = Groups::new();
        let mut slow = seat(&groups, form, Role::Server, &narrow()).await;
        slow.member.join("prices").unwrap();
        for number in 0..1000 {
            for key in [1, 2] {
                let text = format!("{key} {number:050}");
                assert_eq!(groups.send_latest_to("prices", key, &text), 1);
                assert_eq!(groups.send_latest_to("elsewhere", key, &text), 0);
            }
            tokio::task::yield_now().await;
        }
        let mut read = Vec::new();
        while !["1", "2"].iter().all(|key| {
            let newest = format!("{key} {:050}", 999);
            read.contains(&newest)
        }) {
            read.push(slow.peer.next().await.unwrap().text().to_owned());
        }
        assert!(read.len() < 20, "{read:?}");
        slow.peer.expect_echo("and nothing more").await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_reads_nothing_is_closed_and_delays_nobody() {
    for (asked, code) in [
        (CloseCode::TRY_AGAIN_LATER, 1013),
        (CloseCode::POLICY_VIOLATION, 1008),
        // A server may not send it.
        (CloseCode::MANDATORY_EXTENSION, 1008),
    ] {
        for slow_form in FORMS {
            let groups = Groups::new().slow(Slow::Close {
                above: 1000,
                code: asked,
            });
            let mut seats = Vec::new();
            for form in FORMS {
                seats.push(seat(&groups, form, Role::Server, &narrow()).await);
            }
            let mut slow = seat(&groups, slow_form, Role::Server, &narrow()).await;
            slow.member.join("room").unwrap();
            let mut given = Vec::new();
            for number in 0..100 {
                let text = format!("{number:050}");
                if groups.send_to_all(&text) == 4 {
                    assert_eq!(given.len(), number, "none is missed before the end");
                    given.push(text.clone());
                }
                for seat in &mut seats {
                    seat.peer.expect_text(&text).await;
                }
            }
            // Gone at once, whatever it may still read.
            assert_eq!((groups.members(), groups.members_of("room")), (3, 0));
            for text in &given {
                slow.peer.expect_text(text).await;
            }
            let (closed, reason) = slow.peer.expect_close().await;
            assert_eq!(closed, code, "{slow_form:?}");
            assert!(reason.contains("does not read: 1000 bytes"), "{reason}");
        }
    }
}

/// It does not even read its Close.
#[tokio::test(start_paused = true)]
async fn who_reads_nothing_ever_is_given_up_after_the_close_timeout() {
    for form in FORMS {
        let groups = Groups::new().slow(Slow::Close {
            above: 1000,
            code: CloseCode::POLICY_VIOLATION,
        });
        let slow = seat(&groups, form, Role::Server, &narrow()).await;
        while groups.send_to_all("0123456789".repeat(10)) == 1 {
            tokio::task::yield_now().await;
        }
        let began = tokio::time::Instant::now();
        let seen = within(slow.seen).await.unwrap();
        assert!(matches!(seen.ended, Some(Ended::TimedOut)), "{seen:?}");
        assert_eq!(began.elapsed().as_secs(), 5, "{form:?}");
    }
}

/// Its handler has let go of it, and only the registry's sender is left.
#[tokio::test(start_paused = true)]
async fn who_reads_nothing_is_given_up_though_nobody_receives() {
    for role in BOTH {
        let groups = Groups::new().slow(Slow::Close {
            above: 1000,
            code: CloseCode::POLICY_VIOLATION,
        });
        let (socket, peer) = narrow().open(role).await;
        let (sender, receiver) = socket.split();
        drop(receiver);
        let _member = groups.member(sender.clone());
        while groups.send_to_all("0123456789".repeat(10)) == 1 {
            tokio::task::yield_now().await;
        }
        within(async {
            while sender.ended().is_none() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
        .await;
        let ended = sender.ended();
        assert!(matches!(ended, Some(Ended::TimedOut)), "{ended:?}");
        drop(peer);
    }
}

/// A handler that has joined "room" and gives what it is sent to everyone there.
struct Visitor {
    groups: Groups,
    member: Option<Member>,
    says_goodbye: bool,
}

impl Visitor {
    fn new(groups: &Groups) -> Self {
        Self {
            groups: groups.clone(),
            member: None,
            says_goodbye: false,
        }
    }

    fn polite(groups: &Groups) -> Self {
        Self {
            says_goodbye: true,
            ..Self::new(groups)
        }
    }
}

impl Handler for Visitor {
    fn on_open(&mut self, socket: &mut Socket) {
        let member = self.groups.member(socket.sender());
        member.join("room").unwrap();
        self.member = Some(member);
        socket.send("welcome");
    }

    fn on_message(&mut self, _: &mut Socket, message: MessageRef<'_>) {
        self.groups.send_to("room", message);
    }

    fn on_close(&mut self, _: &mut Socket, _: &Ended) {
        let member = self.member.take().unwrap();
        for group in member.groups().iter().filter(|_| self.says_goodbye) {
            member.send_to_others(group, "somebody has left");
        }
    }
}

async fn visit(mut socket: WebSocket, groups: Groups) -> Result<()> {
    let member = groups.member(socket.sender());
    member.join("room")?;
    socket.send("welcome").await?;
    while let Some(message) = socket.recv().await? {
        groups.send_to("room", message);
    }
    Ok(())
}

#[tokio::test]
async fn ten_thousand_hear_one_of_either_form() {
    const COUNT: usize = 10_000;
    let groups = Groups::new();
    let setup = Setup {
        pipe: 1000,
        // It may take longer than until a ping.
        keepalive: None,
        ..Setup::default()
    };
    let mut peers = Vec::new();
    let mut tasks = Vec::new();
    for number in 0..COUNT {
        let (socket, mut peer) = setup.open(Role::Server).await;
        let visitor = Visitor::new(&groups);
        let groups = groups.clone();
        tasks.push(match number % 2 {
            0 => tokio::spawn(async { drop(socket.handle(visitor).await) }),
            _ => tokio::spawn(async { drop(socket.drive(|socket| visit(socket, groups)).await) }),
        });
        peer.expect_text("welcome").await;
        peers.push(peer);
    }
    assert_eq!(groups.members_of("room"), COUNT);
    for sender in [0, 1] {
        let text = format!("from the one with number {sender}");
        peers[sender].send_frame(0x81, &text).await;
        for peer in &mut peers {
            peer.expect_text(&text).await;
        }
    }
    drop(peers);
    for task in tasks {
        within(task).await.unwrap();
    }
    assert_eq!((groups.members(), groups.names().len()), (0, 0));
}

/// Senders on several threads, and members that come and go meanwhile: what one sender sends keeps
/// its order everywhere, and nobody waits for anybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_task_sends_keeps_its_order_at_every_member() {
    const SENDERS: usize = 4;
    const MESSAGES: usize = 200;
    let groups = Groups::new();
    let mut readers = Vec::new();
    for form in [FORMS[1], FORMS[2]].repeat(10) {
        let seat = seat(&groups, form, Role::Server, &Setup::default()).await;
        seat.member.join("room").unwrap();
        readers.push(tokio::spawn(async move {
            let mut seat = seat;
            let mut next = [0; SENDERS];
            while next != [MESSAGES; SENDERS] {
                let frame = seat.peer.next().await.unwrap();
                let (sender, number) = frame.text().split_once(' ').unwrap();
                let next = &mut next[sender.parse::<usize>().unwrap()];
                assert_eq!(number.parse::<usize>().unwrap(), *next);
                *next += 1;
            }
            // Till all are done: a member that leaves would be missed.
            seat
        }));
    }
    let busy = AtomicBool::new(true);
    let (socket, _peer) = Setup::default().open(Role::Server).await;
    let passer_by = socket.sender();
    thread::scope(|scope| {
        scope.spawn(|| {
            while busy.load(Ordering::Relaxed) {
                let member = groups.member(passer_by.clone());
                member.join("elsewhere").unwrap();
                member.leave("elsewhere");
            }
        });
        let senders: Vec<_> = (0..SENDERS)
            .map(|sender| {
                let groups = &groups;
                scope.spawn(move || {
                    for number in 0..MESSAGES {
                        assert_eq!(groups.send_to("room", format!("{sender} {number}")), 20);
                    }
                })
            })
            .collect();
        for sender in senders {
            sender.join().unwrap();
        }
        busy.store(false, Ordering::Relaxed);
    });
    for reader in readers {
        drop(within(reader).await.unwrap());
    }
    assert_eq!(groups.members(), 0);
}

/// Clients that vanish: what they have not read makes it a reset.
async fn vanish(url: &str, groups: &Groups) {
    const TOGETHER: usize = 200;
    for _ in 0..1000 / TOGETHER {
        let mut clients = Vec::new();
        for _ in 0..TOGETHER {
            let address = url.strip_prefix("ws://").unwrap().trim_end_matches('/');
            let stream = TcpStream::connect(address).await.unwrap();
            clients.push(Peer::client(stream, "", b"").await);
        }
        eventually("all are in", || groups.members_of("room") == TOGETHER).await;
        groups.send_to("room", "you will not read this");
        drop(clients);
        eventually("all are out", || groups.members() == 0).await;
        assert_eq!(groups.names(), [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_that_vanish_leave_nothing() {
    for events in [true, false] {
        let groups = Groups::new();
        let server = Server::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/", server.local_addr().unwrap());
        let there = groups.clone();
        let serving = tokio::spawn(async move {
            match events {
                true => server.serve_handler(move || Visitor::new(&there)).await,
                false => server.serve(move |it| visit(it, there.clone())).await,
            }
        });
        vanish(&url, &groups).await;
        serving.abort();
    }
}

#[test]
fn members_on_all_threads_of_a_server_a_core() {
    let server = PerCore::bind("127.0.0.1:0").unwrap().threads(3);
    let url = format!("ws://{}/", server.local_addr());
    let groups = Groups::new();
    let (stop, stopped) = watch::channel(false);
    thread::scope(|scope| {
        let serving = scope.spawn(|| {
            server.serve(|server| {
                let mut stopped = stopped.clone();
                let groups = groups.clone();
                server
                    .shutdown_on(async move { drop(stopped.wait_for(|stopped| *stopped).await) })
                    .serve_handler(move || Visitor::polite(&groups))
            })
        });
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime
            .enable_all()
            .build()
            .unwrap()
            .block_on(within(async {
                let mut sockets = Vec::new();
                for _ in 0..60 {
                    let mut socket = sockeye::connect(&url).await.unwrap();
                    assert_eq!(socket.recv().await.unwrap(), Some("welcome".into()));
                    sockets.push(socket);
                }
                for number in [0, 59] {
                    sockets[number].send("to all threads").await.unwrap();
                    for socket in &mut sockets {
                        let heard = socket.recv().await.unwrap();
                        assert_eq!(heard, Some("to all threads".into()));
                    }
                }
                // From no thread of the server's.
                assert_eq!(groups.send_to_all("from outside"), 60);
                for socket in &mut sockets {
                    assert_eq!(socket.recv().await.unwrap(), Some("from outside".into()));
                }
                let mut leaving = sockets.pop().unwrap();
                leaving.close(CloseCode::NORMAL, "").await.unwrap();
                for socket in &mut sockets {
                    let heard = socket.recv().await.unwrap();
                    assert_eq!(heard, Some("somebody has left".into()));
                }
                vanish(&url, &{
                    drop(sockets);
                    eventually("all are out", || groups.members() == 0).await;
                    groups.clone()
                })
                .await;
            }));
        stop.send_replace(true);
        serving.join().unwrap().unwrap();
    });
}

/// A registry keeps no connection open that its user has let go of, and no member after that.
#[tokio::test(start_paused = true)]
async fn a_connection_is_let_go_of_with_its_member() {
    let groups = Groups::new();
    let (socket, mut peer) = Setup::default().open(Role::Server).await;
    let member = groups.member(socket.sender());
    member.join("room").unwrap();
    let running = tokio::spawn(socket.drive(|socket| async move {
        let _held = (socket, member);
        pending().await
    }));
    tokio::task::yield_now().await;
    assert_eq!(groups.members(), 1);
    running.abort();
    assert_eq!(peer.expect_close().await.0, 1001);
    peer.expect_end().await;
    assert_eq!((groups.members(), groups.names().len()), (0, 0));
}
