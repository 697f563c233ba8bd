//! The address of a peer, in half of the room that the standard library takes; the network of one.

use std::{
    fmt,
    net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6},
};

/// The address of a peer, for as long as the connection is open: one of IPv4 takes no more than two pointers.
#[derive(Clone)]
pub(crate) enum Address {
    V4(SocketAddrV4),
    /// One of IPv4, as a socket for both families tells it.
    Mapped(SocketAddrV4),
    V6(Box<SocketAddrV6>),
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(v4) => Self::V4(v4),
            SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
                Some(ip) if v6.flowinfo() == 0 && v6.scope_id() == 0 => {
                    Self::Mapped(SocketAddrV4::new(ip, v6.port()))
                }
                _ => Self::V6(Box::new(v6)),
            },
        }
    }
}

impl From<&Address> for SocketAddr {
    fn from(address: &Address) -> Self {
        match address {
            Address::V4(v4) => (*v4).into(),
            Address::Mapped(v4) => (v4.ip().to_ipv6_mapped(), v4.port()).into(),
            Address::V6(v6) => (**v6).into(),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::from(self).fmt(f)
    }
}

/// How many bits an address has.
pub(crate) const fn bits(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// The network of an address: its first bits, as many as that has at most.
pub(crate) fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    let beyond = u32::from(bits(address).saturating_sub(prefix));
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(beyond).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(beyond).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_told_as_it_was() {
        let all = [
            "192.0.2.1:1",
            "[::ffff:192.0.2.1]:65535",
            "[2001:db8::1]:2",
            "[fe80::1%3]:4",
            "[::ffff:192.0.2.1%3]:5",
        ];
        for address in all.map(|text| text.parse().unwrap()) {
            assert_eq!(SocketAddr::from(&Address::from(address)), address);
        }
        let flow = SocketAddrV6::new("2001:db8::1".parse().unwrap(), 1, 2, 3).into();
        assert_eq!(SocketAddr::from(&Address::from(flow)), flow);
        assert!(size_of::<Option<Address>>() <= 2 * size_of::<usize>());
    }
}
