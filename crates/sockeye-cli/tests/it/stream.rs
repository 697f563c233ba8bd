//! `sockeye connect --one-message` and `--binary`: bytes instead of lines, and no message whole in memory.

use std::{
    io::{Read, Write},
    sync::mpsc,
    thread,
    time::Duration,
};

use sockeye::{Acceptor, CloseCode, Message, MessageKind, Server, WebSocket};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::program::{DEADLINE, End, Program, Unread, run, within};

/// A server that does this with each connection.
async fn serving<F, Fut>(work: F) -> String
where
    F: Fn(WebSocket) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = sockeye::Result<()>> + Send + 'static,
{
    let server = Server::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/", server.local_addr().unwrap());
    tokio::spawn(server.acceptor(Acceptor::new()).serve(work));
    url
}

/// Sends each message back while it comes.
async fn echoing() -> String {
    serving(|socket| async move {
        let (sender, mut receiver) = socket.split();
        while let Some(mut message) = receiver.recv_stream().await? {
            let mut echo = sender.send_stream(message.kind()).await?;
            let mut part = vec![0; 16 * 1024];
            loop {
                match message.read(&mut part).await? {
                    0 => break,
                    count => AsyncWriteExt::write_all(&mut echo, &part[..count]).await?,
                }
                AsyncWriteExt::flush(&mut echo).await?;
            }
            echo.finish().await?;
        }
        Ok(())
    })
    .await
}

/// A server that tells what it received, and answers each message with these.
async fn answering(answers: &'static [&'static str]) -> (String, mpsc::Receiver<Message>) {
    let (tell, told) = mpsc::channel();
    let url = serving(move |mut socket| {
        let tell = tell.clone();
        async move {
            while let Some(message) = socket.recv().await? {
                let _ = tell.send(message);
                for answer in answers {
                    socket.send(*answer).await?;
                }
            }
            Ok(())
        }
    })
    .await;
    (url, told)
}

async fn piped(args: &[&str], input: &str) -> End {
    let args: Vec<_> = args.iter().map(ToString::to_string).collect();
    let input = input.to_owned();
    let run = move || run(&args.iter().map(String::as_str).collect::<Vec<_>>(), &input);
    tokio::task::spawn_blocking(run).await.unwrap()
}

/// A part of a long message that is like no other.
fn part(number: u64) -> Vec<u8> {
    let mut part: Vec<u8> = (0..65_521_u32).map(|at| ((at * 31) >> 7) as u8).collect();
    part[..8].copy_from_slice(&number.to_be_bytes());
    part
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_message_larger_than_memory_goes_there_and_back() {
    /// 128 MB.
    const PARTS: u64 = 2000;
    let url = echoing().await;
    let work = move || {
        let args = ["connect", "-q", "-1", "--binary", "--no-compress", &url];
        let mut connect = Unread::start(&args);
        let mut input = connect.input.take().unwrap();
        let (all_came, close) = mpsc::channel::<()>();
        let writing = thread::spawn(move || {
            for number in 0..PARTS {
                input.write_all(&part(number)).unwrap();
            }
            // Until then the message has no end.
            close.recv_timeout(3 * DEADLINE).unwrap();
        });
        let mut came = part(0);
        for number in 0..PARTS {
            connect.output.read_exact(&mut came).unwrap();
            assert!(came == part(number), "part {number}");
        }
        let peak = connect.peak();
        all_came.send(()).unwrap();
        writing.join().unwrap();
        assert_eq!(connect.output.read(&mut came).unwrap(), 0);
        assert_eq!(connect.end(), Some(0));
        peak
    };
    let peak = tokio::task::spawn_blocking(work).await.unwrap();
    println!("at most {} KiB resident", peak >> 10);
    assert!(peak > 1 << 20, "{peak} bytes: measured wrongly");
    assert!(peak < 64 << 20, "{peak} bytes were resident");
}

/// Neither many lines nor long ones fill the memory where the server takes none.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn lines_are_read_no_further_than_the_server_takes_them() {
    let url = serving(|_socket| std::future::pending()).await;
    let work = move || {
        let mut connect = Unread::start(&["connect", "-q", "--no-compress", &url]);
        let mut input = connect.input.take().unwrap();
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            let line = [vec![b'x'; 4 << 20], vec![b'\n']].concat();
            // The program ends before it has read them.
            while input.write_all(&line).is_ok() && tell.send(()).is_ok() {}
        });
        // 256 MiB, or as much as is taken until nothing is for a second.
        let mut patience = DEADLINE;
        let read = (0..64).take_while(|_| {
            let is_read = told.recv_timeout(patience).is_ok();
            patience = Duration::from_secs(1);
            is_read
        });
        (read.count(), connect.peak())
    };
    let (lines, peak) = tokio::task::spawn_blocking(work).await.unwrap();
    println!("{lines} lines read, at most {} KiB resident", peak >> 10);
    assert!(lines > 0);
    assert!(peak < 64 << 20, "{peak} bytes were resident");
}

mod one_message {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn is_text_of_all_lines_and_the_first_answer_is_all_there_is() {
        let (url, told) = answering(&["one", "two"]).await;
        let end = piped(&["connect", "-1", &url], "a line\r\nanother\n").await;
        assert_eq!(
            (end.status, &end.stdout[..]),
            (Some(0), "one"),
            "{}",
            end.stderr
        );
        let message = told.recv_timeout(DEADLINE).unwrap();
        assert_eq!(message.as_text(), Some("a line\r\nanother\n"));
        let counted = "1 message (3 B) received, 1 message (16 B) sent";
        assert!(end.stderr.contains(counted), "{}", end.stderr);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_bytes_is_binary() {
        let (url, told) = answering(&["\u{1}"]).await;
        let mut connect = Program::start(&["connect", "-1", "--binary", &url]);
        connect.write([0, 255, 10]);
        let end = tokio::task::spawn_blocking(|| connect.finish())
            .await
            .unwrap();
        assert_eq!((end.status, &end.stdout[..]), (Some(0), "\u{1}"));
        let message = told.recv_timeout(DEADLINE).unwrap();
        assert_eq!(message, Message::from(vec![0, 255, 10]));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn goes_out_as_it_is_read() {
        let (tell, told) = mpsc::channel();
        let url = serving(move |mut socket| {
            let tell = tell.clone();
            async move {
                let mut message = socket.recv_stream().await?.unwrap();
                assert_eq!(message.kind(), MessageKind::Text);
                let mut part = [0; 100];
                loop {
                    match message.read(&mut part).await? {
                        0 => break,
                        count => tell.send(part[..count].to_vec()).unwrap(),
                    }
                }
                Ok(())
            }
        })
        .await;
        let mut connect = Program::start(&["connect", "--one-message", &url]);
        for part in ["first", "второй", "third"] {
            connect.write(part);
            assert_eq!(told.recv_timeout(DEADLINE).unwrap(), part.as_bytes());
        }
        let end = tokio::task::spawn_blocking(|| connect.finish())
            .await
            .unwrap();
        assert_eq!(end.status, Some(0), "{}", end.stderr);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn without_an_answer_is_waited_for_as_long_as_asked() {
        let (url, told) = answering(&[]).await;
        let end = piped(&["connect", "-1", "--linger", "0.1", &url], "hello").await;
        assert_eq!((end.status, &end.stdout[..]), (Some(0), ""));
        assert_eq!(
            told.recv_timeout(DEADLINE).unwrap().as_text(),
            Some("hello")
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn is_none_where_nothing_is_read_and_the_answer_may_take_longer_than_the_linger() {
        let (tell, told) = mpsc::channel();
        let url = serving(move |mut socket| {
            let tell = tell.clone();
            async move {
                let mut message = socket.send_stream(MessageKind::Text).await?;
                for part in ["a ", "long ", "story"] {
                    AsyncWriteExt::write_all(&mut message, part.as_bytes()).await?;
                    AsyncWriteExt::flush(&mut message).await?;
                    // Longer than the client lingers.
                    tokio::time::sleep(Duration::from_millis(1200)).await;
                }
                message.finish().await?;
                tell.send(socket.recv().await?).unwrap();
                Ok(())
            }
        })
        .await;
        let end = piped(&["connect", "-1", "--linger", "1", &url], "").await;
        assert_eq!((end.status, &end.stdout[..]), (Some(0), "a long story"));
        assert_eq!(told.recv_timeout(DEADLINE).unwrap(), None);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn that_is_cut_off_is_a_failure() {
        let url = serving(|mut socket| async move {
            let mut message = socket.send_stream(MessageKind::Text).await?;
            AsyncWriteExt::write_all(&mut message, b"half").await?;
            AsyncWriteExt::flush(&mut message).await?;
            drop(message);
            while socket.recv().await?.is_some() {}
            Ok(())
        })
        .await;
        let end = piped(&["connect", "-1", &url], "hello").await;
        assert_eq!((end.status, &end.stdout[..]), (Some(1), "half"));
        assert!(end.stderr.contains("within a message"), "{}", end.stderr);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn that_the_peer_does_not_take_to_its_end_is_a_failure() {
        for way in [&["-1"][..], &["--binary"], &["-1", "--quiet"]] {
            let url = serving(|mut socket| async move {
                let mut message = socket.recv_stream().await?.unwrap();
                message.read_exact(&mut [0; 1000]).await?;
                socket.close(CloseCode::NORMAL, "").await
            })
            .await;
            let input = "x".repeat(50 << 20);
            let end = piped(&[&["connect"], way, &[&url]].concat(), &input).await;
            assert_eq!(end.status, Some(1), "{way:?}: {}", end.stderr);
            let told = "before all of the input was sent";
            assert!(end.stderr.contains(told), "{way:?}: {}", end.stderr);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn that_is_no_text_says_what_to_do() {
        let (url, _told) = answering(&[]).await;
        let mut connect = Program::start(&["connect", "-1", &url]);
        connect.write([b'a', 0xFF]);
        let end = tokio::task::spawn_blocking(|| connect.finish())
            .await
            .unwrap();
        assert_eq!(end.status, Some(1), "{}", end.stderr);
        assert!(end.stderr.contains("--binary"), "{}", end.stderr);
    }
}

/// A tunnel: bytes both ways, until one end has had enough.
#[tokio::test(flavor = "multi_thread")]
async fn binary_is_a_tunnel() {
    let url = serving(|socket| async move {
        let mut tunnel = socket.into_byte_stream();
        let mut bytes = [0; 4];
        while tunnel.read_exact(&mut bytes).await.is_ok() {
            bytes.reverse();
            AsyncWriteExt::write_all(&mut tunnel, &bytes).await?;
        }
        Ok(())
    })
    .await;
    let mut connect = Program::start(&["connect", "--binary", &url]);
    connect.write("abcd");
    connect.stdout.expect("dcba");
    connect.write("12");
    connect.write("34\n\n\n\n");
    connect.stdout.expect("dcba4321\n\n\n\n");
    let end = tokio::task::spawn_blocking(|| connect.finish())
        .await
        .unwrap();
    assert_eq!(end.status, Some(0), "{}", end.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_of_the_peers_is_told_as_ever() {
    let url = serving(|mut socket| async move {
        socket.send("bye").await?;
        socket.close(CloseCode::INTERNAL_ERROR, "").await
    })
    .await;
    let mut connect = Program::start(&["connect", "--binary", &url]);
    let end = tokio::task::spawn_blocking(move || {
        connect.write("");
        connect.end()
    });
    let end = within(end).await.unwrap();
    assert_eq!((end.status, &end.stdout[..]), (Some(3), "bye"));
}
