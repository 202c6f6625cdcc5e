//! The list of runs: search, filters, keyset pages, and what a person adds to a run (name, notes, tags).
//!
//! A filter reads the index `run_list` alone; the rows are fetched for the page that is shown.

use std::collections::HashMap;

use super::runs::{RunRow, Status, fetch, select};
use super::{Db, Result};

/// What the list is narrowed to; empty texts narrow nothing.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only this status.
    pub status: Option<Status>,
    /// Only runs that have each of these words in name, id, model, data set, tags or notes.
    pub text: String,
    /// Only this model, as it was given.
    pub model: String,
    /// Only runs on this data set, alone or among others.
    pub dataset: String,
    /// Only this `finetuning_type`.
    pub method: String,
    /// Only runs with this tag.
    pub tag: String,
    /// Only runs older than this id: the last id of the page before.
    pub before: Option<String>,
    /// At most so many; 0 = 50.
    pub limit: u32,
}

/// Words of a search that count.
const WORDS: usize = 4;

/// Newest first.
///
/// # Errors
/// Where the database fails.
pub async fn list(db: &Db, filter: &Filter) -> Result<Vec<RunRow>> {
    let text = filter.text.to_lowercase();
    let mut words = text.split_whitespace().take(WORDS);
    let mut query = sqlx::query_as(select(
        "where num in (select num from run where (?1 is null or status = ?1) \
         and (?2 = '' or instr(search, ?2) > 0) and (?3 = '' or instr(search, ?3) > 0) \
         and (?4 = '' or instr(search, ?4) > 0) and (?5 = '' or instr(search, ?5) > 0) \
         and (?6 = '' or model = ?6) and (?7 = '' or instr(',' || dataset || ',', ',' || ?7 || ',') > 0) \
         and (?8 = '' or method = ?8) \
         and (?9 = '' or exists (select 1 from tag where tag.name = ?9 and tag.run = run.num)) \
         and (?10 is null or num < (select num from run where id = ?10)) \
         order by num desc limit ?11) order by num desc",
    ))
    .bind(filter.status.map(Status::as_str));
    for _ in 0..WORDS {
        query = query.bind(words.next().unwrap_or_default());
    }
    let limit = if filter.limit == 0 { 50 } else { filter.limit.min(1001) };
    let query = query
        .bind(&filter.model)
        .bind(&filter.dataset)
        .bind(&filter.method)
        .bind(&filter.tag)
        .bind(filter.before.as_deref())
        .bind(limit);
    Ok(query.fetch_all(db.read()).await?)
}

/// The tags of these runs, by `num`.
///
/// # Errors
/// Where the database fails.
pub async fn tags(db: &Db, runs: &[RunRow]) -> Result<HashMap<i64, Vec<String>>> {
    let nums: Vec<i64> = runs.iter().map(|run| run.num).collect();
    let sql =
        "select run, name from tag where run in (select value from json_each(?)) order by name";
    let nums = serde_json::to_string(&nums).unwrap_or_default();
    let rows: Vec<(i64, String)> = sqlx::query_as(sql).bind(nums).fetch_all(db.read()).await?;
    let mut all: HashMap<i64, Vec<String>> = HashMap::new();
    for (run, name) in rows {
        all.entry(run).or_default().push(name);
    }
    Ok(all)
}

/// What there is to filter by, the most frequent first.
#[derive(Debug, Clone, Default)]
pub struct Facets {
    /// Models as they were given.
    pub models: Vec<String>,
    /// Data sets.
    pub datasets: Vec<String>,
    /// Methods.
    pub methods: Vec<String>,
    /// Tags.
    pub tags: Vec<String>,
}

/// What there is to filter by.
///
/// # Errors
/// Where the database fails.
pub async fn facets(db: &Db) -> Result<Facets> {
    let read = async |sql: &'static str| {
        let found: std::result::Result<Vec<String>, _> =
            sqlx::query_scalar(sql).fetch_all(db.read()).await;
        found
    };
    let mut facets = Facets {
        models: read("select model from run where model != '' group by model order by count(*) desc, 1 limit 100").await?,
        methods: read("select method from run where method != '' group by method order by count(*) desc, 1 limit 100").await?,
        tags: read("select name from tag group by name order by count(*) desc, 1 limit 100").await?,
        datasets: Vec::new(),
    };
    let mixed = read("select dataset from run where dataset != '' group by dataset order by count(*) desc, 1 limit 200").await?;
    for name in mixed.iter().flat_map(|names| names.split(',')).map(str::trim) {
        if !name.is_empty() && !facets.datasets.iter().any(|known| known == name) {
            facets.datasets.push(name.to_owned());
        }
    }
    Ok(facets)
}

/// What a person changes of a run; `None` leaves it.
#[derive(Debug, Clone, Default)]
pub struct Edit {
    /// Its name.
    pub name: Option<String>,
    /// Its notes.
    pub notes: Option<String>,
    /// All its tags.
    pub tags: Option<Vec<String>>,
}

/// Applies an edit; `None` where there is no such run.
///
/// # Errors
/// Where the database fails.
pub async fn edit(db: &Db, id: &str, edit: &Edit) -> Result<Option<RunRow>> {
    let mut tx = db.write().await?;
    let sql = "update run set name = coalesce(?2, name), notes = coalesce(?3, notes) where id = ?1";
    let done =
        sqlx::query(sql).bind(id).bind(&edit.name).bind(&edit.notes).execute(&mut *tx).await?;
    if done.rows_affected() == 0 {
        return Ok(None);
    }
    let row = fetch(&mut tx, id).await?;
    if let Some(tags) = &edit.tags {
        sqlx::query("delete from tag where run = ?").bind(row.num).execute(&mut *tx).await?;
        for tag in tags {
            let sql = "insert or ignore into tag (name, run) values (?, ?)";
            sqlx::query(sql).bind(tag).bind(row.num).execute(&mut *tx).await?;
        }
    }
    let sql = "select name from tag where run = ? order by name";
    let tags: Vec<String> = sqlx::query_scalar(sql).bind(row.num).fetch_all(&mut *tx).await?;
    sqlx::query("update run set search = ? where num = ?")
        .bind(search(&row, &tags))
        .bind(row.num)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(Some(row))
}

/// What a search looks at.
fn search(row: &RunRow, tags: &[String]) -> String {
    let notes: String = row.notes.chars().take(300).collect();
    let parts = [&row.name, &row.id, &row.model, &row.dataset, &tags.join("\n"), &notes];
    parts.map(|part| part.to_lowercase()).join("\n")
}

/// The runs that ended last.
///
/// # Errors
/// Where the database fails.
pub async fn just_ended(db: &Db, limit: u32) -> Result<Vec<RunRow>> {
    let tail = "where ended_ms is not null and status not in ('queued', 'running', 'stopping') \
                order by ended_ms desc limit ?";
    Ok(sqlx::query_as(select(tail)).bind(limit).fetch_all(db.read()).await?)
}
