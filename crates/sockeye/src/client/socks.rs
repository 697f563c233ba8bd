//! SOCKS version 5 as a client (RFC 1928), with a user name and a password (RFC 1929).

use std::net::IpAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    credentials::Credentials,
    proxy::{ProxyError, ProxyError::Malformed},
};
use crate::{Error, stream::Io};

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const USER_AND_PASSWORD: u8 = 2;
const NONE_ACCEPTABLE: u8 = 0xFF;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// Has the proxy connect to a host: an address, or a name that it resolves. Not a byte is read
/// past its answer.
///
/// # Errors
/// [`ProxyError`].
pub(super) async fn connect<S: Io>(
    stream: &mut S,
    credentials: Option<&Credentials>,
    host: &str,
    port: u16,
) -> Result<(), ProxyError> {
    // All that can be refused here is refused before the proxy is bothered.
    let request = request(host, port)?;
    let login = credentials.map(login).transpose()?;

    // §3.
    let methods: &[u8] = match login {
        None => &[VERSION, 1, NO_AUTHENTICATION],
        Some(_) => &[VERSION, 2, NO_AUTHENTICATION, USER_AND_PASSWORD],
    };
    send(stream, methods).await?;
    match (receive(stream).await?, &login) {
        ([VERSION, NO_AUTHENTICATION], _) => {}
        ([VERSION, USER_AND_PASSWORD], Some(login)) => {
            send(stream, login).await?;
            // RFC 1929 §2: any status but 0 refuses.
            let [_, status] = receive(stream).await?;
            if status != 0 {
                return Err(ProxyError::Credentials { given: true });
            }
        }
        ([VERSION, NONE_ACCEPTABLE], _) => {
            return Err(ProxyError::Credentials {
                given: login.is_some(),
            });
        }
        ([VERSION, _], _) => return Err(Malformed("it chose a method that was not offered")),
        _ => return Err(Malformed("it is not SOCKS 5")),
    }

    send(stream, &request).await?;
    // §6: the address that it connects from follows, which nobody needs.
    let [version, reply, _, kind] = receive(stream).await?;
    if version != VERSION {
        return Err(Malformed("its answer is not of SOCKS 5"));
    }
    if reply != 0 {
        return Err(ProxyError::Socks {
            target: format!("{host} port {port}").into(),
            reply,
        });
    }
    let address = match kind {
        IPV4 => 4,
        IPV6 => 16,
        NAME => usize::from(receive::<1, _>(stream).await?[0]),
        _ => return Err(Malformed("its answer has an address of no known type")),
    };
    let mut rest = [0; 255 + 2];
    stream
        .read_exact(&mut rest[..address + 2])
        .await
        .map_err(Error::lost)?;
    Ok(())
}

/// §4, §5.
fn request(host: &str, port: u16) -> Result<Vec<u8>, ProxyError> {
    let mut request = vec![VERSION, CONNECT, 0];
    match host.parse() {
        Ok(IpAddr::V4(address)) => {
            request.push(IPV4);
            request.extend(address.octets());
        }
        Ok(IpAddr::V6(address)) => {
            request.push(IPV6);
            request.extend(address.octets());
        }
        Err(_) => {
            request.push(NAME);
            push(&mut request, host.as_bytes())?;
        }
    }
    request.extend(port.to_be_bytes());
    Ok(request)
}

/// RFC 1929 §2.
fn login(credentials: &Credentials) -> Result<Vec<u8>, ProxyError> {
    let mut login = vec![1];
    push(&mut login, &credentials.user)?;
    push(&mut login, &credentials.password)?;
    Ok(login)
}

/// Appends a text behind its length, a byte.
fn push(bytes: &mut Vec<u8>, text: &[u8]) -> Result<(), ProxyError> {
    let Ok(len) = u8::try_from(text.len()) else {
        let problem = "SOCKS 5 takes names and passwords of at most 255 bytes";
        return Err(Error::Url(problem.into()).into());
    };
    bytes.push(len);
    bytes.extend(text);
    Ok(())
}

async fn send<S: Io>(stream: &mut S, bytes: &[u8]) -> Result<(), ProxyError> {
    stream.write_all(bytes).await.map_err(Error::lost)?;
    stream.flush().await.map_err(Error::lost)?;
    Ok(())
}

async fn receive<const N: usize, S: Io>(stream: &mut S) -> Result<[u8; N], ProxyError> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await.map_err(Error::lost)?;
    Ok(bytes)
}

/// What an answer means (§6).
pub(super) fn reply(code: u8) -> &'static str {
    match code {
        1 => "the proxy failed",
        2 => "the proxy's rules do not allow it",
        3 => "network unreachable",
        4 => "host unreachable",
        5 => "connection refused",
        6 => "TTL expired",
        7 => "the proxy does not know CONNECT",
        8 => "the proxy does not know this type of address",
        _ => "the proxy does not say why",
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    /// What comes of a proxy that answers with these bytes, whatever it is asked, and what it was
    /// asked.
    async fn answered(
        credentials: Option<Credentials>,
        host: &str,
        answer: &[u8],
    ) -> (Result<(), ProxyError>, Vec<u8>, Vec<u8>) {
        let (mut ours, mut theirs) = duplex(1024);
        theirs.write_all(answer).await.unwrap();
        theirs.shutdown().await.unwrap();
        let result = connect(&mut ours, credentials.as_ref(), host, 0x1F90).await;
        let mut left = Vec::new();
        ours.read_to_end(&mut left).await.unwrap();
        drop(ours);
        let mut asked = Vec::new();
        theirs.read_to_end(&mut asked).await.unwrap();
        (result, asked, left)
    }

    #[tokio::test]
    async fn rfc_1928_a_name_goes_to_the_proxy_and_nothing_behind_its_answer_is_read() {
        let answer = b"\x05\x00\x05\x00\x00\x01\x7F\x00\x00\x01\x00\x50later";
        let (result, asked, left) = answered(None, "a.example", answer).await;
        result.unwrap();
        assert_eq!(asked, b"\x05\x01\x00\x05\x01\x00\x03\x09a.example\x1F\x90");
        assert_eq!(left, b"later");
    }

    #[tokio::test]
    async fn rfc_1928_section_5_addresses_of_every_type() {
        let (result, asked, _) =
            answered(None, "127.0.0.1", b"\x05\x00\x05\x00\x00\x03\x02ab\x00\x50").await;
        result.unwrap();
        assert_eq!(
            asked,
            b"\x05\x01\x00\x05\x01\x00\x01\x7F\x00\x00\x01\x1F\x90"
        );
        let answer = [&b"\x05\x00\x05\x00\x00\x04"[..], &[0; 18]].concat();
        let (result, asked, _) = answered(None, "::1", &answer).await;
        result.unwrap();
        let request = [
            &b"\x05\x01\x00\x05\x01\x00\x04"[..],
            &[0; 15],
            b"\x01\x1F\x90",
        ]
        .concat();
        assert_eq!(asked, request);
    }

    #[tokio::test]
    async fn rfc_1929_credentials_are_sent_where_they_are_asked_for() {
        let known = || Some(Credentials::new("us", "pass"));
        let done = b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00";
        let (result, asked, _) =
            answered(known(), "a", &[b"\x05\x02\x01\x00", &done[..]].concat()).await;
        result.unwrap();
        assert!(
            asked.starts_with(b"\x05\x02\x00\x02\x01\x02us\x04pass\x05\x01"),
            "{asked:?}"
        );
        let (result, asked, _) = answered(known(), "a", &[b"\x05\x00", &done[..]].concat()).await;
        result.unwrap();
        assert!(asked.starts_with(b"\x05\x02\x00\x02\x05\x01"), "{asked:?}");
    }

    #[tokio::test]
    async fn every_way_to_be_refused_is_told_apart() {
        let known = || Some(Credentials::new("user", "secret"));
        for (credentials, answer, words) in [
            (None, &b"\x05\xFF"[..], "wants a user name"),
            (known(), b"\x05\xFF", "does not take the user name"),
            (known(), b"\x05\x02\x01\x01", "does not take the user name"),
            (None, b"\x05\x02", "not offered"),
            (known(), b"\x05\x01", "not offered"),
            (None, b"HTTP/1.1 400", "not SOCKS 5"),
            (None, b"\x05\x00\x04\x00\x00\x01", "not of SOCKS 5"),
            (None, b"\x05\x00\x05\x00\x00\x07", "no known type"),
            (None, b"\x05\x00\x05\x02\x00\x01", "rules do not allow"),
            (
                None,
                b"\x05\x00\x05\x05\x00\x01",
                "a port 8080: connection refused",
            ),
            (None, b"\x05\x00\x05\x63\x00\x01", "does not say why"),
            (None, b"\x05", "lost"),
            (None, b"\x05\x00\x05\x00\x00\x03\xFFshort", "lost"),
        ] {
            let (result, ..) = answered(credentials, "a", answer).await;
            let error = result.unwrap_err();
            assert!(error.to_string().contains(words), "{answer:?}: {error}");
            assert!(!format!("{error} {error:?}").contains("secret"));
        }
    }

    #[tokio::test]
    async fn what_is_too_long_is_not_sent() {
        let long = "a".repeat(256);
        let (result, asked, _) = answered(None, &long, b"").await;
        assert!(result.unwrap_err().to_string().contains("255"));
        assert_eq!(asked, b"");
        let credentials = Some(Credentials::new("a", long));
        assert!(answered(credentials, "a", b"").await.0.is_err());
    }
}
