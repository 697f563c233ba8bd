//! Broadcast: each message goes to everyone who is connected, and nobody waits for anybody.

use sockeye::{Ended, Groups, Handler, Member, MessageRef, Sender, Socket};

use super::visits::Visit;
use crate::quantity::Traffic;

/// Whoever does not read, so that more than 8 MiB wait, is closed: that is what a registry does unless told
/// otherwise. It is several times the high-water mark, at which a member's own messages are no longer read: whoever
/// only talks to itself faster than it listens is slowed down, not closed.
pub(super) struct Visitor {
    visit: Visit,
    everyone: Groups,
    /// There while it is open.
    seat: Option<(Member, Sender)>,
}

impl Visitor {
    pub(super) fn new(visit: Visit, everyone: Groups) -> Self {
        Self {
            visit,
            everyone,
            seat: None,
        }
    }
}

impl Handler for Visitor {
    fn on_open(&mut self, socket: &mut Socket) {
        self.visit.open(socket);
        let member = self.everyone.member(socket.sender());
        self.seat = Some((member, socket.sender()));
    }

    fn on_message(&mut self, _: &mut Socket, message: MessageRef<'_>) {
        self.visit.received.add(message.len());
        self.everyone.send_to_all(message);
    }

    fn on_close(&mut self, _: &mut Socket, ended: &Ended) {
        if let Some((_, sender)) = self.seat.take() {
            let sent = sender.counters().sent;
            self.visit.sent = Traffic {
                messages: sent.text.messages + sent.binary.messages,
                bytes: sent.text.bytes + sent.binary.bytes,
            };
        }
        self.visit.close(ended);
    }
}
