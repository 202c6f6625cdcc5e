//! News of runs to other services: what is in the outbox is sent, tried again where that may help, and its outcome kept.
//!
//! - [`url`]: what an address may be. [`post`]: one request. [`message`]: what it says.
//!
//! Nothing here holds up a run: its end is stored with what is to be told of it, and this task reads that.

pub mod message;
pub mod post;
pub mod url;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{ActionError, Inner, Jobs};
use crate::config::ServerConfig;
use crate::db::webhooks::{self, Due, Hook, NewHook, News, Sent, Target};
use post::{Message, Refused};
use url::Address;

/// The outbox is looked at this often.
const TICK: Duration = Duration::from_secs(1);
/// Waits after the first, second, ... try that failed; then it is given up.
const PAUSES: [Duration; 5] = [
    Duration::from_secs(10),
    Duration::from_secs(60),
    Duration::from_secs(5 * 60),
    Duration::from_secs(30 * 60),
    Duration::from_secs(2 * 3600),
];
/// Most webhooks.
pub const MOST: usize = 50;
/// Longest silence that can be waited for: a week.
pub const LONGEST_MINUTES: i64 = 7 * 24 * 60;

/// What a person gives for a webhook. No `Debug`: it has the secrets.
pub struct Wanted {
    /// What people call it; the host where it is empty.
    pub name: String,
    /// Where it goes.
    pub url: String,
    /// `json` or `slack`.
    pub shape: String,
    /// A header with a secret: `Authorization: Bearer ...`; may be empty.
    pub header: String,
    /// What it is told of.
    pub events: Vec<String>,
}

impl Jobs {
    /// Adds a webhook.
    ///
    /// # Errors
    /// Where a value is wrong, there are too many, or the database fails.
    pub async fn add_webhook(&self, wanted: Wanted) -> Result<Hook, ActionError> {
        let new = checked(wanted, self.0.config.private_webhooks)?;
        if webhooks::list(&self.0.db).await?.len() >= MOST {
            return Err(ActionError::Refused(format!("There are {MOST} webhooks; remove one.")));
        }
        Ok(webhooks::add(&self.0.db, &new, self.0.clock.now_ms()).await?)
    }

    /// Sends a test to a webhook, now. `None` where there is no such webhook.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn test_webhook(&self, id: i64) -> crate::db::Result<Option<Sent>> {
        let Some(target) = webhooks::target(&self.0.db, id).await? else {
            return Ok(None);
        };
        let now = self.0.clock.now_ms();
        let body = json!({"event": "test", "at_ms": now, "text": "A test of Tallow's webhook."});
        let (sent, _) = send(&self.0, &target, 0, "test", &body.to_string()).await;
        webhooks::tested(&self.0.db, id, &sent).await?;
        Ok(Some(sent))
    }

    /// Sets after how many minutes of silence a run counts as stalled.
    ///
    /// # Errors
    /// Where the number is out of range, or the database fails.
    pub async fn set_stalled_minutes(&self, minutes: i64) -> Result<(), ActionError> {
        if !(1..=LONGEST_MINUTES).contains(&minutes) {
            let rule = format!("must be a whole number from 1 to {LONGEST_MINUTES}");
            return Err(ActionError::Invalid("minutes", rule));
        }
        Ok(webhooks::set_stalled_minutes(&self.0.db, minutes).await?)
    }
}

fn checked(wanted: Wanted, private: bool) -> Result<NewHook, ActionError> {
    let wrong = |field, message: &str| Err(ActionError::Invalid(field, message.to_owned()));
    let url = wanted.url.trim().to_owned();
    let address = match Address::parse(&url, private) {
        Ok(address) => address,
        Err(why) => return wrong("url", &why),
    };
    let name = match wanted.name.trim() {
        "" => address.host.clone(),
        name => name.to_owned(),
    };
    if name.chars().count() > 60 || name.chars().any(char::is_control) {
        return wrong("name", "must have at most 60 characters");
    }
    let shapes = ["json", "slack"];
    let Some(shape) = shapes.into_iter().find(|shape| *shape == wanted.shape) else {
        return wrong("shape", "is json or slack");
    };
    let header = wanted.header.trim().to_owned();
    if let Err(why) = url::check_header(&header) {
        return wrong("header", why);
    }
    let known = |word: &String| News::ALL.into_iter().find(|news| news.as_str() == word);
    let events: Option<Vec<News>> = wanted.events.iter().map(known).collect();
    let Some(events) = events.filter(|events| !events.is_empty()) else {
        return wrong("events", "are one or more of finished, failed, nan and stalled");
    };
    let events = News::ALL.into_iter().filter(|news| events.contains(news)).collect();
    Ok(NewHook { name, host: address.shown(), url, shape, header, events })
}

/// Sends what is in the outbox until the server stops.
pub(super) async fn run(jobs: Jobs) {
    let inner = jobs.0;
    let stop = inner.stop.clone();
    if let Err(error) = webhooks::hurry(&inner.db).await {
        tracing::warn!(%error, "what waits to be told waits for its time");
    }
    // dropped with this task: what was being sent then stays in the outbox
    let mut flying = JoinSet::new();
    let mut busy = HashSet::new();
    while !stop.is_cancelled() {
        while let Some(done) = flying.try_join_next() {
            match done {
                Ok(hook) => busy.remove(&hook),
                Err(_) => {
                    busy.clear();
                    flying.abort_all();
                    false
                }
            };
        }
        match round(&inner).await {
            Ok(due) => {
                for due in due.into_iter().filter(|due| busy.insert(due.hook)) {
                    flying.spawn(deliver(inner.clone(), due));
                }
            }
            Err(error) => tracing::warn!(%error, "the outbox cannot be read; it is tried again"),
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = sleep(TICK) => {}
        }
    }
}

/// Tells of silent runs, and gives what is to be sent now.
async fn round(jobs: &Inner) -> crate::db::Result<Vec<Due>> {
    let now = jobs.clock.now_ms();
    let silence = webhooks::stalled_minutes(&jobs.db).await?.saturating_mul(60_000);
    webhooks::tell_stalled(&jobs.db, now.saturating_sub(silence), now).await?;
    webhooks::due(&jobs.db, now).await
}

/// One try. Gives the webhook's number back.
async fn deliver(jobs: Arc<Inner>, due: Due) -> i64 {
    let (sent, again) = send(&jobs, &due.target, due.id, &due.event, &due.body).await;
    let next = again.then(|| pause(due.tries)).flatten();
    let next_ms = next.map(|pause| sent.at_ms.saturating_add(millis(pause)));
    tracing::info!(hook = due.hook, event = due.event, ok = sent.ok, outcome = sent.text, "told");
    if let Err(error) = webhooks::sent(&jobs.db, &due, &sent, next_ms).await {
        // it stays in the outbox, and is told twice rather than never
        tracing::warn!(hook = due.hook, %error, "a delivery could not be noted");
    }
    due.hook
}

/// How long to wait after so many tries before this one; `None`: no more.
fn pause(tries: i64) -> Option<Duration> {
    usize::try_from(tries).ok().and_then(|tries| PAUSES.get(tries)).copied()
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// Sends once. Gives what came of it, and whether another try may help.
async fn send(jobs: &Inner, target: &Target, id: i64, event: &str, body: &str) -> (Sent, bool) {
    let body = message::compose(&target.shape, body, &home(&jobs.config));
    let message = Message { id, event, header: &target.header, body: &body };
    let private = jobs.config.private_webhooks;
    let outcome = match Address::parse(&target.url, private) {
        Ok(address) => post::send(&address, &message, private).await,
        Err(why) => Err(Refused { why, again: false }),
    };
    let (ok, text, again) = match outcome {
        Ok(status) => {
            let again = matches!(status, 408 | 425 | 429 | 500..=599);
            ((200..300).contains(&status), format!("answered {status}"), again)
        }
        Err(refused) => (false, refused.why, refused.again),
    };
    (Sent { at_ms: jobs.clock.now_ms(), ok, text }, again)
}

/// Where people find the dashboard; empty where nobody said.
fn home(config: &ServerConfig) -> String {
    let url = config.public_url.as_ref();
    url.map(|url| format!("{}{}", url.origin, config.base_path)).unwrap_or_default()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let waits: Vec<u64> = (0..7).filter_map(pause).map(|wait| wait.as_secs()).collect();
        assert_eq!(waits, [10, 60, 300, 1800, 7200]);
        assert_eq!(pause(-1), None);
    }

    #[test]
    fn what_is_wanted_is_checked() {
        let check = |url: &str, shape: &str, header: &str, events: &[&str], expected: &str| {
            let wanted = Wanted {
                name: String::new(),
                url: url.to_owned(),
                shape: shape.to_owned(),
                header: header.to_owned(),
                events: events.iter().map(|word| (*word).to_owned()).collect(),
            };
            let got = match checked(wanted, false) {
                Ok(new) => format!("{} {}", new.name, new.host),
                Err(ActionError::Invalid(field, _)) => field.to_owned(),
                Err(other) => other.to_string(),
            };
            assert_eq!(got, expected, "{url} {shape} {header} {events:?}");
        };
        let url = "https://hooks.example.org/services/T/B/xyz";
        let name = "hooks.example.org hooks.example.org";
        check(url, "slack", "", &["finished", "nan"], name);
        check(url, "json", "Authorization: Bearer x", &["stalled"], name);
        check("http://hooks.example.org", "json", "", &["failed"], "url");
        check(url, "xml", "", &["failed"], "shape");
        check(url, "json", "Host: a", &["failed"], "header");
        check(url, "json", "", &[], "events");
        check(url, "json", "", &["started"], "events");
    }

    #[test]
    fn nothing_secret_is_kept_in_what_is_shown() {
        let wanted = Wanted {
            name: String::new(),
            url: "https://a.test:8443/SECRET?key=SECRET".to_owned(),
            shape: "json".to_owned(),
            header: "X-Key: SECRET".to_owned(),
            events: vec!["failed".to_owned()],
        };
        let new = checked(wanted, false).unwrap();
        assert_eq!((new.name.as_str(), new.host.as_str()), ("a.test", "a.test:8443"));
    }
}
