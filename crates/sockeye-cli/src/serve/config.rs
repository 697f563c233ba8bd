//! The file of `sockeye serve --config`: flags by their names, in TOML. Every fault in it is told, with its place.

use std::{
    any::TypeId,
    error::Error as _,
    ffi::OsString,
    fmt,
    fs::File,
    io::Read,
    ops::Range,
    path::{Path, PathBuf},
};

use clap::{
    Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches,
    builder::StyledStr,
    error::{ContextKind, ContextValue, ErrorKind},
    parser::ValueSource,
};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::{
    args::{Args, Serve},
    failure::{Failure, tell},
    shown::one_line,
};

/// A file larger than this is none of ours.
const LARGEST: u64 = 1 << 20;

/// What was said on the command line and in the file together; the command line has the last word. `line` is
/// all of it, with the name of the program.
///
/// A name in a table is the flag of both: `cert` in `[tls]` is `--tls-cert`. What `make` makes of all of it comes
/// beside it, and what it finds wrong is told where that stands in the file.
pub(crate) fn read<T>(
    path: &Path,
    line: &[OsString],
    make: impl FnOnce(&Serve) -> Result<T, Vec<Problem>>,
) -> Result<(Serve, T), Faults> {
    let text = load(path).map_err(|problem| Faults::of_file(path, problem))?;
    let command = Args::command();
    let on_line = command
        .clone()
        .try_get_matches_from(line)
        .map_err(|error| Faults::of_file(path, without_usage(&error)))?;
    let mut reading = Reading {
        path,
        text: &text,
        command: &command,
        on_line: on_line.subcommand_matches("serve").unwrap_or(&on_line),
        settings: Vec::new(),
        faults: Faults::default(),
    };
    reading.file();
    reading.finish(line, make)
}

fn load(path: &Path) -> Result<String, String> {
    // The length that the system tells of is 0 for a pipe and a device, which may never end.
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LARGEST + 1).read_to_end(&mut text))
        .map_err(|error| error.to_string())?;
    if text.len() as u64 > LARGEST {
        return Err(format!(
            "it is larger than {LARGEST} bytes: no such file as this"
        ));
    }
    String::from_utf8(text).map_err(|_| "it is not UTF-8".into())
}

/// What is wrong with a flag's value, as only its use shows.
pub(crate) type Problem = (&'static str, Failure);

/// Something in the file.
struct Setting {
    flag: String,
    /// As on the command line; none for a switch.
    value: Option<OsString>,
    span: Range<usize>,
}

struct Reading<'a> {
    path: &'a Path,
    text: &'a str,
    command: &'a Command,
    on_line: &'a ArgMatches,
    settings: Vec<Setting>,
    faults: Faults,
}

impl Reading<'_> {
    fn file(&mut self) {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        for error in &errors {
            let span = error.span().unwrap_or(0..0);
            self.fault(&span, format!("this is no TOML: {}", error.message()));
        }
        // What was made of a broken file may not be what was meant.
        if errors.is_empty() {
            self.table("", table.get_ref());
        }
    }

    fn table(&mut self, prefix: &str, table: &DeTable<'_>) {
        // In the order of the file, not of the alphabet.
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in entries {
            let name = format!("{prefix}{}", key.get_ref());
            match value.get_ref() {
                DeValue::Table(inner) => self.table(&format!("{name}-"), inner),
                _ => self.setting(&name, key.span(), value),
            }
        }
    }

    fn setting(&mut self, name: &str, at: Range<usize>, value: &Spanned<DeValue<'_>>) {
        let serve = self.command.find_subcommand("serve");
        let known = || serve.into_iter().flat_map(Command::get_arguments);
        let Some(argument) = known().find(|argument| is_setting(argument, name)) else {
            let names = known().filter_map(|argument| {
                let name = argument.get_long()?;
                is_setting(argument, name).then_some(name)
            });
            let near = names
                .map(|known| (strsim::levenshtein(name, known), known))
                .filter(|(distance, _)| *distance <= 3)
                .min();
            let hint = near.map_or_else(
                || "`sockeye serve --help` lists all".into(),
                |(_, near)| format!("is {near} meant?"),
            );
            return self.fault(&at, format!("there is no setting {name}; {hint}"));
        };
        let overridden = self.is_overridden(argument);
        match (argument.get_action(), value.get_ref()) {
            (ArgAction::SetTrue, DeValue::Boolean(on)) => {
                if *on && !overridden {
                    self.add(name, None, at);
                }
            }
            (ArgAction::SetTrue, other) => {
                let kind = other.type_str();
                self.fault(
                    &value.span(),
                    format!("{name} is true or false, not this {kind}"),
                );
            }
            (ArgAction::Append, DeValue::Array(values)) => {
                for value in values.iter() {
                    self.value(name, argument, value, overridden);
                }
            }
            _ => self.value(name, argument, value, overridden),
        }
    }

    /// Whether the command line has a setting, or what cannot be used with it.
    fn is_overridden(&self, argument: &Arg) -> bool {
        let Some(serve) = self.command.find_subcommand("serve") else {
            return false;
        };
        let excludes = |one, other| serve.get_arg_conflicts_with(one).contains(&other);
        serve.get_arguments().any(|other| {
            let source = self.on_line.value_source(other.get_id().as_str());
            source == Some(ValueSource::CommandLine)
                && (argument == other || excludes(argument, other) || excludes(other, argument))
        })
    }

    fn value(
        &mut self,
        name: &str,
        argument: &Arg,
        value: &Spanned<DeValue<'_>>,
        overridden: bool,
    ) {
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            // Written as the standard has it; decimal is all that a flag takes, but for a mode, which is octal.
            DeValue::Integer(number)
                if number.radix() == 10 || (number.radix() == 8 && name == "socket-mode") =>
            {
                number.as_str().replace('_', "")
            }
            DeValue::Float(number) => number.as_str().replace('_', ""),
            other => {
                let kind = match other {
                    DeValue::Integer(_) => "number that is not decimal",
                    _ => other.type_str(),
                };
                let wanted = match argument.get_action() {
                    ArgAction::Append => "a text, or several as [\"…\", \"…\"]",
                    _ => "a text or a number",
                };
                return self.fault(
                    &value.span(),
                    format!("{name} takes {wanted}, not this {kind}"),
                );
            }
        };
        let is_path = argument.get_value_parser().type_id() == TypeId::of::<PathBuf>();
        // As seen from the file: who starts the server may stand anywhere.
        let directory = self.path.parent().unwrap_or(Path::new(""));
        let text = match text.strip_prefix("unix:") {
            _ if is_path => directory.join(&text).into_os_string(),
            Some(path) if name == "listen" && !path.is_empty() => {
                let mut place = OsString::from("unix:");
                place.push(directory.join(path));
                place
            }
            _ => OsString::from(text),
        };
        if let Some(problem) = self.problem(name, &text) {
            return self.fault(&value.span(), format!("{name}: {problem}"));
        }
        if !overridden {
            self.add(name, Some(text), value.span());
        }
    }

    /// What is wrong with a value by itself.
    fn problem(&self, name: &str, value: &OsString) -> Option<String> {
        let error = self.alone(name, Some(value))?;
        match error.kind() {
            ErrorKind::ValueValidation | ErrorKind::InvalidValue => Some(match error.source() {
                Some(source) => source.to_string(),
                None => without_usage(&error),
            }),
            // What goes with it is looked at when all is known.
            _ => None,
        }
    }

    /// What is complained about where a setting is all that is said.
    fn alone(&self, name: &str, value: Option<&OsString>) -> Option<clap::Error> {
        let line = ["sockeye".into(), "serve".into(), argument(name, value)];
        self.command.clone().try_get_matches_from(line).err()
    }

    fn add(&mut self, name: &str, value: Option<OsString>, span: Range<usize>) {
        self.settings.push(Setting {
            flag: name.into(),
            value,
            span,
        });
    }

    fn fault(&mut self, span: &Range<usize>, problem: String) {
        self.fault_at(Some(span), problem);
    }

    /// A fault; without a place where it is of the file as a whole.
    fn fault_at(&mut self, span: Option<&Range<usize>>, problem: String) {
        let at = span.map(|span| place(self.text, span.start));
        let path = Some(self.path.to_owned());
        self.faults.0.push(Fault { path, at, problem });
    }

    /// All together: what one setting requires of another, or excludes.
    fn finish<T>(
        mut self,
        line: &[OsString],
        make: impl FnOnce(&Serve) -> Result<T, Vec<Problem>>,
    ) -> Result<(Serve, T), Faults> {
        let settings = self.settings.iter();
        let from_file = settings.map(|it| argument(&it.flag, it.value.as_ref()));
        let all = line.iter().cloned().chain(from_file);
        let parsed =
            self.command
                .clone()
                .try_get_matches_from(all)
                .and_then(|matches| match matches.subcommand_matches("serve") {
                    Some(serve) => Serve::from_arg_matches(serve),
                    None => Serve::from_arg_matches(&matches),
                });
        match parsed {
            Ok(serve) => {
                let problems = match make(&serve) {
                    Ok(made) if self.faults.0.is_empty() => return Ok((serve, made)),
                    Ok(_) => Vec::new(),
                    Err(problems) => problems,
                };
                for (flag, failure) in problems {
                    let is_it = |it: &&Setting| it.flag == flag;
                    let problem = failure.to_string();
                    match self.settings.iter().find(is_it).map(|it| it.span.clone()) {
                        Some(span) => self.fault(&span, problem),
                        // From the command line.
                        None => self.faults.0.push(Fault {
                            path: None,
                            at: None,
                            problem,
                        }),
                    }
                }
            }
            Err(error) => {
                // Of what the complaint is about, the first that stands in the file.
                let complaint = without_usage(&error);
                let is_meant = |it: &&Setting| match error.kind() {
                    // What is named is missing: it is about what wants that.
                    kind @ ErrorKind::MissingRequiredArgument => self
                        .alone(&it.flag, it.value.as_ref())
                        .is_some_and(|alone| alone.kind() == kind),
                    _ => complaint.contains(&format!("--{}", it.flag)),
                };
                let meant = self.settings.iter().find(is_meant);
                let span = meant.map(|it| it.span.clone());
                self.fault_at(span.as_ref(), complaint);
            }
        }
        Err(self.faults)
    }
}

fn is_setting(argument: &Arg, name: &str) -> bool {
    argument.get_long() == Some(name)
        && !matches!(name, "config" | "check" | "help")
        && matches!(
            argument.get_action(),
            ArgAction::Set | ArgAction::Append | ArgAction::SetTrue
        )
}

/// A setting as it would stand on the command line.
fn argument(name: &str, value: Option<&OsString>) -> OsString {
    let mut argument = OsString::from(format!("--{name}"));
    if let Some(value) = value {
        argument.push("=");
        argument.push(value);
    }
    argument
}

/// What clap complains about, on a line: its usage names every flag that was given.
fn without_usage(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let end = text.find("\n\nUsage:").unwrap_or(text.len());
    let text = text[..end].trim_start_matches("error: ");
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match error.get(ContextKind::Suggested) {
        Some(ContextValue::StyledStrs(hints)) => {
            let hints = hints.iter().map(StyledStr::to_string).collect::<Vec<_>>();
            format!("{words}; {}", hints.join("; "))
        }
        _ => words,
    }
}

/// The line and the column of a byte, both counted from 1, the column in characters.
fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    (line, column)
}

/// What is wrong with a file, all of it.
#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<Fault>);

#[derive(Debug)]
struct Fault {
    /// None where it is on the command line.
    path: Option<PathBuf>,
    at: Option<(usize, usize)>,
    problem: String,
}

impl Faults {
    fn of_file(path: &Path, problem: String) -> Self {
        Self(vec![Fault {
            path: Some(path.to_owned()),
            at: None,
            problem,
        }])
    }

    /// On standard error, a line each.
    pub(crate) fn print(&self) {
        for fault in &self.0 {
            tell(format_args!("sockeye: {}", one_line(&fault.to_string())));
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.path {
            write!(f, "{}:", path.display())?;
            if let Some((line, column)) = self.at {
                write!(f, "{line}:{column}:")?;
            }
            f.write_str(" ")?;
        }
        f.write_str(&self.problem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of these lines, read beside a command line.
    fn read_with(file: &str, line: &[&str]) -> Result<Serve, Vec<String>> {
        let directory = tempfile();
        let path = directory.join("sockeye.toml");
        std::fs::write(&path, file).unwrap();
        let line = ["sockeye", "serve", "--config", path.to_str().unwrap()]
            .iter()
            .chain(line)
            .map(OsString::from)
            .collect::<Vec<_>>();
        let result = read(&path, &line, |_| Ok(())).map(|(serve, ())| serve);
        let of_directory = directory.join("").display().to_string();
        std::fs::remove_dir_all(directory).unwrap();
        result.map_err(|faults| {
            let lines = faults.0.iter().map(Fault::to_string);
            lines.map(|line| line.replace(&of_directory, "")).collect()
        })
    }

    fn tempfile() -> PathBuf {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sockeye-config-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn settings_are_flags_and_tables_begin_their_names() {
        let elsewhere = std::env::temp_dir().join("key.pem");
        let file = r#"
            listen = "127.0.0.1:0"
            subprotocol = ["chat", "superchat"]
            max-message = "1M"
            ping-interval = 2.5
            ping.timeout = 7
            quiet = true
            broadcast = false
            [tls]
            cert = "chain.pem"
            key = 'ELSEWHERE'
        "#;
        let file = file.replace("ELSEWHERE", elsewhere.to_str().unwrap());
        let serve = read_with(&file, &[]).unwrap();
        assert_eq!(serve.listen, ["127.0.0.1:0"]);
        assert_eq!(serve.subprotocol, ["chat", "superchat"]);
        assert_eq!(serve.limits.max_message, 1 << 20);
        assert_eq!(serve.pings.ping_interval.as_millis(), 2500);
        assert_eq!(serve.pings.ping_timeout.as_secs(), 7);
        assert!(serve.quiet && !serve.broadcast);
        let cert = serve.tls_cert.unwrap();
        assert!(
            cert.is_absolute() && cert.ends_with("chain.pem"),
            "{cert:?}"
        );
        assert_eq!(serve.tls_key.unwrap(), elsewhere);
    }

    #[test]
    fn a_unix_socket_is_as_seen_from_the_file() {
        let file = r#"listen = ["unix:run/app.sock", "unix:/run/app.sock", "127.0.0.1:0"]"#;
        let listen = read_with(file, &[]).unwrap().listen;
        let path = listen[0].strip_prefix("unix:").map(Path::new).unwrap();
        assert!(
            path.is_absolute() && path.ends_with("run/app.sock"),
            "{path:?}"
        );
        assert_eq!(listen[1..], ["unix:/run/app.sock", "127.0.0.1:0"]);
    }

    #[test]
    fn a_mode_may_be_an_octal_number_and_nothing_else() {
        for mode in ["0o660", "660", "\"660\""] {
            let serve = read_with(&format!("socket-mode = {mode}"), &[]).unwrap();
            assert_eq!(serve.socket_mode, Some(0o660), "{mode}");
        }
        let faults = read_with("socket-mode = 0x1b0\nmax-message = 0o17", &[]).unwrap_err();
        for (fault, name) in faults.iter().zip(["socket-mode", "max-message"]) {
            let told =
                format!("{name} takes a text or a number, not this number that is not decimal");
            assert!(fault.ends_with(&told), "{fault}");
        }
        assert_eq!(faults.len(), 2, "{faults:#?}");
    }

    #[test]
    fn the_command_line_has_the_last_word() {
        let file = "listen = \"127.0.0.1:1\"\nsubprotocol = [\"a\", \"b\"]\nmax-message = 5";
        let serve = read_with(file, &["--listen", "127.0.0.1:2", "-s", "c"]).unwrap();
        assert_eq!(serve.listen, ["127.0.0.1:2"]);
        assert_eq!(serve.subprotocol, ["c"]);
        assert_eq!(serve.limits.max_message, 5);
    }

    /// It was refused, as what excludes each other on one side is.
    #[test]
    fn a_choice_on_the_command_line_takes_the_place_of_another_in_the_file() {
        let serve = read_with("example = \"chat\"", &["-b"]).unwrap();
        assert!(serve.broadcast && serve.example.is_none());
        let serve = read_with("broadcast = true", &["-e", "chat"]).unwrap();
        assert!(!serve.broadcast && serve.example.is_some());
        let files = ["--tls-cert", "c", "--tls-key", "k"];
        let serve = read_with("tls.self-signed = true", &files).unwrap();
        assert!(!serve.tls_self_signed && serve.tls_cert.is_some());
        let file = "tls.cert = \"c\"\ntls.key = \"k\"";
        let serve = read_with(file, &["--tls-self-signed"]).unwrap();
        assert!(serve.tls_self_signed && serve.tls_cert.is_none() && serve.tls_key.is_none());
        let line = ["--x-forwarded-for", "127.0.0.1"];
        let serve = read_with("forwarded = \"127.0.0.1\"", &line).unwrap();
        assert!(serve.forwarded.is_none() && serve.x_forwarded_for.is_some());
    }

    #[test]
    fn every_fault_is_told_with_its_place() {
        let file = "max-message = \"16X\"\n  lisen = \"a\"\nquiet = 1\nping-interval = [1]\n[tls]\nselfsigned = true\ncert = \"c\"\n";
        let faults = read_with(file, &[]).unwrap_err();
        let begin = [
            "sockeye.toml:1:15: max-message: a size is a number",
            "sockeye.toml:2:3: there is no setting lisen; is listen meant?",
            "sockeye.toml:3:9: quiet is true or false, not this integer",
            "sockeye.toml:4:17: ping-interval takes a text or a number, not this array",
            "sockeye.toml:6:1: there is no setting tls-selfsigned; is tls-self-signed meant?",
            "sockeye.toml:7:8: the following required arguments were not provided: --tls-key <FILE>",
        ];
        assert_eq!(faults.len(), begin.len(), "{faults:#?}");
        for (fault, begin) in faults.iter().zip(begin) {
            assert!(fault.starts_with(begin), "{fault}\n{begin}");
        }
    }

    #[test]
    fn numbers_that_are_none_are_told_as_on_the_command_line() {
        let file = "max-connections = -1\nmax-fragments = 1.5\nping.timeout = 0";
        let faults = read_with(file, &[]).unwrap_err();
        let begin = [
            "sockeye.toml:1:19: max-connections: a whole number is needed",
            "sockeye.toml:2:17: max-fragments: a whole number is needed",
            "sockeye.toml:3:16: ping-timeout: every peer would be silent",
        ];
        assert_eq!(faults.len(), begin.len(), "{faults:#?}");
        for (fault, begin) in faults.iter().zip(begin) {
            assert!(fault.starts_with(begin), "{fault}\n{begin}");
        }
    }

    #[test]
    fn what_excludes_each_other_is_told() {
        let file = "[tls]\nself-signed = true\ncert = \"c\"\nkey = \"k\"";
        let faults = read_with(file, &[]).unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:#?}");
        assert!(faults[0].contains("cannot be used with"), "{faults:#?}");
        assert!(faults[0].starts_with("sockeye.toml:2:1: "), "{faults:#?}");
    }

    #[test]
    fn of_settings_that_do_not_go_together_none_is_blamed_for_standing_first() {
        let file = "quiet = true\n[tls]\ncert = \"c\"";
        let faults = read_with(file, &[]).unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:#?}");
        assert!(faults[0].starts_with("sockeye.toml:3:8: "), "{faults:#?}");
        let file = "example = \"chat\"\n[tls]\ncert = \"c\"\nkey = \"k\"\nself-signed = true";
        let faults = read_with(file, &[]).unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:#?}");
        assert!(faults[0].starts_with("sockeye.toml:3:8: "), "{faults:#?}");
    }

    #[test]
    fn what_is_no_toml_is_told_with_its_place() {
        let faults = read_with("listen = \"a\nquiet = true", &[]).unwrap_err();
        assert!(faults[0].starts_with("sockeye.toml:1:"), "{faults:#?}");
        assert!(faults[0].contains("this is no TOML"), "{faults:#?}");
    }

    #[test]
    fn a_file_that_is_not_there_is_told() {
        let missing = Path::new("/nonexistent/sockeye.toml");
        let line = ["sockeye", "serve"].map(OsString::from);
        let faults = read(missing, &line, |_| Ok(())).unwrap_err();
        assert!(
            faults.0[0]
                .to_string()
                .starts_with("/nonexistent/sockeye.toml: ")
        );
    }

    #[test]
    fn what_use_shows_is_told_where_it_stands() {
        let directory = tempfile();
        let path = directory.join("sockeye.toml");
        std::fs::write(&path, "quiet = true\nlisten = \"a:1\"").unwrap();
        let line = ["sockeye", "serve", "--metrics", "b:1"].map(OsString::from);
        let no_address = |flag| (flag, Failure::new(format!("no address of {flag}")));
        let make = |_: &Serve| Err::<(), _>(["listen", "metrics"].map(no_address).into());
        let faults = read(&path, &line, make).unwrap_err();
        std::fs::remove_dir_all(directory).unwrap();
        let told = [0, 1].map(|index| faults.0[index].to_string());
        assert!(told[0].ends_with(":2:10: no address of listen"));
        assert_eq!(told[1], "no address of metrics");
    }

    #[test]
    fn places_are_counted_in_characters() {
        assert_eq!(place("a\nпривет x", "a\nпривет ".len()), (2, 8));
        assert_eq!(place("", 0), (1, 1));
    }
}
