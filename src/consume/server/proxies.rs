//! The client's address behind reverse proxies.
//!
//! Only the headers of a trusted proxy are believed, and of them only the rightmost address that is not another trusted
//! proxy's: anyone may have written what stands to the left of it.

use std::net::IpAddr;

use hyper::header::{FORWARDED, HeaderMap, HeaderName};

use crate::consume::client_address::ClientAddress;
use crate::core::network::TrustedProxy;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

pub struct TrustedProxies(pub Vec<TrustedProxy>);

impl TrustedProxies {
    pub fn include(&self, peer: ClientAddress) -> bool {
        self.0.iter().any(|proxy| match (proxy, peer) {
            (TrustedProxy::Network(network), ClientAddress::Ip(address)) => network.contains(address),
            (TrustedProxy::Unix, ClientAddress::Unix) => true,
            _ => false,
        })
    }

    /// The client by `Forwarded` (RFC 7239) or `X-Forwarded-For`, or else the proxy. A proxy writes one of the two and
    /// forwards the other as its client has sent it: if they differ, neither is believed.
    pub fn client_of(&self, proxy: ClientAddress, headers: &HeaderMap) -> ClientAddress {
        let forwarded = self.claim(headers, &FORWARDED, forwarded_nodes);
        let x_forwarded_for = self.claim(headers, &X_FORWARDED_FOR, |value| value.split(',').collect());
        let client = match (forwarded, x_forwarded_for) {
            (Some(client), None) | (None, Some(client)) => client,
            (Some(client), Some(other)) if client == other => client,
            _ => None,
        };
        client.map_or(proxy, ClientAddress::Ip)
    }

    /// The client by one header; `None` without such a header, `Some(None)` where it names no address.
    fn claim(
        &self,
        headers: &HeaderMap,
        name: &HeaderName,
        nodes: impl Fn(&str) -> Vec<&str>,
    ) -> Option<Option<IpAddr>> {
        let mut values = headers.get_all(name).iter().peekable();
        values.peek()?;
        let values: Option<Vec<&str>> = values.map(|value| value.to_str().ok()).collect();
        let nodes: Option<Vec<&str>> = values.map(|values| values.into_iter().flat_map(nodes).collect());
        Some(nodes.and_then(|nodes| self.nearest(&nodes)))
    }

    /// The last node that is no trusted proxy; if all are, the first.
    fn nearest(&self, nodes: &[&str]) -> Option<IpAddr> {
        let mut nearest = None;
        for node in nodes.iter().rev() {
            // Nothing beyond a hidden node can be believed.
            let Some(address) = address_of(node) else { break };
            nearest = Some(address);
            if !self.include(ClientAddress::Ip(address)) {
                break;
            }
        }
        nearest
    }
}

/// The values of `for` (RFC 7239, section 4); empty where an element has none.
fn forwarded_nodes(value: &str) -> Vec<&str> {
    let node_of = |element| {
        let pairs = split_unquoted(element, b';').into_iter().filter_map(|pair| pair.split_once('='));
        let mut nodes = pairs.filter(|(name, _)| name.trim().eq_ignore_ascii_case("for"));
        nodes.next().map_or("", |(_, node)| node)
    };
    split_unquoted(value, b',').into_iter().map(node_of).collect()
}

/// Splits where a separator is not inside of a quoted string (RFC 9110, section 5.6.4).
fn split_unquoted(text: &str, separator: u8) -> Vec<&str> {
    let (mut parts, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if byte == separator && !quoted => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// The address of a node, which may have quotes, brackets and a port; none if it is `unknown` or obfuscated.
fn address_of(node: &str) -> Option<IpAddr> {
    let node = node.trim();
    let node = node.strip_prefix('"').and_then(|node| node.strip_suffix('"')).unwrap_or(node);
    let address = match node.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        // IPv4 has no colon but that of a port; IPv6 has at least two.
        None if node.matches(':').count() == 1 => node.split_once(':')?.0,
        None => node,
    };
    address.parse().ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    const PROXY: &str = "10.0.0.1";

    /// The client of a request that the proxy forwards with these headers.
    fn client(headers: &[(&str, &str)]) -> String {
        let proxies = ["10.0.0.0/8", "2001:db8::/32"].map(|network| network.parse().unwrap());
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: HeaderName = name.parse().unwrap();
            map.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let proxy = ClientAddress::Ip(PROXY.parse().unwrap());
        TrustedProxies(proxies.to_vec()).client_of(proxy, &map).to_string()
    }

    #[test]
    fn the_nearest_address_that_is_no_trusted_proxy_is_the_client() {
        for (value, expected) in [
            ("192.0.2.1", "192.0.2.1"),
            ("198.51.100.9, 192.0.2.1", "192.0.2.1"),
            ("198.51.100.9,192.0.2.1 , 10.7.7.7,10.1.1.1", "192.0.2.1"),
            ("192.0.2.1:4711", "192.0.2.1"),
            ("2001:db9::7", "2001:db9::7"),
            ("[2001:db9::7]:4711", "2001:db9::7"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            // All are trusted proxies.
            ("10.9.9.9, 10.1.1.1", "10.9.9.9"),
            // Behind a hidden node or what is no address, the proxy itself counts.
            ("unknown", PROXY),
            ("192.0.2.1, unknown", PROXY),
            ("192.0.2.1, unknown, 10.1.1.1", "10.1.1.1"),
            ("", PROXY),
            ("192.0.2.1,", PROXY),
            ("192.0.2.1 192.0.2.2", PROXY),
            ("évil", PROXY),
        ] {
            assert_eq!(client(&[("x-forwarded-for", value)]), expected, "{value}");
        }
        assert_eq!(client(&[]), PROXY);
        let lines = [("x-forwarded-for", "198.51.100.9"), ("x-forwarded-for", "192.0.2.1")];
        assert_eq!(client(&lines), "192.0.2.1");
    }

    #[test]
    fn forwarded_is_read_as_its_rfc_writes_it() {
        for (value, expected) in [
            ("for=192.0.2.1", "192.0.2.1"),
            ("For=\"192.0.2.1:4711\";proto=https;by=203.0.113.43", "192.0.2.1"),
            ("by=x;for=192.0.2.1", "192.0.2.1"),
            ("for=198.51.100.9, for=192.0.2.1, for=10.1.1.1", "192.0.2.1"),
            ("for=\"[2001:db9::17]:4711\", For=\"[2001:db8:cafe::17]\"", "2001:db9::17"),
            ("host=\"a,for=198.51.100.9\";for=192.0.2.1", "192.0.2.1"),
            ("host=\"\\\",for=198.51.100.9\";for=192.0.2.1", "192.0.2.1"),
            ("for=_hidden", PROXY),
            ("for=192.0.2.1, proto=https", PROXY),
            ("for=\"192.0.2.1", PROXY),
        ] {
            assert_eq!(client(&[("forwarded", value)]), expected, "{value}");
        }
    }

    #[test]
    fn of_two_headers_that_differ_neither_is_believed() {
        let both =
            |forwarded, x_forwarded| client(&[("forwarded", forwarded), ("x-forwarded-for", x_forwarded)]);
        assert_eq!(both("for=192.0.2.1", "192.0.2.1"), "192.0.2.1");
        assert_eq!(both("for=192.0.2.1", "192.0.2.2"), PROXY);
        assert_eq!(both("for=_hidden", "192.0.2.2"), PROXY);
        assert_eq!(both("for=192.0.2.1", "unknown"), PROXY);
    }
}
