//! What the address of a webhook may be, and to which machines it may lead.
//!
//! A name is resolved once and that address used; one that is this machine's or its network's is refused, whatever
//! the name, unless the server was started with --private-webhooks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest address.
const LONGEST: usize = 2000;

/// A parsed address. No `Debug`: a path can be a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// https.
    pub secure: bool,
    /// Name or IP, without brackets, lower case.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path and query, as they are sent.
    pub path: String,
}

impl Address {
    /// Reads an address; `private` allows http and the machine's own network.
    ///
    /// # Errors
    /// One line without the address in it.
    pub fn parse(text: &str, private: bool) -> Result<Self, String> {
        let wrong = || "must be an address like https://hooks.example.org/path".to_owned();
        if text.len() > LONGEST || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong());
        }
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" if private => false,
            "http" => {
                return Err("must be https (http is for --private-webhooks)".to_owned());
            }
            _ => return Err(wrong()),
        };
        let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if path.contains('#') || path.starts_with('\\') {
            return Err(wrong());
        }
        let (host, port) = split(authority).ok_or_else(wrong)?;
        let port = port.unwrap_or(if secure { 443 } else { 80 });
        if let Ok(ip) = host.parse::<IpAddr>()
            && !private
        {
            check_public(ip)?;
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { secure, host, port, path })
    }

    /// The host as it is shown, with a port that is not the usual one.
    #[must_use]
    pub fn shown(&self) -> String {
        let usual = if self.secure { 443 } else { 80 };
        let host =
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == usual { host } else { format!("{host}:{}", self.port) }
    }
}

/// Host (without brackets, lower case) and port.
fn split(authority: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (inside, tail) = rest.split_once(']')?;
            inside.parse::<Ipv6Addr>().ok()?;
            (
                inside,
                tail.strip_prefix(':')
                    .map_or(tail.is_empty().then_some(None), |port| Some(Some(port)))?,
            )
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_:".contains(c);
    if host.is_empty() || host.len() > 253 || !host.chars().all(plain) {
        return None;
    }
    let port = match port {
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(digits.parse().ok().filter(|port| *port > 0)?)
        }
        Some(_) => return None,
        None => None,
    };
    Some((host.to_ascii_lowercase(), port))
}

/// An error where an address is not one of the public network.
///
/// # Errors
/// One line with the remedy.
pub fn check_public(ip: IpAddr) -> Result<(), String> {
    let public = match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    };
    if public {
        return Ok(());
    }
    Err(format!(
        "{ip} is not a public address; start the server with --private-webhooks to allow it"
    ))
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let kept = match (a, b, c) {
        (0 | 10 | 127 | 224.., ..) => true,
        (100, 64..=127, _) => true, // between carriers and customers
        (169, 254, _) => true,      // link-local, and where clouds keep their secrets
        (172, 16..=31, _) | (192, 168, _) => true,
        (192, 0, 0 | 2) | (192, 88, 99) => true,
        (198, 18 | 19, _) | (198, 51, 100) | (203, 0, 113) => true,
        _ => false,
    };
    !kept
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let part = ip.segments();
    let [.., high, low] = part;
    let embedded = |high: u16, low: u16| {
        is_public_v4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)))
    };
    match part {
        [0, 0, 0, 0, 0, 0xffff, ..] => embedded(high, low),
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => embedded(high, low),
        [0x2002, high, low, ..] => embedded(high, low),
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, ..] => false,
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

/// An error where a header is not `Name: value`, or one that the request has itself.
///
/// # Errors
/// One line without the header in it.
pub fn check_header(line: &str) -> Result<(), &'static str> {
    if line.is_empty() {
        return Ok(());
    }
    let Some((name, value)) = line.split_once(':') else {
        return Err("must be like `Authorization: Bearer ...`");
    };
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let value = value.trim();
    let plain = value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    if name.is_empty()
        || !name.bytes().all(token)
        || value.is_empty()
        || !plain
        || line.len() > 2000
    {
        return Err("must be like `Authorization: Bearer ...`");
    }
    let own = [
        "host",
        "content-length",
        "content-type",
        "connection",
        "transfer-encoding",
        "user-agent",
        "expect",
        "te",
        "trailer",
        "upgrade",
    ];
    if own.iter().any(|own| name.eq_ignore_ascii_case(own)) {
        return Err("must not be one that the request has itself");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let check = |text: &str, private: bool, expected: Option<(&str, u16, &str, &str)>| {
            let got = Address::parse(text, private).ok();
            let got =
                got.as_ref().map(|it| (it.host.as_str(), it.port, it.path.as_str(), it.shown()));
            let expected =
                expected.map(|(host, port, path, shown)| (host, port, path, shown.to_owned()));
            assert_eq!(got, expected, "{text} {private}");
        };
        check("https://a.test", false, Some(("a.test", 443, "/", "a.test")));
        check("HTTPS://A.test:8443/x?y=z", false, Some(("a.test", 8443, "/x?y=z", "a.test:8443")));
        check("https://a.test?y", false, Some(("a.test", 443, "/?y", "a.test")));
        check("https://8.8.8.8/", false, Some(("8.8.8.8", 443, "/", "8.8.8.8")));
        check(
            "https://[2606:4700::1]:9/",
            false,
            Some(("2606:4700::1", 9, "/", "[2606:4700::1]:9")),
        );
        check("http://127.0.0.1:9/x", true, Some(("127.0.0.1", 9, "/x", "127.0.0.1:9")));
        for (text, private) in [
            ("http://a.test", false),
            ("https://127.0.0.1/", false),
            ("https://[::1]/", false),
            ("https://169.254.169.254/latest/meta-data", false),
            ("https://u:p@a.test/", true),
            ("https://a.test@127.0.0.1/", true),
            ("https://a.test\\@b.test/", true),
            ("https://a.test/#x", true),
            ("https://", true),
            ("https:///x", true),
            ("https://a.test:0/", true),
            ("https://a.test:99999/", true),
            ("https://a.test:/", true),
            ("https://a.test:8x/", true),
            ("https://[::1/", true),
            ("https://[::1]x/", true),
            ("https://a b/", true),
            ("https://a.test/\r\nX: y", true),
            ("https://ä.test/", true),
            ("ftp://a.test/", true),
            ("file:///etc/passwd", true),
            ("gopher://a.test/", true),
            ("a.test", true),
            ("", true),
        ] {
            check(text, private, None);
        }
        check(&format!("https://a.test/{}", "x".repeat(2000)), true, None);
    }

    #[test]
    fn public_addresses() {
        for (text, expected) in [
            ("8.8.8.8", true),
            ("100.63.0.1", true),
            ("172.32.0.1", true),
            ("192.0.1.1", true),
            ("223.255.255.1", true),
            ("2606:4700::1111", true),
            ("::ffff:8.8.8.8", true),
            ("64:ff9b::808:808", true),
            ("2002:808:808::1", true),
            ("0.0.0.0", false),
            ("10.0.0.1", false),
            ("100.64.0.1", false),
            ("127.0.0.1", false),
            ("127.255.255.254", false),
            ("169.254.169.254", false),
            ("172.16.0.1", false),
            ("172.31.255.255", false),
            ("192.168.1.1", false),
            ("192.0.0.8", false),
            ("198.18.0.1", false),
            ("203.0.113.9", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("::", false),
            ("::1", false),
            ("::127.0.0.1", false),
            ("fe80::1", false),
            ("fc00::1", false),
            ("fd12::1", false),
            ("ff02::1", false),
            ("2001:db8::1", false),
            ("2001::1", false),
            ("::ffff:127.0.0.1", false),
            ("::ffff:169.254.169.254", false),
            ("64:ff9b::7f00:1", false),
            ("64:ff9b:1::1", false),
            ("2002:7f00:1::1", false),
            ("2002:a9fe:a9fe::", false),
        ] {
            let got = text.parse().map(|ip| check_public(ip).is_ok());
            assert_eq!(got, Ok(expected), "{text}");
        }
    }

    #[test]
    fn headers() {
        for (line, expected) in [
            ("", true),
            ("Authorization: Bearer abc", true),
            ("X-Key:abc", true),
            ("X-Key:", false),
            ("X-Key", false),
            (": abc", false),
            ("X Key: abc", false),
            ("X-Key: a\r\nY: b", false),
            ("X-Key: ä", false),
            ("Host: a", false),
            ("content-LENGTH: 1", false),
            ("Transfer-Encoding: chunked", false),
        ] {
            assert_eq!(check_header(line).is_ok(), expected, "{line}");
        }
    }
}
