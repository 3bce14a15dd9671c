//! The name that a mail client gives to its server.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use lettre::transport::smtp::extension::ClientId;

/// The argument of HELO and EHLO (RFC 5321, section 4.1.1.1): a domain, or an address literal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello(ClientId);

impl Hello {
    /// This machine's fully qualified name, or `[127.0.0.1]` where it has none: servers refuse an unqualified name.
    pub fn of_this_machine() -> Hello {
        let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
        let qualified = match ClientId::default() {
            ClientId::Domain(name) => qualified(&name, &hosts).and_then(|name| name.parse().ok()),
            _ => None,
        };
        qualified.unwrap_or(Hello(ClientId::Ipv4(Ipv4Addr::LOCALHOST)))
    }
}

impl FromStr for Hello {
    type Err = String;

    fn from_str(text: &str) -> Result<Hello, String> {
        let literal = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        let client = match literal {
            Some(literal) => match literal.strip_prefix("IPv6:") {
                Some(address) => address.parse().ok().map(|address: Ipv6Addr| ClientId::Ipv6(address)),
                None => literal.parse().ok().map(|address: Ipv4Addr| ClientId::Ipv4(address)),
            },
            None => is_domain(text).then(|| ClientId::Domain(text.to_owned())),
        };
        let expected =
            "expected a name such as `mail.example.com`, or an address literal such as `[192.0.2.1]`";
        client.map(Hello).ok_or_else(|| expected.to_owned())
    }
}

fn is_domain(text: &str) -> bool {
    let is_label = |label: &str| {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        (1..=63).contains(&label.len()) && label.bytes().all(is_part)
    };
    text.len() <= 255 && text.split('.').all(is_label)
}

/// The fully qualified form of a host name, from the name itself or from `/etc/hosts`.
fn qualified(name: &str, hosts: &str) -> Option<String> {
    if name.contains('.') {
        return Some(name.to_owned());
    }
    let names = |line: &str| -> Vec<String> {
        let entry = line.split('#').next().unwrap_or_default();
        entry.split_whitespace().skip(1).map(str::to_owned).collect()
    };
    let mut of_name = hosts.lines().map(names).filter(|names| names.iter().any(|one| one == name));
    of_name.find_map(|names| names.into_iter().find(|name| name.contains('.')))
}

impl From<Hello> for ClientId {
    fn from(hello: Hello) -> ClientId {
        hello.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hello_is_a_domain_or_an_address_literal() {
        for text in ["mail.example.com", "bare", "[192.0.2.1]", "[IPv6:2001:db8::1]"] {
            assert_eq!(text.parse::<Hello>().unwrap().0.to_string(), text);
        }
        for wrong in ["", "a b", "a..b", ".", "192.0.2.1]", "[::1]", "[host]", "a\r\nMAIL FROM:<>"] {
            assert!(wrong.parse::<Hello>().unwrap_err().starts_with("expected a name"), "{wrong}");
        }
    }

    #[test]
    fn a_name_is_qualified_by_itself_or_by_the_hosts_file() {
        let hosts = "127.0.0.1 localhost\n192.0.2.1 web1.example.com web1 # web2\n192.0.2.2 web3\n";
        assert_eq!(qualified("a.example", hosts).as_deref(), Some("a.example"));
        assert_eq!(qualified("web1", hosts).as_deref(), Some("web1.example.com"));
        assert_eq!(qualified("web2", hosts), None);
        assert_eq!(qualified("web3", hosts), None);
    }
}
