//! Compressed messages that have come whole (RFC 7692 §7.2.2), inflated in one go or in turns.

use alloc::boxed::Box;
use core::mem;

use super::{Event, OwnedEvent, Place, Receiver, Stage, Unfinished, borrow, own, payload};
use crate::{
    ProtocolError,
    deflate::{Inflater, Turns, WindowBits},
};

/// A message that is inflated in turns. What it was on its way waits in the receiver's `payload`.
#[derive(Debug)]
pub(super) struct Inflating {
    pub(super) text: bool,
    /// The codec that was lent for it, where the connection has none of its own.
    pub(super) inflater: Option<Inflater>,
    pub(super) turns: Turns,
}

/// What is no longer than this on its way is inflated in one go. Between two turns all is held that was made so far,
/// for every connection that is at it, and a mebibyte of zeros is a kilobyte on its way: nobody is to have 16 MiB
/// held on many connections at once who has sent next to nothing. So much without a message in it takes up to
/// forty milliseconds, where it is empty blocks with codes of their own; those 16 MiB take over fifteen.
const LONG: usize = 256 << 10;

impl Receiver {
    /// Has long compressed messages inflated in turns, for whoever has other things to do meanwhile: of one that is
    /// more than 256 KiB on its way, 16 KiB are taken at a time at most, and a mebibyte is made. Then
    /// [`receive`](Self::receive) and [`receive_owned`](Self::receive_owned) give `None` although there is more to
    /// come without more bytes, as [`is_inflating`](Self::is_inflating) says, and call for another turn.
    #[must_use]
    pub fn in_turns(mut self) -> Self {
        self.turns = true;
        self
    }

    /// Whether a message is being inflated [in turns](Self::in_turns).
    #[inline]
    pub fn is_inflating(&self) -> bool {
        matches!(&self.unfinished, Some(unfinished) if unfinished.inflating.is_some())
    }

    /// A compressed message, lent from where it is inflated to; `None` where its turn is over.
    #[inline]
    pub(super) fn lend_inflated<'a>(
        &'a mut self,
        text: bool,
        place: Place<'_>,
        lent: &'a mut Inflater,
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        let Some(compressed) = self.inflate(text, place, lent)? else {
            return Ok(None);
        };
        let message =
            borrow(text, false, lent.output()).inspect_err(|_| self.inflating_failed())?;
        let flow = self.meter.received();
        flow.message(text, message.len());
        flow.compressed(compressed, message.len());
        Ok(Some(Event::Message(message)))
    }

    /// As [`lend_inflated`](Self::lend_inflated), with the message owned.
    #[inline]
    pub(super) fn own_inflated(
        &mut self,
        text: bool,
        place: Place<'_>,
        lent: &mut Inflater,
    ) -> Result<Option<OwnedEvent>, ProtocolError> {
        let Some(compressed) = self.inflate(text, place, lent)? else {
            return Ok(None);
        };
        let message =
            own(text, false, lent.take_output().into()).inspect_err(|_| self.inflating_failed())?;
        let flow = self.meter.received();
        flow.message(text, message.len());
        flow.compressed(compressed, message.len());
        Ok(Some(OwnedEvent::Message(message)))
    }

    /// Nothing more will be inflated: not what is left of this message, nor anything behind it.
    #[cold]
    fn inflating_failed(&mut self) {
        self.end();
        self.inflater = None;
    }

    /// Inflates a message into what is lent: how many bytes it was on its way. `None` where its turn is over.
    #[inline(always)]
    fn inflate(
        &mut self,
        text: bool,
        place: Place<'_>,
        lent: &mut Inflater,
    ) -> Result<Option<usize>, ProtocolError> {
        let compressed = match &place {
            Place::Input(bytes) => bytes.len(),
            Place::Own => payload(&mut self.unfinished).len(),
        };
        // RSV1 is refused where nothing was agreed, so there is always an agreement here.
        let result = match WindowBits::new(self.window) {
            None => Err(ProtocolError::ReservedBits),
            Some(window) if self.turns && compressed > LONG => {
                self.inflate_turn(text, place, window, lent)
            }
            Some(window) => self.inflate_whole(place, window, lent).map(|()| true),
        };
        match result {
            Ok(true) => Ok(Some(compressed)),
            Ok(false) => Ok(None),
            Err(error) => {
                self.inflating_failed();
                Err(error)
            }
        }
    }

    #[inline]
    fn inflate_whole(
        &mut self,
        place: Place<'_>,
        window: WindowBits,
        lent: &mut Inflater,
    ) -> Result<(), ProtocolError> {
        let compressed = place.bytes(payload(&mut self.unfinished));
        let limit = self.limits.message;
        match self.inflater.as_deref_mut() {
            Some(own) => own.inflate_into(lent, compressed, limit, window)?,
            None => lent.inflate(compressed, limit, window, false).map(drop)?,
        }
        // Not held for as long as the message is handled, which may be as large.
        (self.unfinished, self.stage) = (None, Stage::Fresh);
        Ok(())
    }

    // A function of its own, so that it takes nothing where there is no need of it.
    #[cold]
    #[inline(never)]
    fn inflate_turn(
        &mut self,
        text: bool,
        place: Place<'_>,
        window: WindowBits,
        lent: &mut Inflater,
    ) -> Result<bool, ProtocolError> {
        let mut unfinished = self.unfinished.take().unwrap_or_default();
        let Unfinished {
            payload, inflating, ..
        } = &mut *unfinished;
        if let Place::Input(bytes) = place {
            payload.extend_from_slice(bytes);
        }
        let inflating = inflating.get_or_insert_with(|| {
            let turns = Turns::new(window);
            let inflater = self.inflater.is_none().then(|| mem::take(lent));
            Box::new(Inflating {
                text,
                inflater,
                turns,
            })
        });
        let keep_context = self.inflater.is_some();
        let own = self.inflater.as_deref_mut();
        let inflater = own.or(inflating.inflater.as_mut()).unwrap_or(lent);
        let turns = &mut inflating.turns;
        let result = inflater.inflate_turn(payload, self.limits.message, keep_context, turns);
        if matches!(result, Ok(false)) {
            unfinished.lent = None;
            (self.unfinished, self.stage) = (Some(unfinished), Stage::Unfinished);
        } else {
            match (inflating.inflater.take(), self.inflater.as_deref_mut()) {
                (Some(inflater), _) => *lent = inflater,
                (None, Some(own)) => lent.take_room(own),
                (None, None) => {}
            }
            self.stage = Stage::Fresh;
        }
        result
    }
}

#[cfg(all(test, feature = "deflate"))]
mod tests {
    use super::*;
    use crate::{Limits, Role, deflate::Direction};

    /// "Hello", as RFC 7692 §7.2.3.1 compresses it.
    const HELLO: [u8; 9] = *b"\xC2\x07\xF2\x48\xCD\xC9\xC9\x07\x00";

    fn receiver(keeps_context: bool) -> Receiver {
        let deflate = Direction {
            keeps_context,
            window: WindowBits::MAX,
        };
        let role = Role::Client { masks: || [0; 4] };
        Receiver::new(role, Limits::default(), Some(deflate))
    }

    /// A connection with a context of its own held it until its next message: 16 MiB for 16 KB on the way.
    #[test]
    fn what_is_made_of_a_message_is_in_what_is_lent() {
        let mut receiver = receiver(true).in_turns();
        let mut inflater = Inflater::new();
        // More than is inflated in one go: empty blocks before it.
        let compressed = [
            b"\x00\x00\x00\xFF\xFF".repeat(LONG / 5 + 1),
            HELLO[2..].to_vec(),
        ]
        .concat();
        let mut long = vec![0xC2, 127];
        long.extend_from_slice(&(compressed.len() as u64).to_be_bytes());
        long.extend_from_slice(&compressed);
        for mut frame in [HELLO.to_vec(), long, HELLO.to_vec()] {
            let mut input = &mut frame[..];
            let event = loop {
                match receiver
                    .receive_owned_any(&mut input, &mut inflater)
                    .unwrap()
                {
                    None => assert!(receiver.is_inflating()),
                    Some(event) => break event,
                }
            };
            assert_eq!(event, OwnedEvent::Message(b"Hello".as_slice().into()));
            assert_eq!(receiver.inflater.as_ref().unwrap().room(), 0);
        }
    }

    #[test]
    fn nothing_is_held_of_what_could_not_be_inflated() {
        let mut receiver = receiver(true);
        let mut inflater = Inflater::new();
        // Begins, and goes on, with a block of the reserved kind (RFC 1951 §3.2.3).
        let mut first = *b"\x42\x01\xFF";
        assert_eq!(
            receiver.receive(&mut &mut first[..], &mut inflater),
            Ok(None)
        );
        assert!(receiver.unfinished.is_some());
        let mut last = *b"\x80\x01\xFF";
        let error = receiver.receive(&mut &mut last[..], &mut inflater);
        assert_eq!(error, Err(ProtocolError::CorruptDeflate));
        assert!(receiver.unfinished.is_none() && receiver.inflater.is_none());
    }

    /// It was held until the next read, for as long as the message was handled.
    #[test]
    fn nothing_is_held_of_what_a_message_was_on_its_way() {
        let mut frame = HELLO;
        let (mut first, mut second) = frame.split_at_mut(5);
        let mut receiver = receiver(false);
        let mut inflater = Inflater::new();
        let begun = receiver.receive_owned(&mut first, &mut inflater);
        assert_eq!(begun, Ok(None));
        assert!(receiver.unfinished.is_some());
        let message = receiver.receive_owned(&mut second, &mut inflater);
        assert_eq!(
            message,
            Ok(Some(OwnedEvent::Message(b"Hello".as_slice().into())))
        );
        assert!(receiver.unfinished.is_none() && receiver.is_fresh());
    }
}
