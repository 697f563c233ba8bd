//! Whatever a deflater of any settings makes of a message comes back (RFC 7692 §7.2), from the
//! inflater and from a second one, and refers back no further than was agreed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sockeye_fuzz::{
    Choices,
    reference::{Reference, Verdict},
};
use sockeye_proto::deflate::{Deflater, DeflaterSettings, Deflaters, Inflater, Level, MemLevel};

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    let settings = DeflaterSettings {
        level: Level::new(choices.byte() % 10).expect("0 to 9"),
        mem_level: MemLevel::new(1 + choices.byte() % 9).expect("1 to 9"),
        window: choices.window(),
    };
    let keep = choices.byte() & 1 != 0;
    // As a connection has its own where it keeps a context, and is lent one where it does not.
    let (mut own, mut lent) = (Deflater::new(settings), Deflaters::new());
    let (mut inflater, mut reference) = (Inflater::new(), Reference::default());
    let mut said = Vec::new();
    while !choices.is_empty() && said.len() < MOST {
        let start = said.len();
        speak(&mut choices, &mut said);
        let message = &said[start..];

        let mut wire = b"header".to_vec();
        if keep {
            own.compress(message, &mut wire);
        } else {
            lent.compress(settings, message, &mut wire);
        }
        let compressed = wire.strip_prefix(b"header").expect("it appends");
        let found = inflater.inflate(compressed, message.len(), settings.window, keep);
        assert_eq!(found, Ok(message));
        match reference.inflate(compressed, message.len(), keep) {
            Verdict::Inflated {
                message: found,
                farthest,
            } => {
                assert_eq!(found, message);
                assert!(farthest <= settings.window.size(), "{farthest}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(inflater.take_output(), message);
    }
});

/// Bytes said in a round trip: more than the largest window.
const MOST: usize = 40_000;

/// Appends a message of literal bytes, runs, and repetitions of what was said before.
fn speak(choices: &mut Choices<'_>, said: &mut Vec<u8>) {
    for _ in 0..choices.byte() % 16 {
        let (what, mut len) = (choices.byte(), choices.number().min(MOST));
        // Long ones take long, and find little that short ones do not.
        if what < 0xF0 {
            len %= 400;
        }
        match what % 4 {
            0 => said.extend(choices.take(len % 256)),
            1 => said.extend(std::iter::repeat_n(choices.byte(), len)),
            2 => {
                let back = choices.number().min(said.len());
                for _ in 0..len.min(back * 4096) {
                    said.push(said[said.len() - back]);
                }
            }
            // Bytes that do not repeat.
            _ => {
                let mut state = u32::from(choices.byte()) + 1;
                said.extend((0..len).map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8
                }));
            }
        }
    }
}
