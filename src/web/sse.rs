//! GET /runs/{id}/events: what happens in a run, resumable by id.
//!
//! A doorbell, not a payload: the rows are in SQLite, a `watch` says that there are new ones, and each client reads from
//! where it is. No client can slow the training, and a restart of the server loses nothing. The id is on the last frame
//! of a flush only, so that a cut inside a flush replays it whole. What a thousand clients at the same place get is read
//! and written once (`shared`).

mod shared;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, Stream};
use serde::Deserialize;

use super::error::{Error, Result};
use super::extract::{Id, Params};
use super::state::AppState;
use crate::db::{events, runs};
use crate::jobs::vitals::Vitals;
pub use shared::Streams;
use shared::{Flush, Slot};

/// Events of one flush.
const BATCH: u32 = 500;
/// What the browser is told to wait before it comes again, and how a stream begins.
const RETRY: &str = "retry: 2000\n\n";
/// A comment goes out after so much silence.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Where a client is.
#[derive(Debug, Deserialize)]
pub struct From {
    after: Option<i64>,
}

/// The stream of one run. `Last-Event-ID` beats `?after=`.
///
/// # Errors
/// 404 where there is no such run, or where the database fails.
pub async fn run_events(
    State(state): State<AppState>,
    Id(id): Id,
    Params(from): Params<From>,
    headers: HeaderMap,
) -> Result<Response> {
    let run = runs::get(&state.db, &id).await?.ok_or_else(|| Error::not_found("run", &id))?;
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let after =
        last.and_then(|text| text.trim().parse().ok()).or(from.after).unwrap_or(0).min(run.seq);
    let mut response = Body::from_stream(frames(state, id, run.num, after)).into_response();
    let out = response.headers_mut();
    out.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    out.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    out.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
}

/// One client's place in a run's events.
struct Place {
    state: AppState,
    id: String,
    num: i64,
    after: i64,
    bell: tokio::sync::watch::Receiver<u64>,
    /// What all clients of this run have together.
    slot: Arc<Slot>,
    /// What was told last of the worker's use of the machine.
    told: Option<Vitals>,
    /// When something was last sent.
    spoke: Instant,
    over: bool,
}

/// Even without a bell the rows are looked at now and then.
const PATIENCE: Duration = Duration::from_secs(5);

fn frames(
    state: AppState,
    id: String,
    num: i64,
    after: i64,
) -> impl Stream<Item = Result<Bytes, Infallible>> {
    let (bell, slot) = (state.jobs.doorbell(&id), state.streams.slot(num));
    let spoke = Instant::now();
    let place = Place { state, id, num, after, bell, slot, told: None, spoke, over: false };
    let rest = stream::unfold(place, |mut place| async move {
        let bytes = place.next().await?;
        place.spoke = Instant::now();
        Some((Ok(bytes), place))
    });
    let first = stream::iter([Ok(Bytes::from_static(RETRY.as_bytes()))]);
    stream::StreamExt::chain(first, rest)
}

impl Place {
    /// What is sent next; `None` where the stream ends.
    async fn next(&mut self) -> Option<Bytes> {
        while !self.over {
            // seen before the read: a row that comes during it rings again
            let bell = *self.bell.borrow_and_update();
            match self.read(bell).await {
                Ok(Some(bytes)) => return Some(bytes),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(run.id = %self.id, %error, "event stream ended");
                    return None;
                }
            }
            tokio::select! {
                () = self.state.stop.cancelled() => return None,
                _ = self.bell.changed() => {}
                () = tokio::time::sleep(PATIENCE) => {}
            }
            if self.spoke.elapsed() >= KEEP_ALIVE {
                return Some(Bytes::from_static(b":\n\n"));
            }
        }
        None
    }

    /// What is new; `None` where there is nothing.
    async fn read(&mut self, bell: u64) -> crate::db::Result<Option<Bytes>> {
        let slot = self.slot.clone();
        let flush = slot.flush(self.after, bell, || self.look()).await?;
        let fresh = flush.vitals.is_some() && flush.vitals != self.told;
        if flush.complete {
            self.told = flush.vitals;
        }
        self.after = flush.next;
        self.over = flush.over;
        Ok((flush.news || fresh).then(|| flush.bytes.clone()))
    }

    /// Reads what comes after this place.
    async fn look(&self) -> crate::db::Result<Flush> {
        let rows = events::after(&self.state.db, self.num, self.after, BATCH).await?;
        let complete = rows.len() < BATCH as usize;
        let next = rows.last().map_or(self.after, |last| last.seq);
        let mut frames = coalesce(rows);
        let mut flush = Flush { next, complete, news: !frames.is_empty(), ..Flush::default() };
        if complete && let Some(run) = runs::get(&self.state.db, &self.id).await? {
            let mut state = events::state(&run);
            flush.vitals = place_vitals(&mut state, self.state.jobs.vitals(&self.id));
            // a row that came between the two reads is for the next flush
            flush.over = run.status.is_over() && run.seq <= next;
            let kind = if flush.over { "done" } else { "state" };
            flush.news |= flush.over;
            if !flush.over {
                // step, speed and ETA move with the metrics; only the present ones are worth telling
                frames.retain(|frame| frame.kind != "state");
            }
            frames.push(Frame { kind, parts: vec![state.to_string()] });
        }
        flush.bytes = written(&frames, next);
        Ok(flush)
    }
}

/// Frames as they go out; the id is on the last one.
fn written(frames: &[Frame], id: i64) -> Bytes {
    let mut text = String::new();
    for (place, frame) in frames.iter().enumerate() {
        // bodies are our own JSON: no raw line breaks, no names from outside
        text += &format!("event: {}\ndata: {}\n", frame.kind, frame.data());
        if place + 1 == frames.len() {
            text += &format!("id: {id}\n");
        }
        text.push('\n');
    }
    text.into()
}

/// Adds what the worker uses to what is said of a run.
fn place_vitals(state: &mut serde_json::Value, vitals: Option<Vitals>) -> Option<Vitals> {
    if let Some(vitals) = vitals {
        state["cores"] = vitals.cores.into();
        state["resident"] = vitals.resident.into();
        state["peak"] = vitals.peak.into();
        if let Some(gpu) = vitals.gpu {
            state["gpu"] = serde_json::json!(gpu);
        }
    }
    vitals
}

/// One event to be.
struct Frame {
    kind: &'static str,
    parts: Vec<String>,
}

/// Longest text of one frame.
const FRAME: usize = 16 << 10;

impl Frame {
    fn data(&self) -> String {
        match self.kind {
            "metric" | "log" => format!("[{}]", self.parts.join(",")),
            _ => self.parts.last().cloned().unwrap_or_default(),
        }
    }

    fn has_room(&self, more: usize) -> bool {
        self.parts.iter().map(String::len).sum::<usize>() + more < FRAME
    }
}

/// Points and log lines of one flush go together; of the states only the last counts.
fn coalesce(rows: Vec<events::EventRow>) -> Vec<Frame> {
    let mut frames: Vec<Frame> = Vec::new();
    let mut sealed = 0; // frames before a rewind take nothing more
    for row in rows {
        let kind = match row.kind.as_str() {
            "metric" => "metric",
            "log" => "log",
            "sample" => "sample",
            "checkpoint" => "checkpoint",
            "rewound" => "rewound",
            "notice" => "notice",
            _ => "state", // also the `done` of a run that was resumed since
        };
        let open = frames.iter_mut().skip(sealed).rfind(|frame| frame.kind == kind);
        match (kind, open) {
            ("metric" | "log", Some(frame)) if frame.has_room(row.body.len()) => {
                frame.parts.push(row.body)
            }
            ("state", Some(frame)) => frame.parts = vec![row.body],
            _ => frames.push(Frame { kind, parts: vec![row.body] }),
        }
        if kind == "rewound" {
            sealed = frames.len();
        }
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_on_the_last_frame() {
        let frame = |kind, parts: &[&str]| Frame {
            kind,
            parts: parts.iter().map(|part| (*part).to_owned()).collect(),
        };
        let frames = [frame("log", &["{}", "{}"]), frame("state", &["{\"a\":1}"])];
        let expected = "event: log\ndata: [{},{}]\n\nevent: state\ndata: {\"a\":1}\nid: 7\n\n";
        assert_eq!(written(&frames, 7), expected);
        assert_eq!(written(&[], 7), "");
    }

    #[test]
    fn what_the_worker_uses() {
        let gpu = Some(crate::gpu::Load { busy: 90, used: 3, size: 8 });
        let vitals = Vitals { cores: None, resident: 5, peak: 6, gpu };
        for (vitals, expected) in [
            (None, "{}"),
            (Some(Vitals { gpu: None, ..vitals }), r#"{"cores":null,"resident":5,"peak":6}"#),
            (
                Some(vitals),
                r#"{"cores":null,"resident":5,"peak":6,"gpu":{"busy":90,"used":3,"size":8}}"#,
            ),
        ] {
            let mut state = serde_json::json!({});
            place_vitals(&mut state, vitals);
            assert_eq!(state.to_string(), expected);
        }
    }

    #[test]
    fn a_flush_is_a_frame_a_kind() {
        let check = |kinds: &[&str], expected: &[(&str, usize)]| {
            let rows = kinds.iter().zip(1..).map(|(kind, seq)| events::EventRow {
                seq,
                kind: (*kind).to_owned(),
                at_ms: 0,
                body: "{}".to_owned(),
            });
            let frames = coalesce(rows.collect());
            let got: Vec<_> = frames.iter().map(|frame| (frame.kind, frame.parts.len())).collect();
            assert_eq!(got, expected);
        };
        check(&[], &[]);
        check(
            &["metric", "log", "metric", "state", "log", "state"],
            &[("metric", 2), ("log", 2), ("state", 1)],
        );
        check(
            &["metric", "rewound", "metric", "metric"],
            &[("metric", 1), ("rewound", 1), ("metric", 2)],
        );
        check(&["sample", "sample", "done"], &[("sample", 1), ("sample", 1), ("state", 1)]);
    }
}
