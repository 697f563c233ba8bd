//! A chat with rooms and names. A connection is one person, who is in one room at a time.
//!
//! Messages are text, in JSON. The page sends
//!
//! ```json
//! {"type": "join", "room": "lobby", "name": "Ада"}     one room after another, under any name that is free
//! {"type": "say", "text": "Привет"}                    to the room
//! ```
//!
//! and is sent
//!
//! ```json
//! {"type": "joined", "room": "lobby", "name": "Ада"}
//! {"type": "people", "people": ["Ада", "Bo"], "came": "Bo"}     who is in the room, and who came or went
//! {"type": "said", "name": "Bo", "text": "Hello"}               its own too: that is how it knows the order
//! {"type": "rooms", "rooms": [["lobby", 2], ["fish", 1]]}       with how many are in each
//! {"type": "error", "text": "somebody is called Bo already"}
//! ```

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use sockeye::{CloseCode, Ended, Groups, Handler, Member, MessageRef, Result, Server, Socket};

pub(crate) const PAGE: &str = include_str!("chat.html");

/// In characters.
const LONGEST_NAME: usize = 24;
const LONGEST_TEXT: usize = 1000;

/// So many rooms are listed, the fullest.
const LISTED: usize = 50;

/// To run it by itself: `Server::bind("127.0.0.1:8080").await?.router(Router::new().route("/", get(|| async {
/// Html(PAGE) })))` is a server, where axum serves the page.
pub(crate) async fn serve(server: Server) -> Result<()> {
    let chat = Chat::default();
    server.serve_handler(move || Person::new(&chat)).await
}

/// All that is shared. Clones are the same chat.
#[derive(Clone, Default)]
struct Chat {
    groups: Groups,
    people: Arc<Mutex<People>>,
}

/// The room that each is in, by their names.
type People = BTreeMap<String, String>;

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Request {
    Join { room: String, name: String },
    Say { text: String },
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Event<'a> {
    Joined {
        room: &'a str,
        name: &'a str,
    },
    People {
        people: Vec<&'a str>,
        came: Option<&'a str>,
        left: Option<&'a str>,
    },
    Said {
        name: &'a str,
        text: &'a str,
    },
    Rooms {
        rooms: Vec<(&'a str, usize)>,
    },
    Error {
        text: &'a str,
    },
}

impl Event<'_> {
    fn json(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers can be written")
    }
}

impl Chat {
    /// Whoever sends something to a room holds this meanwhile, so that everybody there sees the same order. It
    /// can be held so: sending to a group never waits.
    fn people(&self) -> MutexGuard<'_, People> {
        self.people.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells a room who is in it now, and everyone how full the rooms are.
    fn tell(&self, people: &People, room: &str, came: Option<&str>, left: Option<&str>) {
        let here = people.iter().filter(|(_, place)| *place == room);
        let people_event = Event::People {
            people: here.map(|(name, _)| name.as_str()).collect(),
            came,
            left,
        };
        self.groups.send_to(room, people_event.json());
        self.groups.send_to_all(rooms(people));
    }
}

fn rooms(people: &People) -> String {
    let mut counts = BTreeMap::new();
    for room in people.values() {
        *counts.entry(room.as_str()).or_insert(0) += 1;
    }
    let mut rooms: Vec<_> = counts.into_iter().collect();
    rooms.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    rooms.truncate(LISTED);
    Event::Rooms { rooms }.json()
}

struct Person {
    chat: Chat,
    member: Option<Member>,
    /// The name and the room, once both are chosen.
    joined: Option<(String, String)>,
}

impl Person {
    fn new(chat: &Chat) -> Self {
        Self {
            chat: chat.clone(),
            member: None,
            joined: None,
        }
    }

    fn join(&mut self, socket: &mut Socket, room: &str, name: &str) -> Result<(), String> {
        let room = tidy(room, "the name of a room", LONGEST_NAME)?;
        let name = tidy(name, "a name", LONGEST_NAME)?;
        let chat = self.chat.clone();
        {
            let mut people = chat.people();
            let mine = self.joined.as_ref().map(|(name, _)| name);
            if people.contains_key(name) && mine.is_none_or(|mine| mine != name) {
                return Err(format!("somebody is called {name} already"));
            }
            self.leave(&mut people);
            if let Some(member) = &self.member {
                member.join(room).map_err(|error| error.to_string())?;
            }
            people.insert(name.into(), room.into());
            socket.send(Event::Joined { room, name }.json());
            chat.tell(&people, room, Some(name), None);
        }
        self.joined = Some((name.into(), room.into()));
        Ok(())
    }

    fn say(&self, text: &str) -> Result<(), String> {
        let (name, room) = self.joined.as_ref().ok_or("join a room first")?;
        let text = tidy(text, "a message", LONGEST_TEXT)?;
        let _order = self.chat.people();
        let said = Event::Said { name, text };
        self.chat.groups.send_to(room, said.json());
        Ok(())
    }

    fn leave(&mut self, people: &mut People) {
        let Some((name, room)) = self.joined.take() else {
            return;
        };
        people.remove(&name);
        if let Some(member) = &self.member {
            member.leave(&room);
        }
        self.chat.tell(people, &room, None, Some(&name));
    }
}

impl Handler for Person {
    fn on_open(&mut self, socket: &mut Socket) {
        self.member = Some(self.chat.groups.member(socket.sender()));
        socket.send(rooms(&self.chat.people()));
    }

    fn on_message(&mut self, socket: &mut Socket, message: MessageRef<'_>) {
        let request = message.as_text().map(serde_json::from_str);
        let done = match request {
            Some(Ok(Request::Join { room, name })) => self.join(socket, &room, &name),
            Some(Ok(Request::Say { text })) => self.say(&text),
            // No page of ours sends this. It can be refused only where a Close was sent already.
            Some(Err(_)) => {
                let _ = socket.close(CloseCode::POLICY_VIOLATION, "this is no request of a chat");
                return;
            }
            None => {
                let _ = socket.close(CloseCode::UNSUPPORTED_DATA, "a chat takes text only");
                return;
            }
        };
        if let Err(text) = done {
            socket.send(Event::Error { text: &text }.json());
        }
    }

    /// However it has ended.
    fn on_close(&mut self, _: &mut Socket, _: &Ended) {
        let chat = self.chat.clone();
        self.leave(&mut chat.people());
    }
}

/// What somebody has typed, without the space around it: not empty, not too long, nothing that is no text.
fn tidy<'a>(text: &'a str, what: &str, longest: usize) -> Result<&'a str, String> {
    let text = text.trim();
    match text.chars().count() {
        0 => Err(format!("{what} is needed")),
        length if length > longest => Err(format!(
            "{what} may have {longest} characters, and this has {length}"
        )),
        _ if text.contains(char::is_control) => Err(format!("{what} has no control characters")),
        _ => Ok(text),
    }
}
