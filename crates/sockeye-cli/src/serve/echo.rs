//! Echo: each message goes back to whoever sent it. The event form, which copies nothing.

use sockeye::{Ended, Handler, MessageRef, Socket};

use super::visits::Visit;

pub(super) struct Echo {
    visit: Visit,
}

impl Echo {
    pub(super) fn new(visit: Visit) -> Self {
        Self { visit }
    }
}

impl Handler for Echo {
    fn on_open(&mut self, socket: &mut Socket) {
        self.visit.open(socket);
    }

    fn on_message(&mut self, socket: &mut Socket, message: MessageRef<'_>) {
        self.visit.received.add(message.len());
        self.visit.sent.add(message.len());
        socket.send(message);
    }

    fn on_close(&mut self, _: &mut Socket, ended: &Ended) {
        self.visit.close(ended);
    }
}
