//! permessage-deflate (RFC 7692): negotiation, parameters and the codec.
//!
//! The grammar, the parameters and the rules of negotiation exist in every build. The codec needs
//! the feature `deflate`; without it the same types stand for it, but no [`DeflateConfig`] can be
//! made, so nothing is ever offered or agreed and callers need no conditional code.
//!
//! By default neither side keeps its compression context between messages. A compressor costs
//! 380 KB (137 to 495, by its window and [`MemLevel`]) and a decompressor 48 KB, whatever the
//! window, so one of each a thread, lent to whichever connection has a message, is what lets an
//! idle connection own none: [`Deflaters`] and [`Inflater`] are made to be lent.

#[cfg(not(feature = "deflate"))]
mod absent;
mod codecs;
mod config;
#[cfg(feature = "deflate")]
mod deflater;
#[cfg(feature = "deflate")]
mod distances;
mod extensions;
#[cfg(feature = "deflate")]
mod inflater;
mod negotiate;
mod params;
#[cfg(feature = "deflate")]
mod short;
#[cfg(test)]
#[cfg(feature = "deflate")]
mod tests;

#[cfg(not(feature = "deflate"))]
pub use absent::{Deflater, Deflaters, Inflater};
#[cfg(not(feature = "deflate"))]
pub(crate) use absent::{Progress, Turns};
pub use codecs::Codecs;
pub use config::DeflateConfig;
#[cfg(feature = "deflate")]
pub use deflater::{Deflater, Deflaters};
pub use extensions::{
    Extension, ExtensionParameter, MalformedExtensions, PERMESSAGE_DEFLATE, parse_extensions,
};
#[cfg(feature = "deflate")]
pub use inflater::Inflater;
#[cfg(feature = "deflate")]
pub(crate) use inflater::{Progress, Turns};
pub use negotiate::{NegotiationError, Parameter};
pub use params::{DeflateParams, DeflaterSettings, Direction, Level, MemLevel, WindowBits};
