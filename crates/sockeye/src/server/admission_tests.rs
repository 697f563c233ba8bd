//! Counting connections, without any.

use std::{future::poll_fn, panic};

use super::*;

fn limits(connections: usize, per_address: usize) -> Limits {
    Limits {
        connections: Some(connections),
        per_address: Each::of(Some(per_address)),
        rate: Each::of(None),
        ..Limits::default()
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn limit(result: Result<(), Refused>) -> Option<Limit> {
    result.err().map(|refused| refused.limit)
}

#[tokio::test(start_paused = true)]
async fn as_many_as_there_may_be_and_one_more() {
    let gate = Gate::new();
    let limits = Arc::new(limits(3, 9));
    let mut places: Vec<_> = (0..3).map(|_| gate.enter(&limits).unwrap()).collect();
    let refused = gate.enter(&limits).unwrap_err();
    assert_eq!(refused.limit, Limit::Connections);
    assert_eq!(refused.refusal().status(), 503);
    places.pop();
    drop(gate.enter(&limits).unwrap());
    drop(places);
    assert_eq!(gate.open.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn each_address_by_itself() {
    let gate = Gate::new();
    let limits = Arc::new(limits(100, 2));
    let enter = |text| {
        let place = gate.enter(&limits).unwrap();
        place.count_address(address(text)).map(|()| place)
    };
    let _first = enter("192.0.2.1").unwrap();
    let second = enter("192.0.2.1").unwrap();
    // The same, as a socket that takes both sees it.
    let refused = enter("::ffff:192.0.2.1").unwrap_err();
    assert_eq!(refused.limit, Limit::ConnectionsPerAddress);
    assert_eq!(refused.refusal().status(), 429);
    let _other = enter("192.0.2.2").unwrap();
    drop(second);
    let _again = enter("192.0.2.1").unwrap();
    assert!(enter("192.0.2.1").is_err());
}

#[tokio::test(start_paused = true)]
async fn ipv6_by_64_bits() {
    let gate = Gate::new();
    let limits = Arc::new(limits(100, 2));
    let enter = |text| {
        let place = gate.enter(&limits).unwrap();
        place.count_address(address(text)).map(|()| place)
    };
    let _a = enter("2001:db8:0:1::1").unwrap();
    let _b = enter("2001:db8:0:1:ffff:ffff:ffff:ffff").unwrap();
    assert!(enter("2001:db8:0:1:8000::").is_err());
    let _c = enter("2001:db8:0:2::1").unwrap();
    let _d = enter("2001:db8:0:0:ffff::1").unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_real_address_takes_the_place_of_the_proxys() {
    let gate = Gate::new();
    let limits = Arc::new(limits(100, 1));
    let place = gate.enter(&limits).unwrap();
    place.count_address(address("192.0.2.1")).unwrap();
    place.count_address(address("192.0.2.1")).unwrap();
    place.count_address(address("192.0.2.9")).unwrap();
    let proxys = gate.enter(&limits).unwrap();
    proxys.count_address(address("192.0.2.1")).unwrap();
    let refused = proxys.count_address(address("192.0.2.9"));
    assert_eq!(limit(refused), Some(Limit::ConnectionsPerAddress));
    // Where it was refused it is still counted where it was.
    let another = gate.enter(&limits).unwrap();
    assert!(another.count_address(address("192.0.2.1")).is_err());
    drop(proxys);
    another.count_address(address("192.0.2.1")).unwrap();
}

#[tokio::test(start_paused = true)]
async fn defaults_are_for_addresses_of_the_internet() {
    let gate = Gate::new();
    let limits = Arc::new(Limits {
        per_address: Each::global(1),
        rate: Each::global(Rate::per_second(1)),
        ..Limits::default()
    });
    for (text, global) in [
        ("127.0.0.1", false),
        ("10.1.2.3", false),
        ("172.17.0.1", false),
        ("192.168.1.1", false),
        ("169.254.1.1", false),
        ("100.64.0.1", false),
        ("100.128.0.1", true),
        ("::ffff:10.1.2.3", false),
        ("::1", false),
        ("fe80::1", false),
        ("fd00::1", false),
        ("2001:db8::1", true),
        ("198.51.100.7", true),
    ] {
        let (first, second) = (gate.enter(&limits).unwrap(), gate.enter(&limits).unwrap());
        first.count_address(address(text)).unwrap();
        let refused = limit(second.count_address(address(text)));
        let expected = global.then_some(Limit::ConnectionsPerAddress);
        assert_eq!(refused, expected, "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn handshakes_a_second_and_a_burst() {
    let gate = Gate::new();
    let limits = Arc::new(Limits {
        rate: Each::of(Some(Rate::per_second(1).burst(3))),
        ..limits(100, 100)
    });
    let begin = |text| {
        let place = gate.enter(&limits).unwrap();
        place.count_address(address(text))
    };
    for _ in 0..3 {
        begin("192.0.2.1").unwrap();
    }
    let refused = begin("192.0.2.1").unwrap_err();
    assert_eq!(refused.limit, Limit::HandshakeRate);
    let head = String::from_utf8(refused.refusal().to_bytes()).unwrap();
    assert!(head.starts_with("HTTP/1.1 429 "), "{head}");
    assert!(head.contains("Retry-After: 1\r\n"), "{head}");
    begin("192.0.2.2").unwrap();
    // One that was refused has used up nothing.
    tokio::time::advance(Duration::from_secs(1)).await;
    begin("192.0.2.1").unwrap();
    assert!(begin("192.0.2.1").is_err());
}

/// Those who come once are forgotten, and a flood of them does not grow without end.
#[tokio::test(start_paused = true)]
async fn what_is_remembered_of_addresses_is_bounded() {
    let gate = Gate::new();
    let limits = Arc::new(Limits {
        rate: Each::of(Some(Rate::per_second(1).burst(2))),
        ..limits(1 << 20, 100)
    });
    let remembered = || -> usize {
        let parts = gate.addresses.iter();
        parts.map(|part| lock(part).clients.len()).sum()
    };
    let come = |number: u32| {
        let place = gate.enter(&limits).unwrap();
        place.count_address(IpAddr::V4(number.into())).unwrap();
        place
    };
    let kept = come(7);
    for number in 0x0100_0000..0x0104_0000 {
        drop(come(number));
    }
    assert!(
        remembered() <= SHARDS * (REMEMBERED + 2),
        "{}",
        remembered()
    );
    tokio::time::advance(Duration::from_secs(2)).await;
    // Each that comes has two looked at in its part.
    for number in 0..80_000 {
        let place = gate.enter(&limits).unwrap();
        let _ = place.count_address(IpAddr::V4((0x0200_0000 + number % 1024).into()));
    }
    assert!(remembered() < 2048, "{}", remembered());
    // One that has connections is never forgotten.
    let place = gate.enter(&limits).unwrap();
    drop(kept);
    place.count_address(IpAddr::V4(7.into())).unwrap();
    for part in &gate.addresses {
        let part = lock(part);
        assert_eq!(part.clients.len(), part.order.len());
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_gives_its_place_back() {
    let gate = Gate::new();
    let limits = Arc::new(limits(1, 1));
    let place = gate.enter(&limits).unwrap();
    place.count_address(address("192.0.2.1")).unwrap();
    let task = tokio::spawn(async move {
        let _place = place;
        panic!("a handler of the test");
    });
    assert!(task.await.unwrap_err().is_panic());
    let place = gate.enter(&limits).unwrap();
    place.count_address(address("192.0.2.1")).unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_oldest_handshake_is_given_up_once_it_has_had_its_time() {
    let gate = Gate::new();
    let limits = Arc::new(Limits {
        handshakes: Some(2),
        ..Limits::default()
    });
    let mut room = Room::new(gate.clone(), &limits);
    let mut given_up = Vec::new();
    let peer = |port| Some(SocketAddr::from(([192, 0, 2, 1], port)));
    let first = gate.handshake(peer(1));
    let task = tokio::spawn(std::future::pending::<()>());
    gate.runs(first.id(), task.abort_handle());
    poll_fn(|cx| room.poll(cx, |_, _| panic!("there is room"))).await;
    tokio::time::advance(Duration::from_millis(400)).await;
    let second = gate.handshake(peer(2));
    let begin = Instant::now();
    poll_fn(|cx| room.poll(cx, |peer, error| given_up.push((peer, error)))).await;
    assert_eq!(begin.elapsed(), Duration::from_millis(600));
    assert_eq!(given_up.len(), 1);
    assert_eq!(given_up[0].0, peer(1));
    assert!(matches!(
        given_up[0].1,
        Error::Limit {
            limit: Limit::Handshakes,
            address: Some(_)
        }
    ));
    assert!(task.await.unwrap_err().is_cancelled());
    // Had it been done just then, on another thread, its connection would not have begun.
    assert!(!first.finish());
    // One that is done makes room at once.
    let third = gate.handshake(peer(3));
    let begin = Instant::now();
    let done = async move {
        tokio::time::sleep(Duration::from_millis(1)).await;
        drop(second);
    };
    tokio::join!(
        poll_fn(|cx| room.poll(cx, |_, _| panic!("it is done"))),
        done
    );
    assert!(begin.elapsed() < Duration::from_millis(10));
    assert!(third.finish());
    assert_eq!(lock(&gate.handshakes).unfinished, 0);
}

/// A bug: it was refused for as long as others kept silent.
#[cfg(feature = "hyper")]
#[tokio::test(start_paused = true)]
async fn who_cannot_wait_has_the_oldest_given_up_too() {
    let gate = Gate::new();
    let limits = Limits {
        handshakes: Some(2),
        ..Limits::default()
    };
    let peer = |port| Some(SocketAddr::from(([192, 0, 2, 1], port)));
    let begin = || {
        let mut given_up = Vec::new();
        let begun = gate.begin(&limits, peer(9), |peer, error| given_up.push((peer, error)));
        (begun, given_up)
    };
    let first = gate.handshake(peer(1));
    let task = tokio::spawn(std::future::pending::<()>());
    gate.runs(first.id(), task.abort_handle());
    assert!(begin().0.is_ok());
    tokio::time::advance(Duration::from_millis(400)).await;
    let _second = gate.handshake(peer(2));
    tokio::time::advance(Duration::from_millis(599)).await;
    let (refused, given_up) = begin();
    assert_eq!(limit(refused), Some(Limit::Handshakes));
    assert!(given_up.is_empty());
    tokio::time::advance(Duration::from_millis(1)).await;
    let (begun, given_up) = begin();
    assert!(begun.is_ok());
    assert_eq!(given_up.len(), 1);
    assert_eq!(given_up[0].0, peer(1));
    assert!(given_up[0].1.is_limit());
    assert!(task.await.unwrap_err().is_cancelled());
    assert!(!first.finish());
    let _third = gate.handshake(peer(3));
    assert!(begin().0.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_takes_long_keeps_no_room_for_those_after_it() {
    let gate = Gate::new();
    let first = gate.handshake(None);
    let many: Vec<_> = (0..1000).map(|_| gate.handshake(None)).collect();
    let last = gate.handshake(None);
    assert_eq!(lock(&gate.handshakes).unfinished, 1002);
    drop(many);
    {
        let handshakes = lock(&gate.handshakes);
        assert_eq!(handshakes.unfinished, 2);
        assert!(handshakes.begun.len() < 100, "{}", handshakes.begun.len());
        assert_eq!(handshakes.oldest().map(|(id, _)| id), Some(first.id()));
    }
    drop(first);
    {
        let mut handshakes = lock(&gate.handshakes);
        assert_eq!(handshakes.oldest().map(|(id, _)| id), Some(last.id()));
        // Given up, and then done.
        handshakes.end(last.id());
        assert!(handshakes.at(last.id()).is_none());
    }
    drop(last);
    assert_eq!(lock(&gate.handshakes).unfinished, 0);
    assert!(lock(&gate.handshakes).begun.is_empty());
}
