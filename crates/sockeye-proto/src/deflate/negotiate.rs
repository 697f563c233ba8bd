//! The rules of an offer and its answer (RFC 7692 §5 and §7.1).

use alloc::string::{String, ToString};
use core::fmt;

use super::config::DeflateConfig;
use super::extensions::{Extension, PERMESSAGE_DEFLATE};
use super::params::{DeflateParams, WindowBits};
use crate::Shown;

/// A client's side: the offer and the check of the answer.
impl DeflateConfig {
    /// What a client puts in Sec-WebSocket-Extensions (RFC 7692 §7.1).
    ///
    /// `client_max_window_bits` is always part of it: it lets the server choose (§7.1.2.2). Where
    /// the server is asked to forget its context, a second offer without that follows: servers that
    /// know only the plain form can choose it (§5), and the context they keep costs 48 KB here.
    pub fn offer(&self) -> String {
        let own = self.own_max_window_bits;
        let offer = Parameters {
            server_no_context_takeover: self.peer_no_context_takeover,
            client_no_context_takeover: self.own_no_context_takeover,
            server_max_window_bits: limit(self.peer_max_window_bits),
            client_max_window_bits: Some(limit(own)),
        };
        let mut offers = offer.to_string();
        if offer.server_no_context_takeover {
            let plain = Parameters {
                server_no_context_takeover: false,
                ..offer
            };
            offers.push_str(", ");
            offers.push_str(&plain.to_string());
        }
        offers
    }

    /// Checks everything a server answered, as a client that made [`offer`](Self::offer) and
    /// offered nothing else. Nothing answered is no error: there is no compression then.
    ///
    /// # Errors
    /// As [`accept_answer`](Self::accept_answer); also when another extension, or more than one,
    /// was answered (RFC 6455 §4.1). The connection must be failed.
    pub fn accept_answers(
        &self,
        answers: &[Extension<'_>],
    ) -> Result<Option<DeflateParams>, NegotiationError> {
        if let Some(other) = answers.iter().find(|a| a.name != PERMESSAGE_DEFLATE) {
            return Err(NegotiationError::ExtensionNotOffered(other.name.into()));
        }
        match answers {
            [] => Ok(None),
            [answer] => self.accept_answer(answer).map(Some),
            _ => Err(NegotiationError::ExtensionRepeated),
        }
    }

    /// Checks a server's answer to [`offer`](Self::offer) (RFC 7692 §7).
    ///
    /// # Errors
    /// [`NegotiationError`] when the answer breaks a rule or does not keep to the offer. The
    /// connection must be failed (§7: "Fail the WebSocket Connection").
    pub fn accept_answer(&self, answer: &Extension<'_>) -> Result<DeflateParams, NegotiationError> {
        use Parameter::{ClientMaxWindowBits, ServerMaxWindowBits};

        let answer = Parameters::parse(answer, Side::Answer)?;
        // §7.1.1.1: without server_no_context_takeover, the answer takes the second offer.
        let server_max_window_bits = match answer.server_max_window_bits {
            // §7.1.2.1: the same or a smaller value; any value where none was offered.
            Some(bits) => bits.at_most(self.peer_max_window_bits, ServerMaxWindowBits)?,
            None if self.peer_max_window_bits == WindowBits::MAX => WindowBits::MAX,
            None => return Err(NegotiationError::Missing(ServerMaxWindowBits)),
        };
        let client_max_window_bits = match answer.client_max_window_bits.flatten() {
            // §7.1.2.2: equal to or smaller than the value offered.
            Some(bits) => bits.at_most(self.own_max_window_bits, ClientMaxWindowBits)?,
            None => self.own_max_window_bits,
        };
        Ok(DeflateParams {
            server_no_context_takeover: answer.server_no_context_takeover,
            // §7.1.1.2: the client may do without although the server does not demand it.
            client_no_context_takeover: answer.client_no_context_takeover
                || self.own_no_context_takeover,
            server_max_window_bits,
            client_max_window_bits,
        })
    }
}

/// A server's side: the choice among the offers.
impl DeflateConfig {
    /// Chooses the first offer of permessage-deflate that can be accepted; they come in the order
    /// of the client's preference (RFC 7692 §5). Gives what is agreed, and what to put in
    /// Sec-WebSocket-Extensions of the response; nothing when all are declined.
    ///
    /// ```
    /// # #[cfg(feature = "deflate")] {
    /// use sockeye_proto::deflate::{DeflateConfig, parse_extensions};
    /// let line = b"permessage-deflate; client_max_window_bits=99, permessage-deflate";
    /// let offers = parse_extensions([line.as_slice()]).unwrap();
    /// let (_, answer) = DeflateConfig::default().choose(&offers).unwrap();
    /// assert!(answer.starts_with("permessage-deflate; server_no_context_takeover"));
    /// # }
    /// ```
    pub fn choose(&self, offers: &[Extension<'_>]) -> Option<(DeflateParams, String)> {
        let ours = offers.iter().filter(|o| o.name == PERMESSAGE_DEFLATE);
        ours.filter_map(|offer| self.answer(offer).ok()).next()
    }

    /// Answers one offer.
    ///
    /// # Errors
    /// [`NegotiationError`] when the offer must be declined, which does not fail the connection
    /// (RFC 7692 §7: "A server MUST decline").
    pub fn answer(
        &self,
        offer: &Extension<'_>,
    ) -> Result<(DeflateParams, String), NegotiationError> {
        let offer = Parameters::parse(offer, Side::Offer)?;
        let peer = self.peer_max_window_bits;
        let client_max_window_bits = match offer.client_max_window_bits {
            Some(hint) => hint.unwrap_or(WindowBits::MAX).min(peer),
            // §7.1.2.2: such a client must not be answered with a limit.
            None if peer == WindowBits::MAX => WindowBits::MAX,
            None => return Err(NegotiationError::Missing(Parameter::ClientMaxWindowBits)),
        };
        let asked = offer.server_max_window_bits;
        let server_max_window_bits = asked
            .unwrap_or(WindowBits::MAX)
            .min(self.own_max_window_bits);
        let params = DeflateParams {
            server_no_context_takeover: offer.server_no_context_takeover
                || self.own_no_context_takeover,
            // §7.1.1.2: a client's hint is taken up, as it saves memory.
            client_no_context_takeover: offer.client_no_context_takeover
                || self.peer_no_context_takeover,
            server_max_window_bits,
            client_max_window_bits,
        };
        let answer = Parameters::from(params);
        let answer = Parameters {
            // §7.1.2.1: accepted by including it, so it is answered whenever it was offered.
            server_max_window_bits: asked
                .map(|_| server_max_window_bits)
                .or(answer.server_max_window_bits),
            ..answer
        };
        Ok((params, answer.to_string()))
    }
}

/// A window as a parameter: none where it limits nothing.
fn limit(bits: WindowBits) -> Option<WindowBits> {
    (bits < WindowBits::MAX).then_some(bits)
}

impl WindowBits {
    fn at_most(self, offered: Self, parameter: Parameter) -> Result<Self, NegotiationError> {
        if self <= offered {
            return Ok(self);
        }
        Err(NegotiationError::WindowLargerThanOffered {
            parameter,
            offered,
            answered: self,
        })
    }
}

/// A parameter of permessage-deflate (RFC 7692 §7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parameter {
    /// `server_no_context_takeover` (§7.1.1.1).
    ServerNoContextTakeover,
    /// `client_no_context_takeover` (§7.1.1.2).
    ClientNoContextTakeover,
    /// `server_max_window_bits` (§7.1.2.1).
    ServerMaxWindowBits,
    /// `client_max_window_bits` (§7.1.2.2).
    ClientMaxWindowBits,
}

impl Parameter {
    const ALL: [Self; 4] = [
        Self::ServerNoContextTakeover,
        Self::ClientNoContextTakeover,
        Self::ServerMaxWindowBits,
        Self::ClientMaxWindowBits,
    ];

    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ServerNoContextTakeover => "server_no_context_takeover",
            Self::ClientNoContextTakeover => "client_no_context_takeover",
            Self::ServerMaxWindowBits => "server_max_window_bits",
            Self::ClientMaxWindowBits => "client_max_window_bits",
        }
    }
}

impl fmt::Display for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why an answer fails the connection, or an offer is declined.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NegotiationError {
    /// A server answered an extension that was not offered (RFC 6455 §4.1).
    ExtensionNotOffered(String),
    /// A server answered permessage-deflate more than once (RFC 7692 §5).
    ExtensionRepeated,
    /// A parameter that permessage-deflate does not have.
    UnknownParameter(String),
    /// A parameter that appears more than once.
    RepeatedParameter(Parameter),
    /// A value where none may be, none where one must be, or one out of range.
    InvalidValue {
        /// Whose value.
        parameter: Parameter,
        /// The value, if there was one.
        value: Option<String>,
    },
    /// A parameter that must be there: one that was offered and not answered, or a client that
    /// cannot be limited as this server wants.
    Missing(Parameter),
    /// A server answered a larger window than it was offered.
    WindowLargerThanOffered {
        /// Whose window.
        parameter: Parameter,
        /// What was offered.
        offered: WindowBits,
        /// What was answered.
        answered: WindowBits,
    },
}

impl fmt::Display for NegotiationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ExtensionNotOffered(name) => {
                write!(
                    f,
                    "the server answered the extension {}, which was not offered",
                    Shown(name)
                )
            }
            Self::ExtensionRepeated => {
                write!(f, "the server answered {PERMESSAGE_DEFLATE} more than once")
            }
            Self::UnknownParameter(name) => {
                write!(f, "{PERMESSAGE_DEFLATE} has no parameter {}", Shown(name))
            }
            Self::RepeatedParameter(parameter) => write!(f, "{parameter} appears more than once"),
            Self::InvalidValue { parameter, value } => {
                let expected = match parameter {
                    Parameter::ServerNoContextTakeover | Parameter::ClientNoContextTakeover => {
                        "no value"
                    }
                    _ => "a number from 8 to 15",
                };
                match value {
                    Some(value) => {
                        write!(f, "{parameter} takes {expected}, not {}", Shown(value))
                    }
                    None => write!(f, "{parameter} takes {expected}, and came without a value"),
                }
            }
            Self::Missing(parameter) => write!(f, "{parameter} is required and was not given"),
            Self::WindowLargerThanOffered {
                parameter,
                offered,
                answered,
            } => write!(
                f,
                "{parameter} was offered as {} and answered as {}",
                offered.as_u8(),
                answered.as_u8()
            ),
        }
    }
}

impl core::error::Error for NegotiationError {}

/// Which of the two is being read; they differ in `client_max_window_bits` alone.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Offer,
    Answer,
}

/// The parameters of one offer or answer.
#[derive(Default)]
struct Parameters {
    server_no_context_takeover: bool,
    client_no_context_takeover: bool,
    server_max_window_bits: Option<WindowBits>,
    /// In an offer it may come without a value.
    client_max_window_bits: Option<Option<WindowBits>>,
}

impl Parameters {
    /// §7.1: no unknown parameter, none twice, no value out of its range.
    fn parse(extension: &Extension<'_>, side: Side) -> Result<Self, NegotiationError> {
        let mut parameters = Self::default();
        for given in &extension.parameters {
            let known = Parameter::ALL.iter().find(|p| p.name() == given.name);
            let Some(&parameter) = known else {
                return Err(NegotiationError::UnknownParameter(given.name.into()));
            };
            if parameters.has(parameter) {
                return Err(NegotiationError::RepeatedParameter(parameter));
            }
            let value = given.value.as_deref();
            let invalid = || NegotiationError::InvalidValue {
                parameter,
                value: value.map(String::from),
            };
            let bits = || value.and_then(WindowBits::parse).ok_or_else(invalid);
            match parameter {
                Parameter::ServerNoContextTakeover if value.is_none() => {
                    parameters.server_no_context_takeover = true;
                }
                Parameter::ClientNoContextTakeover if value.is_none() => {
                    parameters.client_no_context_takeover = true;
                }
                Parameter::ServerMaxWindowBits => {
                    parameters.server_max_window_bits = Some(bits()?);
                }
                Parameter::ClientMaxWindowBits if value.is_none() && side == Side::Offer => {
                    parameters.client_max_window_bits = Some(None);
                }
                Parameter::ClientMaxWindowBits => {
                    parameters.client_max_window_bits = Some(Some(bits()?));
                }
                _ => return Err(invalid()),
            }
        }
        Ok(parameters)
    }

    fn has(&self, parameter: Parameter) -> bool {
        match parameter {
            Parameter::ServerNoContextTakeover => self.server_no_context_takeover,
            Parameter::ClientNoContextTakeover => self.client_no_context_takeover,
            Parameter::ServerMaxWindowBits => self.server_max_window_bits.is_some(),
            Parameter::ClientMaxWindowBits => self.client_max_window_bits.is_some(),
        }
    }
}

/// As in the header of a response.
impl fmt::Display for DeflateParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Parameters::from(*self).fmt(f)
    }
}

impl From<DeflateParams> for Parameters {
    fn from(params: DeflateParams) -> Self {
        Self {
            server_no_context_takeover: params.server_no_context_takeover,
            client_no_context_takeover: params.client_no_context_takeover,
            server_max_window_bits: limit(params.server_max_window_bits),
            client_max_window_bits: limit(params.client_max_window_bits).map(Some),
        }
    }
}

impl fmt::Display for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PERMESSAGE_DEFLATE)?;
        for parameter in Parameter::ALL.into_iter().filter(|&p| self.has(p)) {
            write!(f, "; {parameter}")?;
            let value = match parameter {
                Parameter::ServerMaxWindowBits => self.server_max_window_bits,
                Parameter::ClientMaxWindowBits => self.client_max_window_bits.flatten(),
                _ => None,
            };
            if let Some(bits) = value {
                write!(f, "={}", bits.as_u8())?;
            }
        }
        Ok(())
    }
}
