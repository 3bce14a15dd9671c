//! Who made a connection or a request.

use std::fmt;
use std::net::IpAddr;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAddress {
    Ip(IpAddr),
    /// A process of this machine, by a Unix socket.
    Unix,
}

impl ClientAddress {
    pub fn ip(self) -> Option<IpAddr> {
        match self {
            ClientAddress::Ip(address) => Some(address),
            ClientAddress::Unix => None,
        }
    }
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientAddress::Ip(address) => address.fmt(formatter),
            ClientAddress::Unix => formatter.write_str("unix"),
        }
    }
}
