//! What `tallow serve` is told: validated once, passed by reference.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// The server's settings.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Address to bind; anything but loopback asks for the token.
    pub host: IpAddr,
    /// Port; 0 = any free one.
    pub port: u16,
    /// The data folder: database, runs, token.
    pub data_dir: PathBuf,
    /// Folders besides the data folder from which runs may read models and data sets.
    pub allow_paths: Vec<PathBuf>,
    /// The address people use when a proxy stands in front.
    pub public_url: Option<PublicUrl>,
    /// The part of the address that a proxy gives to this server: `/tuner`; empty = all of it.
    pub base_path: String,
    /// How many runs train at a time.
    pub workers: usize,
    /// Webhooks may go to this machine and its network, and over http.
    pub private_webhooks: bool,
    /// The executable that runs `worker RUN_DIR`; the same one as the server's unless a test says otherwise.
    pub worker_bin: PathBuf,
}

impl ServerConfig {
    /// The settings of a plain `tallow serve` on `data_dir`.
    #[must_use]
    pub fn new(data_dir: PathBuf) -> Self {
        Self {
            host: IpAddr::from([127, 0, 0, 1]),
            port: 7860,
            data_dir,
            allow_paths: Vec::new(),
            public_url: None,
            base_path: String::new(),
            workers: 1,
            private_webhooks: false,
            worker_bin: PathBuf::from("/proc/self/exe"),
        }
    }

    /// Where to listen.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.host, self.port)
    }

    /// True where every page and endpoint but /healthz asks for the token.
    #[must_use]
    pub fn wants_token(&self) -> bool {
        !self.host.is_loopback()
    }
}

/// Scheme and authority of `--public-url`, lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl {
    /// `https://tune.example.org:8443`: what a browser sends as Origin.
    pub origin: String,
    /// `tune.example.org:8443`: what a browser sends as Host.
    pub authority: String,
}

impl std::str::FromStr for PublicUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not an address like https://tune.example.org");
        let lower = text.trim().trim_end_matches('/').to_ascii_lowercase();
        let (scheme, authority) = lower.split_once("://").ok_or_else(wrong)?;
        let plain = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
        if !matches!(scheme, "http" | "https")
            || authority.is_empty()
            || !authority.chars().all(plain)
        {
            return Err(wrong());
        }
        // browsers leave out the port that the scheme implies
        let implied = if scheme == "https" { ":443" } else { ":80" };
        let authority = authority.strip_suffix(implied).unwrap_or(authority).to_owned();
        Ok(Self { origin: format!("{scheme}://{authority}"), authority })
    }
}

/// `--base-path` as it is used: `/tuner`, or nothing for `/`.
///
/// # Errors
/// One line for the user where it is no path.
pub fn base_path(text: &str) -> Result<String, String> {
    let path = text.trim().trim_end_matches('/');
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.~/".contains(c);
    let whole = path.is_empty() || path.starts_with('/');
    if !whole || path.contains("//") || path.contains("..") || !path.chars().all(plain) {
        return Err(format!("`{text}` is not a path like /tuner"));
    }
    Ok(path.to_owned())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn base_paths() {
        for (text, expected) in [
            ("/", Ok("")),
            ("", Ok("")),
            ("/tuner/", Ok("/tuner")),
            ("/a/b-c", Ok("/a/b-c")),
            ("tuner", Err(())),
            ("//evil", Err(())),
            ("/a/../b", Err(())),
            ("/\"><script>", Err(())),
        ] {
            let got = base_path(text).map_err(|_| ());
            assert_eq!(got.as_deref().map_err(|_| ()), expected, "{text}");
        }
    }

    #[test]
    fn public_urls() {
        let parse = |text: &str| text.parse::<PublicUrl>().map(|url| (url.origin, url.authority));
        let ok = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            parse("https://Tune.example.org/").unwrap(),
            ok("https://tune.example.org", "tune.example.org")
        );
        assert_eq!(parse("http://a.b:8080").unwrap(), ok("http://a.b:8080", "a.b:8080"));
        assert_eq!(parse("https://a.b:443").unwrap(), ok("https://a.b", "a.b"));
        for wrong in ["", "a.b", "ftp://a", "http://", "http://a/b", "http://u@a"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
