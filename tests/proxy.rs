//! Behind a proxy of our own that buffers, has a part of the address only, breaks off and answers 503: what a page gets
//! is exact nevertheless, each event once.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use support::{Data, Server};

/// What the proxy does; shared with its threads.
#[derive(Default)]
struct Mood {
    /// Answers 503 and lets nothing through.
    down: AtomicBool,
    /// Breaks an answer off after so many bytes; 0 = never.
    cut: AtomicUsize,
    /// Requests that were answered with 503.
    refused: AtomicUsize,
}

/// Keeps an answer back until it is whole, as nginx does, unless the server asks it not to.
fn proxy(upstream: u16) -> (u16, Arc<Mood>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mood = Arc::new(Mood::default());
    let shared = mood.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, mood) = (stream.unwrap(), shared.clone());
            thread::spawn(move || pass(stream, upstream, &mood));
        }
    });
    (port, mood)
}

fn pass(mut client: TcpStream, upstream: u16, mood: &Mood) -> Option<()> {
    let mut request = Vec::new();
    let mut part = [0; 4096];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let count = client.read(&mut part).ok().filter(|count| *count > 0)?;
        request.extend(&part[..count]);
    }
    if mood.down.load(Ordering::SeqCst) {
        mood.refused.fetch_add(1, Ordering::SeqCst);
        client
            .write_all(b"HTTP/1.1 503 Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .ok()?;
        return None;
    }
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, upstream)).ok()?;
    server.set_read_timeout(Some(Duration::from_millis(20))).ok()?;
    server.write_all(&request).ok()?;
    let (mut kept, mut head, mut sent, mut live) = (Vec::new(), true, 0, false);
    let cut = mood.cut.load(Ordering::SeqCst);
    loop {
        if mood.down.load(Ordering::SeqCst) {
            return None; // what was open breaks off
        }
        match server.read(&mut part) {
            Ok(0) => break,
            Ok(count) => kept.extend(&part[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(_) => return None,
        }
        if head && kept.windows(4).any(|end| end == b"\r\n\r\n") {
            head = false;
            let text = String::from_utf8_lossy(&kept).to_ascii_lowercase();
            live = text.contains("x-accel-buffering: no");
        }
        if live {
            let room = if cut > 0 { cut - sent } else { usize::MAX };
            let now: Vec<u8> = kept.drain(..kept.len().min(room)).collect();
            sent += now.len();
            client.write_all(&now).ok()?;
            if sent == cut && cut > 0 {
                return None;
            }
        }
    }
    client.write_all(&kept).ok()
}

/// A page's side of the stream: frames are kept until the id comes and applied together, as stream.js does.
struct Page {
    port: u16,
    path: String,
    /// The last id that was applied.
    after: i64,
    /// Each point, line, checkpoint and sample that was applied.
    seen: Vec<(String, Value)>,
    over: bool,
}

impl Page {
    fn new(port: u16, path: String) -> Self {
        Self { port, path, after: 0, seen: Vec::new(), over: false }
    }

    /// Follows one connection until it ends or `enough`; the status of the answer.
    fn follow(&mut self, enough: impl Fn(&Self) -> bool) -> u16 {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        write!(
            stream,
            "GET {} HTTP/1.1\r\nHost: localhost:{}\r\nConnection: close\r\nLast-Event-ID: {}\r\n\r\n",
            self.path, self.port, self.after
        )
        .unwrap();
        let (mut status, mut kind, mut held) = (0, String::new(), Vec::new());
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            match line.split_once(' ') {
                Some(("HTTP/1.1", rest)) => status = rest[..3].parse().unwrap(),
                Some(("event:", rest)) => kind = rest.to_owned(),
                Some(("data:", rest)) => held.push((kind.clone(), rest.to_owned())),
                // a number that a cut shortened is no id: the line must be followed by an empty one
                Some(("id:", rest)) => kind = format!("id {rest}"),
                _ if line.is_empty() && kind.starts_with("id ") => {
                    self.apply(kind[3..].parse().unwrap(), &mut held);
                    kind.clear();
                }
                _ => {}
            }
            if enough(self) {
                break;
            }
        }
        status
    }

    fn apply(&mut self, id: i64, held: &mut Vec<(String, String)>) {
        assert!(id >= self.after, "{id} after {}", self.after);
        self.after = id;
        for (kind, data) in held.drain(..) {
            let data: Value = serde_json::from_str(&data).unwrap();
            match kind.as_str() {
                "state" => {}
                "done" => self.over = true,
                "metric" | "log" => {
                    let parts = data.as_array().unwrap().iter().flat_map(|part| match part {
                        Value::Array(lines) => lines.clone(),
                        other => vec![other.clone()],
                    });
                    self.seen.extend(parts.map(|part| (kind.clone(), part)));
                }
                _ => self.seen.push((kind, data)),
            }
        }
    }

    /// The order of kinds depends on how a flush was cut; within a kind it is the run's.
    fn sorted(mut self) -> Vec<(String, Value)> {
        self.seen.sort_by(|one, other| one.0.cmp(&other.0));
        self.seen
    }
}

/// What a page that is open from the start to the end without a proxy has.
fn whole(server: &Server, id: &str) -> Vec<(String, Value)> {
    let mut page = Page::new(server.port, format!("/runs/{id}/events?after=0"));
    page.follow(|page| page.over);
    page.sorted()
}

fn steps(seen: &[(String, Value)]) -> Vec<i64> {
    let points = seen.iter().filter(|one| one.0 == "metric");
    points.map(|one| one.1["step"].as_i64().unwrap()).collect()
}

#[test]
fn a_proxy_that_says_503_for_a_while_costs_nothing() {
    let data = Data::new();
    let server = data.serve(&["--base-path", "/tuner/"]);
    let id = server.create("hang");
    server.until(&id, |run| run["step"] == 4);
    let (port, mood) = proxy(server.port);
    let mut page = Page::new(port, format!("/tuner/runs/{id}/events"));
    // live through the proxy: it comes although the answer has no end
    assert_eq!(page.follow(|page| steps(&page.seen).contains(&4)), 200);
    let before = page.after;
    mood.down.store(true, Ordering::SeqCst);
    for _ in 0..5 {
        let saved = server.post(&format!("/api/v1/runs/{id}/wish"), &json!({"wish": "save"}));
        assert_eq!(saved.status, 202);
        let newest = server.run(&id)["seq"].as_i64().unwrap();
        server.until(&id, |run| run["seq"].as_i64() > Some(newest));
        assert_eq!(page.follow(|_| false), 503);
    }
    assert_eq!((page.after, mood.refused.load(Ordering::SeqCst)), (before, 5));
    server.post(&format!("/api/v1/runs/{id}/stop"), &json!({"mode": "now"}));
    server.until_status(&id, "stopped");
    mood.down.store(false, Ordering::SeqCst);
    assert_eq!(page.follow(|page| page.over), 200);
    let expected = whole(&server, &id);
    assert_eq!(page.after, server.run(&id)["seq"].as_i64().unwrap());
    let got = page.sorted();
    assert_eq!(steps(&got), [1, 2, 3, 4]);
    assert_eq!(got.iter().filter(|one| one.0 == "checkpoint").count(), 6);
    assert_eq!(got, expected);
}

#[test]
fn a_stream_that_breaks_off_anywhere_is_whole_in_the_end() {
    let data = Data::new();
    let server = data.serve(&["--base-path", "/tuner"]);
    let id = server.create("finish");
    server.until_status(&id, "finished");
    let expected = whole(&server, &id);
    assert_eq!(steps(&expected), (1..=9).collect::<Vec<_>>());
    let (port, mood) = proxy(server.port);
    for cut in (1..6000).step_by(131) {
        let mut page = Page::new(port, format!("/tuner/runs/{id}/events"));
        mood.cut.store(cut, Ordering::SeqCst);
        page.follow(|page| page.over);
        mood.cut.store(0, Ordering::SeqCst);
        if !page.over {
            assert_eq!(page.follow(|page| page.over), 200, "{cut}");
        }
        assert_eq!(page.sorted(), expected, "broken off after {cut} bytes");
    }
}

#[test]
fn pages_come_through_a_proxy_that_buffers() {
    let data = Data::new();
    let server = data.serve(&["--base-path", "/tuner/"]);
    let id = server.create("finish");
    server.until_status(&id, "finished");
    let (port, _) = proxy(server.port);
    for path in [
        "/",
        "/runs",
        "/runs/new",
        "/datasets",
        "/models",
        "/queue",
        "/system",
        "/settings",
        &format!("/runs/{id}"),
        &format!("/api/v1/runs/{id}/metrics"),
        "/assets/app.css",
    ] {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        write!(
            stream,
            "GET /tuner{path} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let ok = answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.1 303");
        assert!(ok, "{path}: {answer:.200}");
    }
}
