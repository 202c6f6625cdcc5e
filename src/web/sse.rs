//! GET /runs/{id}/events: what happens in a run, resumable by id.
//!
//! A doorbell, not a payload: the rows are in SQLite, a `watch` says that there are new ones, and each client reads from
//! where it is. No client can slow the training, and a restart of the server loses nothing. The id is on the last frame
//! of a flush only, so that a cut inside a flush replays it whole.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, Stream};
use serde::Deserialize;

use super::error::{Error, Result};
use super::extract::{Id, Params};
use super::state::AppState;
use crate::db::{events, runs};
use crate::jobs::vitals::Vitals;

/// Events of one flush.
const BATCH: u32 = 500;
/// What the browser waits before it comes again.
const RETRY: Duration = Duration::from_millis(2000);
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
    let mut response = Sse::new(frames(state, id, run.num, after))
        .keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
        .into_response();
    let out = response.headers_mut();
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
    waiting: std::collections::VecDeque<Event>,
    /// What was told last of the worker's use of the machine.
    told: Option<Vitals>,
    over: bool,
}

/// Even without a bell the rows are looked at now and then.
const PATIENCE: Duration = Duration::from_secs(5);

fn frames(
    state: AppState,
    id: String,
    num: i64,
    after: i64,
) -> impl Stream<Item = Result<Event, Infallible>> {
    let bell = state.jobs.doorbell(&id);
    let waiting = [Event::default().retry(RETRY)].into();
    let place = Place { state, id, num, after, bell, waiting, told: None, over: false };
    stream::unfold(place, |mut place| async move {
        loop {
            if let Some(event) = place.waiting.pop_front() {
                return Some((Ok(event), place));
            }
            if place.over {
                return None;
            }
            // seen before the read: a row that comes during it rings again
            place.bell.borrow_and_update();
            match place.read().await {
                Ok(true) => {}
                Ok(false) => {
                    let stop = place.state.stop.clone();
                    tokio::select! {
                        () = stop.cancelled() => return None,
                        _ = place.bell.changed() => {}
                        () = tokio::time::sleep(PATIENCE) => {}
                    }
                }
                Err(error) => {
                    tracing::warn!(run.id = %place.id, %error, "event stream ended");
                    return None;
                }
            }
        }
    })
}

impl Place {
    /// Reads what is new into `waiting`; false where there is nothing.
    async fn read(&mut self) -> crate::db::Result<bool> {
        let rows = events::after(&self.state.db, self.num, self.after, BATCH).await?;
        let complete = rows.len() < BATCH as usize;
        if let Some(last) = rows.last() {
            self.after = last.seq;
        }
        let mut frames = coalesce(rows);
        if complete && let Some(run) = runs::get(&self.state.db, &self.id).await? {
            let mut state = events::state(&run);
            let vitals = place_vitals(&mut state, self.state.jobs.vitals(&self.id));
            let fresh = vitals.is_some() && vitals != self.told;
            self.told = vitals;
            let state = state.to_string();
            // a row that came between the two reads is for the next flush
            if run.status.is_over() && run.seq <= self.after {
                frames.push(Frame { kind: "done", parts: vec![state] });
                self.over = true;
            } else if !frames.is_empty() || fresh {
                // step, speed and ETA move with the metrics; only the present ones are worth telling
                frames.retain(|frame| frame.kind != "state");
                frames.push(Frame { kind: "state", parts: vec![state] });
            }
        }
        let count = frames.len();
        let after = self.after;
        self.waiting.extend(frames.into_iter().enumerate().map(|(place, frame)| {
            let event = frame.event();
            if place + 1 == count { event.id(after.to_string()) } else { event }
        }));
        Ok(count > 0)
    }
}

/// Adds what the worker uses to what is said of a run.
fn place_vitals(state: &mut serde_json::Value, vitals: Option<Vitals>) -> Option<Vitals> {
    if let Some(vitals) = vitals {
        state["cores"] = vitals.cores.into();
        state["resident"] = vitals.resident.into();
        state["peak"] = vitals.peak.into();
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
    fn event(&self) -> Event {
        // bodies are our own JSON: no raw line breaks, no names from outside
        let data = match self.kind {
            "metric" | "log" => format!("[{}]", self.parts.join(",")),
            _ => self.parts.last().cloned().unwrap_or_default(),
        };
        Event::default().event(self.kind).data(data)
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
