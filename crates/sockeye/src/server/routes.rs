//! Routes: which handler a WebSocket goes to, by the path that its request asks for.

use std::{
    borrow::Cow,
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    str,
    sync::Arc,
};

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use sockeye_proto::{
    Shown,
    handshake::{HandshakeError, Refusal},
};

use crate::{Error, Handler, Result, WebSocket, driven::Driven};

/// What is written with percent signs in a path (URL Standard, "path percent-encode set"), of what a route may be written
/// with. Not every client does that.
const ENCODED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'}');

/// Which handler a WebSocket goes to, by its path: for [`Server::serve_routes`](super::Server::serve_routes).
///
/// ```no_run
/// use sockeye::{Handler, Server, WebSocket, server::Routes};
///
/// #[derive(Default)]
/// struct Ticker;
/// impl Handler for Ticker {}
///
/// async fn chat(mut socket: WebSocket) -> sockeye::Result<()> {
///     let room = socket.param("room").unwrap_or_default().to_owned();
///     socket.send(format!("Добро пожаловать в комнату {room}!")).await
/// }
///
/// # async fn example() -> sockeye::Result<()> {
/// let routes = Routes::new().at("/chat/{room}", chat).handler("/ticker", Ticker::default);
/// Server::bind("127.0.0.1:8080").await?.serve_routes(routes).await
/// # }
/// ```
///
/// A path is written as it is read, `/комната/{id}`, and compared with what the client sends, percent
/// signs and all, whose digits may have small letters. `{name}` is a segment of it, or the end of one, behind fixed text; `{*name}`, at the end, all that is
/// left and not empty; `{{` and `}}` stand for a brace. What is fixed goes before what is not, in whichever
/// order they are added. A slash at the end makes another path.
///
/// What no route fits is refused with 404. The value of a parameter is [at hand](WebSocket::param) with
/// its percent signs decoded, so that it may contain any character, slashes too; one that is not UTF-8 is
/// refused with 400.
#[derive(Clone, Default)]
#[must_use = "nothing is served before `Server::serve_routes`"]
pub struct Routes {
    table: Table,
    handlers: Vec<Arc<Run>>,
    /// What is wrong with the first path that cannot be a route.
    problem: Option<Error>,
}

type Run = dyn Fn(WebSocket) -> Running + Send + Sync;
type Running = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

impl Routes {
    /// No route.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `work` for every connection at a path: the async form, as
    /// [`Server::serve`](super::Server::serve) does.
    pub fn at<F, Fut>(self, path: &str, work: F) -> Self
    where
        F: Fn(WebSocket) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        self.add(path, move |socket| {
            let mut driven = Driven::new(socket, &work);
            Box::pin(poll_fn(move |cx| {
                Pin::new(&mut driven).poll(cx).map_ok(drop)
            }))
        })
    }

    /// Runs a handler for every connection at a path: the event form, as
    /// [`Server::serve_handler`](super::Server::serve_handler) does. `make` makes one for each.
    pub fn handler<F, H>(self, path: &str, make: F) -> Self
    where
        F: Fn() -> H + Send + Sync + 'static,
        H: Handler + Send + 'static,
    {
        self.add(path, move |socket| {
            let handled = socket.handle(make());
            Box::pin(async move { handled.await.error().map_or(Ok(()), Err) })
        })
    }

    fn add(
        mut self,
        path: &str,
        run: impl Fn(WebSocket) -> Running + Send + Sync + 'static,
    ) -> Self {
        match self.table.add(path) {
            Ok(()) => self.handlers.push(Arc::new(run)),
            Err(why) => {
                let problem = Error::Setup(format!("{path:?} is no route: {why}").into());
                self.problem.get_or_insert(problem);
            }
        }
        self
    }

    /// The table, for whoever judges requests, and what runs the connections.
    ///
    /// # Errors
    /// [`Error::Setup`] where a path cannot be a route.
    pub(super) fn into_parts(
        self,
    ) -> Result<(
        Arc<Table>,
        impl Fn(WebSocket) -> Running + Send + Sync + 'static,
    )> {
        if let Some(problem) = self.problem {
            return Err(problem);
        }
        let handlers = self.handlers;
        let run = move |socket: WebSocket| {
            let number = socket.shared().info.matched().map(|matched| matched.number);
            match number.and_then(|number| handlers.get(number)) {
                Some(run) => run(socket),
                // No request gets here that the table has not found a route for.
                None => Box::pin(async { Ok(()) }),
            }
        };
        Ok((Arc::new(self.table), run))
    }
}

/// The paths.
impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Routes").field(&self.table.paths).finish()
    }
}

/// The paths that there are, by number.
#[derive(Clone, Default)]
pub(crate) struct Table {
    router: matchit::Router<usize>,
    paths: Vec<Path>,
}

/// A path, as it was written.
#[derive(Clone)]
struct Path {
    text: Box<str>,
    /// The names of its parameters, in their order.
    names: Box<[Box<str>]>,
}

impl Table {
    fn add(&mut self, path: &str) -> Result<(), String> {
        if !path.starts_with('/') {
            return Err("it begins with a slash".into());
        }
        let (encoded, names) = read(path)?;
        let inserted = self.router.insert(encoded, self.paths.len());
        inserted.map_err(|error| error.to_string())?;
        self.paths.push(Path {
            text: path.into(),
            names: names.into(),
        });
        Ok(())
    }

    /// Finds the route for a path, as a request has it.
    ///
    /// # Errors
    /// [`HandshakeError::Refused`] with 404 where there is none, with 400 for a parameter that is not UTF-8.
    pub(super) fn find(self: &Arc<Self>, path: &str) -> Result<Matched, HandshakeError> {
        let encoded = in_capitals(&Cow::from(utf8_percent_encode(path, ENCODED)));
        let Ok(found) = self.router.at(&encoded) else {
            let body = format!("there is no WebSocket at {}\n", Shown(path));
            return Err(refused(404, body));
        };
        let decoded = found.params.iter().map(|(name, value)| {
            match percent_decode_str(value).decode_utf8() {
                Ok(value) => Ok(value.into()),
                Err(_) => Err(refused(400, format!("{name} in the path is not UTF-8\n"))),
            }
        });
        Ok(Matched {
            number: *found.value,
            values: decoded.collect::<Result<_, _>>()?,
            table: self.clone(),
        })
    }
}

fn refused(status: u16, body: String) -> HandshakeError {
    HandshakeError::Refused(Box::new(Refusal::new(status, body)))
}

/// A path as clients send it, and the names of its parameters.
fn read(path: &str) -> Result<(String, Vec<Box<str>>), String> {
    let mut encoded = String::with_capacity(path.len());
    let mut names = Vec::<Box<str>>::new();
    let mut rest = path;
    while let Some(at) = rest.find(['{', '}', '?', '#']) {
        let (fixed, from) = rest.split_at(at);
        encoded.extend(utf8_percent_encode(fixed, ENCODED));
        if from.starts_with(['?', '#']) {
            return Err("it has no query and no fragment".into());
        }
        // Doubled, it stands for itself.
        if from.starts_with("{{") || from.starts_with("}}") {
            encoded.extend(utf8_percent_encode(&from[..1], ENCODED));
            rest = &from[2..];
            continue;
        }
        let Some(end) = from.find('}').filter(|_| from.starts_with('{')) else {
            return Err("a brace has no other".into());
        };
        let name = from[1..end].trim_start_matches('*');
        if names.iter().any(|other| **other == *name) {
            return Err(format!("it has two parameters {name}"));
        }
        names.push(name.into());
        encoded.push_str(&from[..=end]);
        rest = &from[end + 1..];
        // Whether text may follow is up to the version of matchit, of which another crate may want an older one.
        if !rest.is_empty() && !rest.starts_with('/') {
            return Err(format!("the segment goes on behind {{{name}}}"));
        }
    }
    encoded.extend(utf8_percent_encode(rest, ENCODED));
    Ok((in_capitals(&encoded), names))
}

/// The digits behind percent signs as most write them: those in small letters stand for the same (RFC 3986 §6.2.2.1).
fn in_capitals(path: &str) -> String {
    let digits_of = |piece: &str| {
        let digits = piece.get(..2)?;
        let are_digits = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        are_digits.then(|| digits.to_ascii_uppercase())
    };
    let mut pieces = path.split('%');
    let mut capitals = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let digits = digits_of(piece).unwrap_or_default();
        capitals.push('%');
        capitals.push_str(&digits);
        capitals.push_str(&piece[digits.len()..]);
    }
    capitals
}

/// The route of a request.
pub(crate) struct Matched {
    table: Arc<Table>,
    number: usize,
    /// Of its parameters, in their order.
    values: Box<[Box<str>]>,
}

impl Matched {
    /// The value of a parameter.
    pub(crate) fn param(&self, name: &str) -> Option<&str> {
        let path = self.table.paths.get(self.number)?;
        let at = path.names.iter().position(|known| **known == *name)?;
        Some(self.values.get(at)?)
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

impl fmt::Debug for Matched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Matched")
            .field("path", &self.table.paths.get(self.number))
            .field("values", &self.values)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(paths: &[&str]) -> Arc<Table> {
        let mut table = Table::default();
        for path in paths {
            table.add(path).unwrap();
        }
        Arc::new(table)
    }

    fn status(error: HandshakeError) -> u16 {
        Refusal::from(&error).status()
    }

    #[test]
    fn a_path_leads_to_its_route_and_no_other_does() {
        let table = table(&[
            "/",
            "/chat",
            "/chat/{room}",
            "/chat/lobby",
            "/files/{*path}",
        ]);
        for (path, number) in [
            ("/", 0),
            ("/chat", 1),
            ("/chat/tea", 2),
            ("/chat/lobby", 3),
            ("/files/a/b", 4),
        ] {
            assert_eq!(table.find(path).unwrap().number, number, "{path}");
        }
        for path in [
            "/chat/",
            "/Chat",
            "/chat/a/b",
            "//",
            "/files",
            "/files/",
            "*",
            "",
            "/./chat",
        ] {
            assert_eq!(status(table.find(path).unwrap_err()), 404, "{path}");
        }
    }

    #[test]
    fn parameters_have_names_and_are_decoded() {
        let table = table(&["/{a}/and/{b}", "/v{version}/x", "/rest/{*all}"]);
        let found = table
            .find("/%D1%87%D0%B0%D0%B9/and/a%2Fb%20c+d%zz")
            .unwrap();
        assert_eq!(found.param("a"), Some("чай"));
        assert_eq!(found.param("b"), Some("a/b c+d%zz"));
        assert_eq!(found.param("c"), None);
        assert_eq!(table.find("/v12/x").unwrap().param("version"), Some("12"));
        let rest = table.find("/rest/a/b%3F").unwrap();
        assert_eq!(rest.param("all"), Some("a/b?"));
        let error = table.find("/%FF/and/b").unwrap_err();
        assert!(error.to_string().contains("a in the path"), "{error}");
        assert_eq!(status(error), 400);
    }

    #[test]
    fn a_route_is_written_as_it_is_read() {
        let table = table(&["/комната/{имя}", "/a b", "/{{x}}", "/a^b"]);
        let path = "/%D0%BA%D0%BE%D0%BC%D0%BD%D0%B0%D1%82%D0%B0/1";
        assert_eq!(table.find(path).unwrap().param("имя"), Some("1"));
        assert_eq!(table.find(&path.to_lowercase()).unwrap().number, 0);
        assert_eq!(table.find("/a%20b").unwrap().number, 1);
        // Some clients write them with percent signs, and some do not.
        for (paths, number) in [(["/{x}", "/%7Bx%7D"], 2), (["/a^b", "/a%5Eb"], 3)] {
            for path in paths {
                assert_eq!(table.find(path).unwrap().number, number, "{path}");
            }
        }
    }

    #[test]
    fn what_is_no_route_is_told_with_the_path() {
        let work = async |_| Ok(());
        for (paths, words) in [
            (&["chat"][..], "slash"),
            (&["/chat?room={room}"], "query"),
            (&["/chat#a"], "fragment"),
            (&["/{room"], "brace"),
            (&["/room}"], "brace"),
            (&["/{}"], "\"/{}\""),
            (&["/f/{name}.json"], "goes on behind {name}"),
            (&["/{a}{b}"], "goes on behind {a}"),
            (&["/{a}{{"], "goes on behind {a}"),
            (&["/{a}/{a}"], "two parameters a"),
            (&["/{*all}/more"], "\"/{*all}/more\""),
            (&["/chat", "/chat"], "\"/chat\""),
            (&["/{a}/x", "/{b}/x"], "\"/{b}/x\""),
        ] {
            let routes = paths
                .iter()
                .fold(Routes::new(), |routes, path| routes.at(path, work));
            let error = routes.into_parts().err().unwrap();
            assert!(error.is_user());
            let said = error.to_string();
            assert!(
                said.contains(words) && said.contains("is no route"),
                "{said}"
            );
        }
    }
}
