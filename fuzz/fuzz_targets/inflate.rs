//! An inflater is given compressed messages of any bytes (RFC 7692 §7.2.2), and a second inflater
//! with it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sockeye_fuzz::{
    Choices, allocations,
    reference::{Reference, Verdict},
};
use sockeye_proto::{
    ProtocolError,
    deflate::{Inflater, WindowBits},
};

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    let limit = match choices.byte() {
        limit @ 0..=99 => usize::from(limit),
        limit => 1 << (limit % 16),
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
});

/// What the codec takes beside the room for its output: 48 KB, and some to spare.
const CODEC: usize = 64 * 1024;

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
