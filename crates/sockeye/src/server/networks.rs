//! Addresses and networks that are trusted to say who is behind them.

use std::{fmt, net::IpAddr, str::FromStr, sync::Arc};

use crate::{
    Error, Result,
    address::{bits, masked},
};

/// A list of addresses and networks: `10.0.0.0/8, 192.0.2.7, fd00::/8`.
///
/// The word `unix` stands for clients of Unix sockets, which have no address: of a [`Server`](crate::Server) on
/// one, and of a `UnixStream` of tokio's that [`Acceptor::accept`](crate::Acceptor::accept) is given; not for another
/// stream without an address. An IPv4 address is the same within IPv6 (`::ffff:192.0.2.7`).
///
/// ```
/// # use sockeye::server::Networks;
/// let proxies: Networks = "10.0.0.0/8, fd00::/8, unix".parse()?;
/// assert!("10.0.0.0/33".parse::<Networks>().is_err());
/// # Ok::<(), sockeye::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Networks {
    list: Arc<[Network]>,
    unix: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Network {
    /// The bits beyond the prefix are zero.
    address: IpAddr,
    prefix: u8,
}

impl Networks {
    /// Whether what comes from there comes from one of them.
    pub(super) fn contain(&self, source: Source) -> bool {
        match source {
            Source::Ip(address) => {
                let address = address.to_canonical();
                self.list.iter().any(|network| network.contains(address))
            }
            Source::Unix => self.unix,
            Source::Unknown => false,
        }
    }
}

/// Where a connection comes from. What has no address need not be a Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Ip(IpAddr),
    Unix,
    Unknown,
}

impl Network {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let Ok(address) = address.parse::<IpAddr>() else {
            return Err("it is no address, as 192.0.2.7 or 2001:db8::7");
        };
        let address = address.to_canonical();
        let bits = bits(address);
        let prefix = match prefix {
            None => bits,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().unwrap_or(u8::MAX)
            }
            Some(_) => u8::MAX,
        };
        if prefix > bits {
            return Err("what follows the slash is a number of bits: up to 32, or 128 for IPv6");
        }
        if masked(address, prefix) != address {
            return Err("there are bits beyond those of the network; write them as zero");
        }
        Ok(Self { address, prefix })
    }

    fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && masked(address, self.prefix) == self.address
    }
}

impl FromStr for Networks {
    type Err = Error;

    /// Reads a list with commas or white space between.
    ///
    /// # Errors
    /// [`Error::Setup`], which names what is wrong.
    fn from_str(text: &str) -> Result<Self> {
        let (mut list, mut unix) = (Vec::new(), false);
        for entry in text
            .split([',', ' ', '\t', '\n'])
            .filter(|entry| !entry.is_empty())
        {
            if entry == "unix" {
                unix = true;
                continue;
            }
            match Network::parse(entry) {
                Ok(network) => list.push(network),
                Err(why) => {
                    let why = format!("{entry:?} is no address or network: {why}");
                    return Err(Error::Setup(why.into()));
                }
            }
        }
        Ok(Self {
            list: list.into(),
            unix,
        })
    }
}

impl From<IpAddr> for Networks {
    fn from(address: IpAddr) -> Self {
        let address = address.to_canonical();
        let prefix = bits(address);
        Self {
            list: Arc::new([Network { address, prefix }]),
            unix: false,
        }
    }
}

/// As it is read.
impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        for Network { address, prefix } in &*self.list {
            write!(f, "{between}{address}/{prefix}")?;
            between = ", ";
        }
        if self.unix {
            write!(f, "{between}unix")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Networks({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_and_what_is_not() {
        let networks: Networks = "10.0.0.0/8,192.0.2.7 ::1, fd00::/8".parse().unwrap();
        for (address, inside) in [
            ("10.255.0.1", true),
            ("11.0.0.0", false),
            ("192.0.2.7", true),
            ("192.0.2.6", false),
            ("::ffff:10.0.0.1", true),
            ("::1", true),
            ("::2", false),
            ("fdff::1", true),
            ("fe00::1", false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(networks.contain(Source::Ip(address)), inside, "{address}");
        }
        assert!(!networks.contain(Source::Unix));
        assert_eq!(
            networks.to_string(),
            "10.0.0.0/8, 192.0.2.7/32, ::1/128, fd00::/8"
        );
        assert_eq!(networks.to_string().parse::<Networks>().unwrap(), networks);
        let all: Networks = "0.0.0.0/0 ::/0 unix".parse().unwrap();
        assert!(all.contain(Source::Ip("198.51.100.1".parse().unwrap())));
        assert!(all.contain(Source::Ip("2001:db8::1".parse().unwrap())));
        assert!(all.contain(Source::Unix) && !all.contain(Source::Unknown));
        let none: Networks = "".parse().unwrap();
        let loopback = Source::Ip("::1".parse().unwrap());
        assert!(!none.contain(loopback) && !none.contain(Source::Unix));
    }

    #[test]
    fn what_is_no_network_is_told() {
        for text in [
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.1/8",
            "::1/129",
            "fd00::1/8",
            "example.com",
            "10.0.0",
            "10.0.0.0/8/8",
            "10.0.0.0/999",
        ] {
            let error = text.parse::<Networks>().unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
        }
    }
}
