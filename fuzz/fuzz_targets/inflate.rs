//! Compressed messages (RFC 7692 §7.2): any bytes, against a second inflater; and whatever a
//! deflater makes comes back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sockeye_fuzz::{
    Choices, allocations,
    reference::{Reference, Verdict},
};
use sockeye_proto::{
    ProtocolError,
    deflate::{DeflaterSettings, Deflaters, Inflater, Level, MemLevel, WindowBits},
};

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    if choices.byte() & 1 == 0 {
        any_bytes(choices);
    } else {
        round_trip(choices);
    }
});

/// What the codec takes beside the room for its output: 48 KB, and some to spare.
const CODEC: usize = 64 * 1024;

/// Messages in a row for one inflater, each of any bytes.
fn any_bytes(mut choices: Choices<'_>) {
    let limit = match choices.byte() {
        limit @ 0..=99 => usize::from(limit),
        limit => 1 << (limit % 18),
    };
    let window = choices.window();
    let keep = choices.byte() & 1 != 0;
    let cuts = choices.cuts();
    let mut rest = Choices::new(choices.rest());
    let lengths = cuts.lengths(rest.clone().rest().len());

    let (mut inflater, mut reference) = (Inflater::new(), Reference::default());
    for length in lengths.into_iter().take(20) {
        let compressed = rest.take(length);
        let mut expected = reference.inflate(compressed, limit, keep);
        let (found, peak) = allocations::peak(|| {
            let inflated = inflater.inflate(compressed, limit, window, keep);
            inflated.map(<[u8]>::len)
        });
        assert!(peak <= CODEC + limit, "{peak} bytes");
        if let Verdict::Inflated { farthest, .. } = expected
            && farthest > window.size()
        {
            expected = Verdict::Corrupt { after_final: false };
        }
        match (expected, found) {
            (Verdict::Inflated { message, .. }, Ok(len)) => {
                assert_eq!(message.len(), len);
                assert_eq!(message, inflater.take_output());
                if !keep {
                    limit_is_exact(compressed, len, window);
                }
            }
            // What is too large may also be corrupt behind the limit.
            (Verdict::TooLarge, Err(ProtocolError::MessageTooLarge { limit: said })) => {
                assert_eq!(said, limit);
                fresh(&mut inflater, &mut reference);
            }
            (Verdict::TooLarge, Err(ProtocolError::CorruptDeflate))
            | (Verdict::Corrupt { .. }, Err(ProtocolError::CorruptDeflate))
            | (
                Verdict::TooLarge | Verdict::Corrupt { after_final: true },
                Err(ProtocolError::DeflateTrailingData),
            ) => fresh(&mut inflater, &mut reference),
            (expected, found) => panic!("expected {expected:?}, found {found:?}"),
        }
    }
}

/// A message passes at its own size and at no less.
fn limit_is_exact(compressed: &[u8], len: usize, window: WindowBits) {
    let mut inflater = Inflater::new();
    assert!(inflater.inflate(compressed, len, window, false).is_ok());
    if let Some(limit) = len.checked_sub(1) {
        let found = inflater.inflate(compressed, limit, window, false);
        assert_eq!(found, Err(ProtocolError::MessageTooLarge { limit }));
    }
}

/// After an error the inflater serves the next message, and its context is empty.
fn fresh(inflater: &mut Inflater, reference: &mut Reference) {
    // RFC 7692 §7.2.3.1.
    const HELLO: [u8; 7] = [0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00];
    // §7.2.3.2: refers back to the one before.
    const AGAIN: [u8; 5] = [0xF2, 0x00, 0x11, 0x00, 0x00];
    *reference = Reference::default();
    let found = inflater.inflate(&AGAIN, 5, WindowBits::MAX, false);
    assert_eq!(found, Err(ProtocolError::CorruptDeflate));
    let found = inflater.inflate(&HELLO, 5, WindowBits::MIN, false);
    assert_eq!(found, Ok(b"Hello".as_slice()));
    assert_eq!(inflater.take_output(), b"Hello");
}

/// Messages in a row for one deflater, of any settings.
fn round_trip(mut choices: Choices<'_>) {
    let settings = DeflaterSettings {
        level: Level::new(choices.byte() % 10).expect("0 to 9"),
        mem_level: MemLevel::new(1 + choices.byte() % 9).expect("1 to 9"),
        window: choices.window(),
    };
    let keep = choices.byte() & 1 != 0;
    let mut deflaters = Deflaters::new();
    let deflater = deflaters.lend(settings);
    let (mut inflater, mut reference) = (Inflater::new(), Reference::default());
    let mut said = Vec::new();
    while !choices.is_empty() && said.len() < 200_000 {
        let start = said.len();
        speak(&mut choices, &mut said);
        let message = &said[start..];

        let mut wire = b"header".to_vec();
        deflater.compress(message, &mut wire);
        if !keep {
            deflater.reset();
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
}

/// Appends a message of literal bytes, runs, and repetitions of what was said before.
fn speak(choices: &mut Choices<'_>, said: &mut Vec<u8>) {
    for _ in 0..choices.byte() % 16 {
        let (what, len) = (choices.byte(), choices.number());
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
