//! Broadcast: each message goes to everyone who is connected, and nobody waits for anybody.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sockeye::{Ended, Groups, Handler, Member, MessageRef, Socket};

use super::visits::Visit;
use crate::quantity::Traffic;

/// Everyone who is connected. Whoever does not read, so that more than 8 MiB wait, is closed.
///
/// That is several times the high-water mark, at which a member's own messages are no longer read:
/// whoever only talks to itself faster than it listens is slowed down, not closed.
#[derive(Default)]
pub(super) struct Room {
    members: Groups,
    /// All that was said.
    said: Mutex<Traffic>,
}

impl Room {
    fn said(&self) -> MutexGuard<'_, Traffic> {
        // A count that a panic left behind is still a count.
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct Visitor {
    visit: Visit,
    room: Arc<Room>,
    /// There while it is open, with what had been said before.
    member: Option<(Member, Traffic)>,
}

impl Visitor {
    pub(super) fn new(visit: Visit, room: Arc<Room>) -> Self {
        Self {
            visit,
            room,
            member: None,
        }
    }

    fn leave(&mut self) {
        if let Some((_, before)) = self.member.take() {
            self.visit.sent = *self.room.said() - before;
        }
    }
}

impl Handler for Visitor {
    fn on_open(&mut self, socket: &mut Socket) {
        self.visit.open(socket);
        let member = self.room.members.member(socket.sender());
        self.member = Some((member, *self.room.said()));
    }

    fn on_message(&mut self, _: &mut Socket, message: MessageRef<'_>) {
        self.visit.received.add(message.len());
        self.room.said().add(message.len());
        self.room.members.send_to_all(message);
    }

    fn on_close(&mut self, _: &mut Socket, ended: &Ended) {
        self.leave();
        self.visit.close(ended);
    }
}

/// A connection can end without a last word, when the server does not wait for it any longer.
impl Drop for Visitor {
    fn drop(&mut self) {
        self.leave();
    }
}
