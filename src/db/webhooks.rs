//! Webhooks and their outbox: what is to be told is stored with the change that it tells of, so that no restart loses it.

use serde_json::json;
use sqlx::{FromRow, Sqlite, Transaction};

use super::runs::{RunRow, select};
use super::{Db, Result, kv};

/// What a webhook can be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// A run is done.
    Finished,
    /// A run ended by an error.
    Failed,
    /// A loss is not finite, for the first time in a run.
    Nan,
    /// Nothing was heard of a running run for long.
    Stalled,
}

impl News {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Finished, Self::Failed, Self::Nan, Self::Stalled];

    /// The word in the database and in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Nan => "nan",
            Self::Stalled => "stalled",
        }
    }
}

/// A webhook without its secrets.
#[derive(Debug, Clone, FromRow)]
pub struct Hook {
    /// Its number.
    pub id: i64,
    /// What people call it.
    pub name: String,
    /// The host of its address.
    pub host: String,
    /// `json` or `slack`.
    pub shape: String,
    /// What it is told of, words with commas.
    pub events: String,
    /// When it was made.
    pub created_ms: i64,
    /// When something was last sent.
    pub last_ms: Option<i64>,
    /// What that told of.
    pub last_event: Option<String>,
    /// Whether it arrived.
    pub last_ok: Option<bool>,
    /// What came of it, in words.
    pub last_text: Option<String>,
    /// How much waits to be sent.
    pub waiting: i64,
}

/// A webhook about to be made. No `Debug`: it has the secrets.
pub struct NewHook {
    /// What people call it.
    pub name: String,
    /// Where it goes.
    pub url: String,
    /// The host of `url`.
    pub host: String,
    /// `json` or `slack`.
    pub shape: &'static str,
    /// A header with a secret, or nothing.
    pub header: String,
    /// What it is told of.
    pub events: Vec<News>,
}

/// Where and how to send. No `Debug`: it has the secrets.
#[derive(Clone, FromRow)]
pub struct Target {
    /// Where.
    pub url: String,
    /// `json` or `slack`.
    pub shape: String,
    /// A header with a secret, or nothing.
    pub header: String,
}

/// Something that is to be sent now. No `Debug`: it has the secrets.
#[derive(Clone, FromRow)]
pub struct Due {
    /// Its number; the same at every try.
    pub id: i64,
    /// The webhook.
    pub hook: i64,
    /// What it tells of.
    pub event: String,
    /// JSON.
    pub body: String,
    /// How often it was tried.
    pub tries: i64,
    /// Where and how.
    #[sqlx(flatten)]
    pub target: Target,
}

/// Most that waits for one webhook: what comes then is not told.
const MOST: i64 = 1000;
/// A run is stalled after this many minutes unless it is set otherwise.
pub const STALLED_MINUTES: i64 = 15;
const STALLED_KEY: &str = "webhooks.stalled_minutes";

const HOOK: &str = "select id, name, host, shape, events, created_ms, last_ms, last_event, last_ok, last_text, \
    (select count(*) from delivery where hook = webhook.id) as waiting from webhook ";

fn hooks(tail: &'static str) -> sqlx::AssertSqlSafe<String> {
    sqlx::AssertSqlSafe(format!("{HOOK}{tail}"))
}

/// Every webhook.
///
/// # Errors
/// Where the database fails.
pub async fn list(db: &Db) -> Result<Vec<Hook>> {
    Ok(sqlx::query_as(hooks("order by id")).fetch_all(db.read()).await?)
}

/// Adds a webhook.
///
/// # Errors
/// Where the database fails.
pub async fn add(db: &Db, new: &NewHook, now_ms: i64) -> Result<Hook> {
    let events: Vec<&str> = new.events.iter().map(|news| news.as_str()).collect();
    let mut tx = db.write().await?;
    let sql = "insert into webhook (name, url, host, shape, header, events, created_ms) \
               values (?, ?, ?, ?, ?, ?, ?)";
    let done = sqlx::query(sql)
        .bind(&new.name)
        .bind(&new.url)
        .bind(&new.host)
        .bind(new.shape)
        .bind(&new.header)
        .bind(events.join(","))
        .bind(now_ms)
        .execute(&mut *tx)
        .await?;
    let id = done.last_insert_rowid();
    let hook = sqlx::query_as(hooks("where id = ?")).bind(id).fetch_one(&mut *tx).await?;
    tx.commit().await?;
    Ok(hook)
}

/// Removes a webhook with all that waits for it. False where there is none.
///
/// # Errors
/// Where the database fails.
pub async fn remove(db: &Db, id: i64) -> Result<bool> {
    let mut tx = db.write().await?;
    let done = sqlx::query("delete from webhook where id = ?").bind(id).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(done.rows_affected() > 0)
}

/// Where and how a webhook is reached.
///
/// # Errors
/// Where the database fails.
pub async fn target(db: &Db, id: i64) -> Result<Option<Target>> {
    let sql = "select url, shape, header from webhook where id = ?";
    Ok(sqlx::query_as(sql).bind(id).fetch_optional(db.read()).await?)
}

/// After how many minutes of silence a run counts as stalled.
///
/// # Errors
/// Where the database fails.
pub async fn stalled_minutes(db: &Db) -> Result<i64> {
    let set = kv::get(db, STALLED_KEY).await?.and_then(|text| text.parse().ok());
    Ok(set.unwrap_or(STALLED_MINUTES))
}

/// Sets after how many minutes of silence a run counts as stalled.
///
/// # Errors
/// Where the database fails.
pub async fn set_stalled_minutes(db: &Db, minutes: i64) -> Result<()> {
    kv::set(db, STALLED_KEY, Some(&minutes.to_string())).await
}

/// Puts news of a run into the outbox of every webhook that wants it. With a mark it is told once a mark.
pub(super) async fn tell(
    tx: &mut Transaction<'_, Sqlite>,
    row: &RunRow,
    news: News,
    mark: Option<i64>,
    now_ms: i64,
) -> Result<()> {
    if let Some(mark) = mark {
        let sql = "insert or ignore into told (run, event, mark) values (?, ?, ?)";
        let query = sqlx::query(sql).bind(row.num).bind(news.as_str()).bind(mark);
        if query.execute(&mut **tx).await?.rows_affected() == 0 {
            return Ok(());
        }
    }
    let body = json!({
        "event": news.as_str(), "at_ms": now_ms,
        "run": {
            "id": row.id, "name": row.name, "owner": row.owner, "status": row.status.as_str(),
            "step": row.step, "total_steps": row.total_steps, "epoch": row.epoch,
            "loss": row.last_loss, "eval_loss": row.last_eval_loss, "elapsed_s": row.elapsed_s,
            "reason": row.reason,
        },
    });
    let sql = "insert into delivery (hook, event, body, next_ms) select id, ?1, ?2, ?3 from webhook \
               where instr(',' || events || ',', ',' || ?1 || ',') > 0 \
               and (select count(*) from delivery where hook = webhook.id) < ?4";
    let query = sqlx::query(sql).bind(news.as_str()).bind(body.to_string()).bind(now_ms);
    query.bind(MOST).execute(&mut **tx).await?;
    Ok(())
}

/// What was told of a run may be told again: it starts anew.
pub(super) async fn forget(tx: &mut Transaction<'_, Sqlite>, run: i64) -> Result<()> {
    sqlx::query("delete from told where run = ?").bind(run).execute(&mut **tx).await?;
    Ok(())
}

/// Tells of every running run that was not heard of since `before_ms`; once a silence.
///
/// # Errors
/// Where the database fails.
pub async fn tell_stalled(db: &Db, before_ms: i64, now_ms: i64) -> Result<()> {
    let tail = "where status = 'running' and heard_ms < ? and not exists \
                (select 1 from told where run = num and event = 'stalled' and mark = seq)";
    let rows: Vec<RunRow> =
        sqlx::query_as(select(tail)).bind(before_ms).fetch_all(db.read()).await?;
    if rows.is_empty() {
        return Ok(());
    }
    let mut tx = db.write().await?;
    for row in &rows {
        tell(&mut tx, row, News::Stalled, Some(row.seq), now_ms).await?;
    }
    Ok(tx.commit().await?)
}

/// The oldest thing of each webhook that is to be sent, where its time has come.
///
/// # Errors
/// Where the database fails.
pub async fn due(db: &Db, now_ms: i64) -> Result<Vec<Due>> {
    let sql = "select d.id, d.hook, d.event, d.body, d.tries, w.url, w.shape, w.header \
               from webhook w join delivery d on d.id = (select min(id) from delivery where hook = w.id) \
               where d.next_ms <= ? limit 100";
    Ok(sqlx::query_as(sql).bind(now_ms).fetch_all(db.read()).await?)
}

/// Everything that waits is to be tried at once: the server has just come up.
///
/// # Errors
/// Where the database fails.
pub async fn hurry(db: &Db) -> Result<()> {
    let mut tx = db.write().await?;
    sqlx::query("update delivery set next_ms = 0").execute(&mut *tx).await?;
    Ok(tx.commit().await?)
}

/// How sending went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// When.
    pub at_ms: i64,
    /// Whether it arrived.
    pub ok: bool,
    /// What came of it, in words without secrets.
    pub text: String,
}

/// Notes how a try went; `next_ms` is when to try again.
///
/// # Errors
/// Where the database fails.
pub async fn sent(db: &Db, due: &Due, sent: &Sent, next_ms: Option<i64>) -> Result<()> {
    let mut tx = db.write().await?;
    let sql = match next_ms {
        Some(_) => "update delivery set tries = tries + 1, next_ms = ?2 where id = ?1",
        None => "delete from delivery where id = ?1",
    };
    sqlx::query(sql).bind(due.id).bind(next_ms).execute(&mut *tx).await?;
    note(&mut tx, due.hook, &due.event, sent).await?;
    Ok(tx.commit().await?)
}

/// Notes how a test went.
///
/// # Errors
/// Where the database fails.
pub async fn tested(db: &Db, hook: i64, sent: &Sent) -> Result<()> {
    let mut tx = db.write().await?;
    note(&mut tx, hook, "test", sent).await?;
    Ok(tx.commit().await?)
}

async fn note(tx: &mut Transaction<'_, Sqlite>, hook: i64, event: &str, sent: &Sent) -> Result<()> {
    let sql =
        "update webhook set last_ms = ?, last_event = ?, last_ok = ?, last_text = ? where id = ?";
    let query = sqlx::query(sql).bind(sent.at_ms).bind(event).bind(sent.ok).bind(&sent.text);
    query.bind(hook).execute(&mut **tx).await?;
    Ok(())
}

#[cfg(test)]
mod tests;
