//! What the targets of connections share: an end in either role with any compression, and bytes for it.

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use sockeye_proto::{
    Config, Role,
    deflate::{DeflateConfig, DeflateParams, Deflater},
};

use crate::{Choices, Cuts};

pub const NOW: Duration = Duration::from_secs(100);

pub const CLIENT: Role = Role::Client { masks };

/// Another mask for each frame, the same for each connection.
fn masks() -> [u8; 4] {
    let next = |key: u32| Some(key.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    let key = MASK.fetch_update(Relaxed, Relaxed, next);
    key.unwrap_or_default().to_be_bytes()
}

static MASK: AtomicU32 = AtomicU32::new(0);

/// Begins the masks anew.
pub fn first_mask() {
    MASK.store(0, Relaxed);
}

/// An end in the role that the flags say.
pub fn config(flags: u8) -> Config {
    Config::new(if flags & 1 == 0 { CLIENT } else { Role::Server })
}

/// The compression that the flags say.
pub fn compress(config: &mut Config, flags: u8, choices: &mut Choices<'_>) {
    let server_max_window_bits = choices.window();
    if flags & 2 != 0 {
        let params = DeflateParams {
            server_no_context_takeover: flags & 4 != 0,
            client_no_context_takeover: flags & 8 != 0,
            server_max_window_bits,
            client_max_window_bits: choices.window(),
        };
        config.deflate = Some((params, DeflateConfig::default()));
    }
}

/// The role of the other end.
pub fn other(config: &Config) -> Role {
    if matches!(config.role, Role::Server) {
        CLIENT
    } else {
        Role::Server
    }
}

/// Cuts bytes; `scale` makes the pieces longer.
pub fn pieces<'a>(mut bytes: &'a [u8], cuts: &Cuts, scale: usize) -> Vec<&'a [u8]> {
    let cuts = match cuts {
        Cuts::After(lengths) => Cuts::After(lengths.iter().map(|len| len * scale).collect()),
        // A large input a byte at a time takes too long.
        Cuts::Everywhere if bytes.len() > 10_000 => Cuts::After(vec![1000; 20]),
        Cuts::Everywhere => Cuts::Everywhere,
    };
    let mut pieces = Vec::new();
    for length in cuts.lengths(bytes.len()) {
        let (piece, rest) = bytes.split_at(length);
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}

/// Frames in good order, as far as the choices let them be: lengths are right, masks are there, and
/// compressed data is what it says.
pub fn frames(mut choices: Choices<'_>, config: &Config) -> Vec<u8> {
    let peer = other(config);
    let deflate = config
        .deflate
        .map(|(agreed, how)| (agreed.outgoing(&peer), how));
    let mut deflater = deflate.map(|(to, how)| (Deflater::new(how.deflater(to.window)), to));
    let (mut out, mut said) = (Vec::new(), 0);
    while !choices.is_empty() && said < 150_000 {
        let (first, kind) = (choices.byte(), choices.byte());
        let mut payload = Vec::new();
        match kind % 4 {
            0 | 1 => {
                let len = usize::from(choices.byte());
                payload.extend(choices.take(len));
            }
            more => {
                let mut len = choices.number() * (more - 1) as usize;
                // Long ones take long, and find little that short ones do not.
                if kind < 0xF0 {
                    len %= 3000;
                }
                let part = usize::from(choices.byte() % 8);
                let part = choices.take(part);
                payload = part.repeat(len / part.len().max(1) + 1);
                payload.truncate(len);
            }
        }
        let times = 1 + kind / 32 % 4 * 8;
        said += payload.len() * usize::from(times);
        if let Some((deflater, to)) = &mut deflater
            && first & 0x40 != 0
            && kind & 4 != 0
        {
            let message = std::mem::take(&mut payload);
            deflater.compress(&message, &mut payload);
            if !to.keeps_context {
                deflater.reset();
            }
        }
        for _ in 0..times {
            frame(
                first,
                &payload,
                matches!(peer, Role::Client { .. }),
                &mut out,
            );
        }
    }
    out
}

fn frame(first: u8, payload: &[u8], masked: bool, out: &mut Vec<u8>) {
    let bit = if masked { 0x80 } else { 0 };
    out.push(first);
    match payload.len() {
        len @ 0..=125 => out.push(bit | len as u8),
        len @ 126..=0xFFFF => {
            out.push(bit | 126);
            out.extend((len as u16).to_be_bytes());
        }
        len => {
            out.push(bit | 127);
            out.extend((len as u64).to_be_bytes());
        }
    }
    if masked {
        // A mask that changes nothing, as masks take long here; other inputs have others.
        out.extend([0; 4]);
    }
    out.extend(payload);
}
