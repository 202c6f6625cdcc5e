//! One POST: the name is resolved once, its addresses checked and one of them used, no redirect followed, no proxy asked.
//!
//! http is 20 lines of our own. https is the system's `curl`, held to the checked addresses: it brings the system's
//! certificates and their updates, and this program has no TLS of its own to keep safe. All it is told goes through its
//! standard input, so that no secret stands in a command line.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::process::Command;
use tokio::time::timeout;

use super::url::{Address, check_public};

/// For all of it: name, connection, request, answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// For a connection to one of several addresses.
const CONNECT: Duration = Duration::from_secs(3);
/// Addresses of a name that are tried.
const ADDRESSES: usize = 3;
/// Bytes of an answer that are looked at for its status.
const STATUS: usize = 256;

/// Who asks.
const USER_AGENT: &str = concat!("Tallow/", env!("CARGO_PKG_VERSION"));

/// What is sent. No `Debug`: it has a secret.
pub struct Message<'m> {
    /// The same at every try of one thing: who gets it twice can tell.
    pub id: i64,
    /// What it tells of.
    pub event: &'m str,
    /// A header with a secret, or nothing.
    pub header: &'m str,
    /// JSON.
    pub body: &'m str,
}

/// Why nothing was answered; the text has no secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// One line.
    pub why: String,
    /// Whether another try may help.
    pub again: bool,
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self { why: error.to_string(), again: true }
    }
}

/// Sends once and gives the status of the answer.
///
/// # Errors
/// Where nothing was answered in time.
pub async fn send(address: &Address, message: &Message<'_>, private: bool) -> Result<u16, Refused> {
    let late =
        |_| Refused { why: format!("no answer within {} s", PATIENCE.as_secs()), again: true };
    timeout(PATIENCE, exchange(address, message, private)).await.map_err(late)?
}

async fn exchange(address: &Address, message: &Message<'_>, private: bool) -> Result<u16, Refused> {
    let found = resolve(address, private).await?;
    if address.secure {
        curl(address, &found, message).await
    } else {
        plain(address, &found, message).await
    }
}

/// The addresses of a name; all of them are checked.
async fn resolve(address: &Address, private: bool) -> Result<Vec<SocketAddr>, Refused> {
    let none = || Refused { why: "the host has no address".to_owned(), again: true };
    let found = lookup_host((address.host.as_str(), address.port)).await.map_err(|_| none())?;
    let mut found: Vec<SocketAddr> = found.collect();
    if !private {
        for one in &found {
            check_public(one.ip()).map_err(|why| Refused { why, again: false })?;
        }
    }
    found.truncate(ADDRESSES);
    if found.is_empty() { Err(none()) } else { Ok(found) }
}

/// Over http.
async fn plain(
    address: &Address,
    found: &[SocketAddr],
    message: &Message<'_>,
) -> Result<u16, Refused> {
    let mut last = Refused { why: "the host does not answer".to_owned(), again: true };
    for one in found {
        match timeout(CONNECT, TcpStream::connect(one)).await {
            Ok(Ok(stream)) => return converse(stream, &request(address, message)).await,
            Ok(Err(error)) => last = error.into(),
            Err(_) => {}
        }
    }
    Err(last)
}

/// Over https.
async fn curl(
    address: &Address,
    found: &[SocketAddr],
    message: &Message<'_>,
) -> Result<u16, Refused> {
    let mut child = Command::new("curl");
    // -q: nobody's .curlrc; the environment may name a proxy, and certificates, of which only those are wanted
    child.args(["-q", "--config", "-"]).env_clear().kill_on_drop(true);
    for name in ["PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE"] {
        child.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = child.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            let why = "https needs curl, and there is none on this machine".to_owned();
            Refused { why, again: false }
        }
        _ => error.into(),
    })?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(orders(address, found, message).as_bytes()).await?;
    }
    let output = child.wait_with_output().await?;
    let said = String::from_utf8_lossy(&output.stdout).trim().parse().ok();
    if let Some(status) = said.filter(|status| *status >= 200) {
        return Ok(status);
    }
    let code = output.status.code().unwrap_or_default();
    let why = match code {
        7 => "the host does not answer".to_owned(),
        28 => "no answer in time".to_owned(),
        35 => "the host does not speak TLS as we do".to_owned(),
        60 => "the host's certificate is not trusted here".to_owned(),
        _ => format!("curl ended with {code}"),
    };
    Err(Refused { why, again: code != 60 })
}

/// What curl is told.
fn orders(address: &Address, found: &[SocketAddr], message: &Message<'_>) -> String {
    let Message { id, event, header, body } = message;
    let (host, port) = (&address.host, address.port);
    let addresses: Vec<String> = found.iter().map(|one| bracketed(&one.ip().to_string())).collect();
    let held = format!("{host}:{port}:{}", addresses.join(","));
    let literal = host.parse::<IpAddr>().is_ok();
    let lines = [
        ("url", format!("https://{}{}", address.shown(), address.path)),
        ("resolve", if literal { String::new() } else { held }),
        ("proto", "=https".to_owned()),
        ("noproxy", "*".to_owned()),
        ("connect-timeout", CONNECT.as_secs().to_string()),
        ("max-time", (PATIENCE.as_secs() - 1).to_string()),
        ("user-agent", USER_AGENT.to_owned()),
        ("header", "Content-Type: application/json".to_owned()),
        ("header", format!("X-Tallow-Event: {event}")),
        ("header", format!("X-Tallow-Delivery: {id}")),
        ("header", "Expect:".to_owned()),
        ("header", (*header).to_owned()),
        ("data-binary", (*body).to_owned()),
        ("output", "/dev/null".to_owned()),
        ("write-out", "%{http_code}".to_owned()),
    ];
    let mut text = "silent\ngloboff\npath-as-is\n".to_owned();
    for (name, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
        let value = value.replace('\\', "\\\\").replace('"', "\\\"");
        text += &format!("{name} = \"{value}\"\n");
    }
    text
}

/// An IPv6 address in brackets.
fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

fn request(address: &Address, message: &Message<'_>) -> String {
    let Message { id, event, header, body } = message;
    let header = if header.is_empty() { String::new() } else { format!("{header}\r\n") };
    format!(
        "POST {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: {USER_AGENT}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nX-Tallow-Event: {event}\r\nX-Tallow-Delivery: {id}\r\n{header}\
         Connection: close\r\n\r\n{body}",
        address.path,
        address.shown(),
        body.len(),
    )
}

async fn converse(mut stream: TcpStream, request: &str) -> Result<u16, Refused> {
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    while status(&answer).is_none() && answer.len() < STATUS {
        let mut part = [0; STATUS];
        let count = stream.read(&mut part).await?;
        if count == 0 {
            break;
        }
        answer.extend(part.iter().take(count));
    }
    let odd = || Refused { why: "the answer is not HTTP".to_owned(), again: true };
    status(&answer).ok_or_else(odd)
}

/// The status in the first line of an answer; `None` where there is none yet.
fn status(answer: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(answer.get(..12)?).ok()?;
    let rest = text.strip_prefix("HTTP/1.1 ").or_else(|| text.strip_prefix("HTTP/1.0 "))?;
    rest.parse().ok().filter(|status| (200..600).contains(status))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn statuses() {
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\n", Some(200)),
            ("HTTP/1.0 404", Some(404)),
            ("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/", Some(302)),
            ("HTTP/1.1 20", None),
            ("HTTP/1.1 abc OK", None),
            ("HTTP/1.1 999 OK", None),
            ("SSH-2.0-OpenSSH", None),
            ("", None),
        ] {
            assert_eq!(status(answer.as_bytes()), expected, "{answer}");
        }
    }

    /// What a listener got that answers with `answer` to a request for `url`, and what came of it.
    async fn sent(answer: &'static str, private: bool) -> (String, Result<u16, Refused>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut got = vec![0; 4096];
            let count = stream.read(&mut got).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(got.get(..count).unwrap()).into_owned()
        };
        let address = Address::parse(&format!("http://localhost:{port}/x?y"), true).unwrap();
        let message = Message { id: 7, event: "nan", header: "X-Key: k", body: "{}" };
        let ask = send(&address, &message, private);
        if !private {
            return (String::new(), ask.await);
        }
        tokio::join!(serve, ask)
    }

    #[tokio::test]
    async fn a_request_and_its_answer() {
        let (got, outcome) = sent("HTTP/1.1 204 No Content\r\n\r\n", true).await;
        assert_eq!(outcome, Ok(204));
        for part in [
            "POST /x?y HTTP/1.1\r\n",
            "Host: localhost:",
            "X-Key: k\r\n",
            "Content-Length: 2\r\n",
            "X-Tallow-Event: nan\r\n",
            "X-Tallow-Delivery: 7\r\n",
            "\r\n\r\n{}",
        ] {
            assert!(got.contains(part), "{part}: {got}");
        }
        let (_, outcome) = sent("SSH-2.0-OpenSSH_9\r\n", true).await;
        assert_eq!(outcome.unwrap_err().why, "the answer is not HTTP");
    }

    #[tokio::test]
    async fn a_name_that_leads_home_is_refused() {
        let (_, outcome) = sent("", false).await;
        let refused = outcome.unwrap_err();
        assert!(refused.why.contains("not a public address") && !refused.again, "{}", refused.why);
    }

    #[test]
    fn what_curl_is_told() {
        let address = Address::parse("https://a.test:8443/x%20y?\"", false).unwrap();
        let found = ["192.0.2.1:8443".parse().unwrap(), "[2001:db8::1]:8443".parse().unwrap()];
        let message = Message {
            id: 7,
            event: "nan",
            header: "X-Key: a\\b",
            body: r#"{"a": "\n \" @/etc/passwd"}"#,
        };
        let text = orders(&address, &found, &message);
        for line in [
            r#"url = "https://a.test:8443/x%20y?\"""#,
            r#"resolve = "a.test:8443:192.0.2.1,[2001:db8::1]""#,
            r#"proto = "=https""#,
            r#"header = "X-Key: a\\b""#,
            r#"data-binary = "{\"a\": \"\\n \\\" @/etc/passwd\"}""#,
        ] {
            assert!(text.lines().any(|one| one == line), "{line}: {text}");
        }
        let bare = orders(&address, &found, &Message { header: "", ..message });
        assert!(!bare.contains("header = \"\""), "{bare}");
    }

    #[tokio::test]
    async fn nobody_there() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let address = Address::parse(&format!("http://127.0.0.1:{port}/"), true).unwrap();
        let message = Message { id: 1, event: "nan", header: "", body: "{}" };
        let refused = send(&address, &message, true).await.unwrap_err();
        assert!(refused.again, "{}", refused.why);
    }
}
