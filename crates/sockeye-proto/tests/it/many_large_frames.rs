//! A bug: a message in many large frames, each of whose headers came by itself, was moved in memory for each of them.

use sockeye_proto::{Config, OwnedEvent, Role, deflate::Inflater};

const FRAME: usize = 128 * 1024;
const FRAMES: usize = 64;

fn masks() -> [u8; 4] {
    [0; 4]
}

#[test]
fn it_is_moved_few_times() {
    let (mut receiver, _) = Config::new(Role::Client { masks }).halves();
    let mut inflater = Inflater::new();
    let mut receive = |receiver: &mut sockeye_proto::Receiver, mut bytes: &mut [u8]| {
        receiver.receive_owned(&mut bytes, &mut inflater).unwrap()
    };
    let (mut rooms, mut message) = (Vec::new(), None);
    for number in 1..=FRAMES {
        let fin = if number == FRAMES { 0x80 } else { 0 };
        let opcode = if number == 1 { 2 } else { 0 };
        let mut header = vec![fin | opcode, 127];
        header.extend((FRAME as u64).to_be_bytes());
        assert!(receive(&mut receiver, &mut header).is_none());
        let mut left = FRAME;
        while left > 0 {
            let (buffer, limit) = receiver.payload_buffer(1).unwrap();
            let count = left.min(limit);
            let room = buffer.capacity();
            buffer.resize(buffer.len() + count, number as u8);
            rooms.push(room);
            left -= count;
            receiver.received(count).unwrap();
            message = receive(&mut receiver, &mut []);
        }
    }
    let Some(OwnedEvent::Message(message)) = message else {
        panic!("{message:?}");
    };
    let expected: Vec<u8> = (0..FRAMES * FRAME)
        .map(|at| (at / FRAME + 1) as u8)
        .collect();
    assert!(message.into_bytes() == expected);
    rooms.dedup();
    assert!(rooms.len() < 12, "{rooms:?}");
}
