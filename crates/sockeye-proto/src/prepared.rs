//! A message made ready once for any number of connections: compressed once for each set of
//! parameters (RFC 7692 §7.2.1), and shared by all that send it.

use alloc::sync::Arc;
use core::fmt;

use crate::Message;

/// A message that is to go to many connections. Cloning is cheap: clones are the same message.
///
/// `send` takes one as it takes any message, and puts the same bytes on the wire. What is saved is
/// the compressing: the first connection that needs the message compressed does that, and those
/// with the same parameters share it. A payload of 16 KiB or more is not copied for any of them.
///
/// Sent as any other message, so without a saving: by a client, whose frames are masked each in its
/// own way (RFC 6455 §5.3), and where the compression context is kept between messages, since the
/// bytes then depend on what this connection has sent before. Of more than eight different sets of
/// parameters (window, level, memory) the later ones compress for themselves; those of one server are at most eight, since
/// a peer chooses the window alone.
///
/// ```
/// use sockeye_proto::{Prepared, Role, Sender, deflate::Deflaters};
/// # use core::time::Duration;
/// let message = Prepared::new("hello");
/// let mut senders = [(); 3].map(|()| Sender::new(Role::Server, None, Duration::from_secs(5)));
/// for sender in &mut senders {
///     sender.send(&message, &mut Deflaters::new())?;
/// }
/// # Ok::<(), sockeye_proto::SendError>(())
/// ```
#[derive(Clone)]
pub struct Prepared(Arc<Inner>);

struct Inner {
    message: Message,
    #[cfg(feature = "deflate")]
    compressed: compressed::Frames,
}

impl Prepared {
    /// A message to send many times. Nothing is compressed yet.
    pub fn new(message: impl Into<Message>) -> Self {
        Self(Arc::new(Inner {
            message: message.into(),
            #[cfg(feature = "deflate")]
            compressed: compressed::Frames::default(),
        }))
    }

    /// The message.
    pub fn message(&self) -> &Message {
        &self.0.message
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Prepared").field(self.message()).finish()
    }
}

/// What a server's sender does with one, where both would compress alike.
#[cfg(feature = "deflate")]
mod compressed {
    use std::{sync::OnceLock, vec::Vec};

    use bytes::Bytes;

    use super::Prepared;
    use crate::{
        FrameHeader, OpCode,
        deflate::{DeflaterSettings, Deflaters},
    };

    /// A frame for each of the settings that were asked for, the first in the first place. A server's differ in the window,
    /// of which there are eight; with fewer places, peers with other windows could take those of all others.
    pub(super) type Frames = [OnceLock<Frame>; 8];

    pub(super) struct Frame {
        settings: DeflaterSettings,
        /// Header and payload; none where compressing makes the message no shorter.
        bytes: Option<Bytes>,
    }

    impl Prepared {
        /// The message compressed with these settings and no context, as a whole frame without a
        /// mask; `Some(None)` where it is better sent as it is, `None` where eight other settings
        /// have taken all places.
        ///
        /// Whoever comes first compresses; others wait for that, which is less than to do it too.
        pub(crate) fn compressed(
            &self,
            settings: DeflaterSettings,
            deflaters: &mut Deflaters,
        ) -> Option<Option<&Bytes>> {
            self.0.compressed.iter().find_map(|place| {
                let frame = place.get_or_init(|| Frame {
                    settings,
                    bytes: self.compress(settings, deflaters),
                });
                (frame.settings == settings).then_some(frame.bytes.as_ref())
            })
        }

        #[cold]
        fn compress(&self, settings: DeflaterSettings, deflaters: &mut Deflaters) -> Option<Bytes> {
            let message = self.message();
            let mut payload = Vec::new();
            deflaters.compress(settings, message.as_bytes(), &mut payload);
            if payload.len() >= message.len() {
                return None;
            }
            let header = FrameHeader {
                fin: true,
                rsv1: true,
                opcode: if message.is_text() {
                    OpCode::Text
                } else {
                    OpCode::Binary
                },
                mask: None,
                payload_len: payload.len() as u64,
            };
            let (head, len) = header.encode();
            let mut frame = Vec::with_capacity(len + payload.len());
            frame.extend_from_slice(&head[..len]);
            frame.extend_from_slice(&payload);
            Some(frame.into())
        }
    }
}
