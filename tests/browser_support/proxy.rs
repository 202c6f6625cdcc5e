//! A proxy between the browser and a server: it can answer 503 for a while, and be led to another server.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Where requests go; `None`: nowhere, each gets a 503.
type Way = Option<String>;

/// A proxy on a port of its own.
pub struct Proxy {
    pub url: String,
    way: Arc<watch::Sender<Way>>,
}

impl Proxy {
    /// To the server at `http://ADDRESS`.
    pub async fn to(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (way, seen) = watch::channel(Some(address(url)));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(pass(stream, seen.clone()));
            }
        });
        Self { url: format!("http://127.0.0.1:{port}"), way: Arc::new(way) }
    }

    /// Cuts every connection; from now on each request gets a 503.
    pub fn cut(&self) {
        self.way.send(None).unwrap();
    }

    /// Lets requests through again, to that server.
    pub fn mend(&self, url: &str) {
        self.way.send(Some(address(url))).unwrap();
    }
}

fn address(url: &str) -> String {
    url.strip_prefix("http://").unwrap().to_owned()
}

async fn pass(mut stream: TcpStream, mut seen: watch::Receiver<Way>) {
    let way = seen.borrow_and_update().clone();
    let Some(mut server) = connect(way).await else {
        let mut head = [0; 4096];
        let _ = stream.read(&mut head).await;
        let answer =
            "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let _ = stream.write_all(answer.as_bytes()).await;
        return;
    };
    tokio::select! {
        _ = copy_bidirectional(&mut stream, &mut server) => {}
        _ = seen.changed() => {}
    }
}

async fn connect(way: Way) -> Option<TcpStream> {
    TcpStream::connect(way?).await.ok()
}
