//! Refusals as a server writes them.

use std::{io, time::SystemTime};

use httpdate::fmt_http_date;
use sockeye_proto::handshake::Refusal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::stream::Stream;

/// As it travels, with the time, which every answer has (RFC 9110 §6.6.1); without its text where the request `is_head`.
pub(crate) fn to_bytes(refusal: &Refusal, is_head: bool) -> Vec<u8> {
    let dated = refusal.clone().header("Date", &now());
    let refusal = dated.as_ref().unwrap_or(refusal);
    match is_head {
        true => refusal.to_head(),
        false => refusal.to_bytes(),
    }
}

/// Writes the last that a client is told, and reads up to `most` bytes of what still comes: what nobody has read
/// would reset the connection when it is closed, and the client might never see why.
pub(crate) async fn write_last(stream: &mut Stream, bytes: &[u8], most: u64) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(most), &mut tokio::io::sink()).await?;
    Ok(())
}

/// What a client is told that asks for a WebSocket which nobody has time for (RFC 9110 §15.6.4).
#[cfg(feature = "hyper")]
pub(crate) fn ending() -> Refusal {
    let refusal = Refusal::new(503, "the server ends, or has too much to do\n");
    let again = refusal.clone().header("Retry-After", "1");
    // Only a name that is reserved would be refused.
    again.unwrap_or(refusal)
}

/// The time, for `Date`.
pub(crate) fn now() -> String {
    fmt_http_date(SystemTime::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_the_time() {
        let refusal = Refusal::new(403, "no\n");
        for is_head in [true, false] {
            let answer = String::from_utf8(to_bytes(&refusal, is_head)).unwrap();
            let (head, text) = answer.split_once("\r\n\r\n").unwrap();
            assert_eq!(text, if is_head { "" } else { "no\n" });
            let date = head.lines().find_map(|line| line.strip_prefix("Date: "));
            let date = httpdate::parse_http_date(date.unwrap()).unwrap();
            assert!(SystemTime::now().duration_since(date).unwrap().as_secs() < 60);
        }
    }
}
