//! A message sent in parts, as fragments (RFC 6455 §5.4, RFC 7692 §7.2.1).

use alloc::{boxed::Box, vec::Vec};

use super::Sender;
use crate::{
    FrameHeader, MessageKind, OpCode, Outgoing, Role, SendError,
    deflate::{Deflater, Deflaters},
    mask::Mask,
    utf8::Utf8,
};

/// A message on its way.
#[derive(Debug)]
pub(super) struct Parts {
    kind: MessageKind,
    /// Whether its first frame has been queued.
    begun: bool,
    utf8: Utf8,
    compression: Option<Compression>,
    /// Whole messages that were sent meanwhile: they follow it.
    held: Vec<Held>,
    held_len: usize,
}

/// A message that waits for one in parts.
#[derive(Debug)]
struct Held {
    message: Outgoing<'static>,
    /// Whether it may be compressed.
    compresses: bool,
}

#[derive(Debug)]
struct Compression {
    /// The codec, where the connection has none of its own.
    deflater: Option<Box<Deflater>>,
    /// Whether something was compressed since the last flush.
    unflushed: bool,
    /// What the codec gives, until it is framed.
    room: Vec<u8>,
}

impl Parts {
    pub(super) fn hold(&mut self, message: Outgoing<'_>, compresses: bool) {
        let message = message.into_static();
        // Those of no length would never be too many.
        self.held_len += message.as_ref().len().max(size_of::<Held>());
        self.held.push(Held {
            message,
            compresses,
        });
    }
}

impl Sender {
    /// Begins a message whose length is not known. Until it is finished, whole messages that are
    /// sent wait for it; pings, pongs and a Close do not (§5.4).
    ///
    /// It is compressed where that was agreed, with a codec of its own (380 KB with the defaults)
    /// unless the connection has one.
    ///
    /// Nothing but [`finish_message`](Self::finish_message) ends it, or a Close: to give it up,
    /// close with 1011. The peer then has part of a message and a Close, which cannot be taken for
    /// a whole one. Whole messages that have waited are not sent then.
    ///
    /// # Errors
    /// [`SendError::Unfinished`] while another is being sent, [`SendError::Closed`].
    pub fn begin_message(&mut self, kind: MessageKind) -> Result<(), SendError> {
        if !self.is_open() {
            return Err(SendError::Closed);
        }
        if self.is_sending_parts() {
            return Err(SendError::Unfinished);
        }
        let compression = self.deflate().map(|deflate| Compression {
            deflater: match &deflate.own {
                Some(_) => None,
                None => Some(Box::new(Deflater::new(deflate.settings))),
            },
            unflushed: false,
            room: Vec::new(),
        });
        self.quick = 0;
        self.put_parts(Box::new(Parts {
            kind,
            begun: false,
            utf8: Utf8::default(),
            compression,
            held: Vec::new(),
            held_len: 0,
        }));
        Ok(())
    }

    /// Queues the next part of the message that was begun. A compressor keeps what makes no block
    /// yet. Text may be cut anywhere, within a character too.
    ///
    /// # Errors
    /// [`SendError::NotBegun`], [`SendError::Closed`]; [`SendError::InvalidUtf8`] for text that is
    /// none, of which nothing is taken.
    pub fn send_part(&mut self, part: &[u8]) -> Result<(), SendError> {
        let mut parts = self.take_parts()?;
        let mut utf8 = parts.utf8;
        let text = parts.kind == MessageKind::Text;
        if text && utf8.push(part).is_err() {
            self.put_parts(parts);
            return Err(SendError::InvalidUtf8);
        }
        parts.utf8 = utf8;
        self.meter.sent().part(text, part.len());
        if part.is_empty() {
            // An empty frame would say nothing.
        } else if let Some(compression) = &mut parts.compression {
            compression.unflushed = true;
            self.meter.sent().compressed(0, part.len());
            let mut room = core::mem::take(&mut compression.room);
            if let Some(deflater) = self.deflater(&mut parts) {
                deflater.compress_part(part, &mut room);
            }
            self.fragment(&mut parts, false, room);
        } else {
            self.frame_part(&mut parts, false, part);
        }
        self.put_parts(parts);
        Ok(())
    }

    /// Queues what the compressor keeps of the parts, so that the peer can have all of them now.
    ///
    /// # Errors
    /// [`SendError::NotBegun`], [`SendError::Closed`].
    pub fn flush_parts(&mut self) -> Result<(), SendError> {
        let mut parts = self.take_parts()?;
        if let Some(compression) = &mut parts.compression
            && core::mem::take(&mut compression.unflushed)
        {
            let mut room = core::mem::take(&mut compression.room);
            if let Some(deflater) = self.deflater(&mut parts) {
                deflater.flush_parts(&mut room);
            }
            self.fragment(&mut parts, false, room);
        }
        self.put_parts(parts);
        Ok(())
    }

    /// Ends the message that was begun, with a frame that has FIN set. Then come the whole messages
    /// that have waited. `deflaters` are lent for those.
    ///
    /// # Errors
    /// [`SendError::NotBegun`], [`SendError::Closed`]; [`SendError::InvalidUtf8`] for a text that
    /// ends within a character: it is not finished then.
    pub fn finish_message(&mut self, deflaters: &mut Deflaters) -> Result<(), SendError> {
        let mut parts = self.take_parts()?;
        if parts.utf8.finish().is_err() {
            self.put_parts(parts);
            return Err(SendError::InvalidUtf8);
        }
        if let Some(compression) = &mut parts.compression {
            let flushed = !compression.unflushed;
            let mut room = core::mem::take(&mut compression.room);
            if let Some(deflater) = self.deflater(&mut parts) {
                deflater.finish_parts(flushed, &mut room);
            }
            self.fragment(&mut parts, true, room);
        } else {
            self.frame_part(&mut parts, true, &[]);
        }
        self.meter.sent().end(parts.kind == MessageKind::Text);
        drop(self.seldom.take_if(|seldom| seldom.deflate.is_none()));
        self.quick = self.quick_below();
        for held in parts.held {
            match held.compresses {
                true => self.send(held.message, deflaters)?,
                false => self.send_plain(held.message)?,
            }
        }
        Ok(())
    }

    /// Whether a message was begun and not finished.
    pub fn is_sending_parts(&self) -> bool {
        self.parts().is_some()
    }

    /// How many bytes of whole messages wait for one that is sent in parts, a short one counted as the memory that it takes.
    /// They are not counted as [`buffered`](Self::buffered): they cannot be written yet.
    pub fn held(&self) -> usize {
        self.parts().map_or(0, |parts| parts.held_len)
    }

    fn parts(&self) -> Option<&Parts> {
        self.seldom.as_ref()?.parts.as_deref()
    }

    #[inline]
    pub(super) fn parts_mut(&mut self) -> Option<&mut Parts> {
        self.seldom.as_mut()?.parts.as_deref_mut()
    }

    fn put_parts(&mut self, parts: Box<Parts>) {
        self.seldom.get_or_insert_default().parts = Some(parts);
    }

    fn take_parts(&mut self) -> Result<Box<Parts>, SendError> {
        if !self.is_open() {
            return Err(SendError::Closed);
        }
        let parts = self.seldom.as_mut().and_then(|it| it.parts.take());
        parts.ok_or(SendError::NotBegun)
    }

    fn deflater<'a>(&'a mut self, parts: &'a mut Parts) -> Option<&'a mut Deflater> {
        let lent = parts.compression.as_mut()?.deflater.as_deref_mut();
        lent.or_else(|| self.seldom.as_mut()?.deflate.as_mut()?.own.as_deref_mut())
    }

    /// Queues a fragment of what a compressor gave, where it gave something, and keeps its room.
    fn fragment(&mut self, parts: &mut Parts, fin: bool, mut room: Vec<u8>) {
        if !room.is_empty() {
            self.meter.sent().compressed(room.len(), 0);
            self.frame_part(parts, fin, &room);
            room.clear();
        }
        if let Some(compression) = &mut parts.compression {
            compression.room = room;
        }
    }

    /// Queues one frame of the message.
    fn frame_part(&mut self, parts: &mut Parts, fin: bool, payload: &[u8]) {
        let first = !core::mem::replace(&mut parts.begun, true);
        let header = FrameHeader {
            fin,
            // RFC 7692 §6: on the first frame only.
            rsv1: first && parts.compression.is_some(),
            opcode: match parts.kind {
                _ if !first => OpCode::Continuation,
                MessageKind::Text => OpCode::Text,
                MessageKind::Binary => OpCode::Binary,
            },
            mask: match self.role {
                Role::Client { masks } => Some(masks()),
                Role::Server => None,
            },
            payload_len: payload.len() as u64,
        };
        let (bytes, len) = header.encode();
        let out = self.output.append(len + payload.len());
        let (head, body) = out.split_at_mut(len);
        head.copy_from_slice(&bytes[..len]);
        body.copy_from_slice(payload);
        if let Some(key) = header.mask {
            Mask::apply_once(key, body);
        }
    }
}
