//! The queue's order and settings. What waits is every run of status `queued`, smallest `queue_pos` first.

use super::{Db, Result, kv};

/// What the queue is set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Nothing new starts.
    pub paused: bool,
    /// How many runs train at a time; `None` = as the command line says.
    pub slots: Option<usize>,
}

/// The settings; they outlive the server.
///
/// # Errors
/// Where the database fails.
pub async fn settings(db: &Db) -> Result<Settings> {
    let paused = kv::get(db, "queue.paused").await?.is_some();
    let slots = kv::get(db, "queue.slots").await?.and_then(|text| text.parse().ok());
    Ok(Settings { paused, slots })
}

/// Pauses the queue or lets it go on.
///
/// # Errors
/// Where the database fails.
pub async fn pause(db: &Db, paused: bool) -> Result<()> {
    kv::set(db, "queue.paused", paused.then_some("yes")).await
}

/// Sets how many runs train at a time.
///
/// # Errors
/// Where the database fails.
pub async fn set_slots(db: &Db, slots: usize) -> Result<()> {
    kv::set(db, "queue.slots", Some(&slots.to_string())).await
}

/// Where a run goes in the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// One forward.
    Up,
    /// One back.
    Down,
    /// To the front.
    First,
    /// To the end.
    Last,
    /// Before the run of that id; unknown or no longer waiting: to the end.
    Before(String),
}

/// Moves a waiting run; false where it does not wait.
///
/// # Errors
/// Where the database fails.
pub async fn shift(db: &Db, id: &str, place: &Place) -> Result<bool> {
    let mut tx = db.write().await?;
    let sql = "select id, queue_pos from run where status = 'queued' order by queue_pos, num";
    let rows: Vec<(String, i64)> = sqlx::query_as(sql).fetch_all(&mut *tx).await?;
    let first = rows.iter().map(|row| row.1).min().unwrap_or(0);
    let mut ids: Vec<String> = rows.into_iter().map(|row| row.0).collect();
    if !reorder(&mut ids, id, place) {
        return Ok(false);
    }
    for (id, position) in ids.iter().zip(first..) {
        let sql = "update run set queue_pos = ? where id = ?";
        sqlx::query(sql).bind(position).bind(id).execute(&mut *tx).await?;
    }
    tx.commit().await?;
    Ok(true)
}

fn reorder(ids: &mut Vec<String>, id: &str, place: &Place) -> bool {
    let Some(from) = ids.iter().position(|one| one == id) else {
        return false;
    };
    let moved = ids.remove(from);
    let to = match place {
        Place::Up => from.saturating_sub(1),
        Place::Down => (from + 1).min(ids.len()),
        Place::First => 0,
        Place::Last => ids.len(),
        Place::Before(other) if *other == moved => from,
        Place::Before(other) => ids.iter().position(|one| one == other).unwrap_or(ids.len()),
    };
    ids.insert(to, moved);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves() {
        let check = |id: &str, place: Place, expected: Option<&str>| {
            let mut ids: Vec<String> = ["a", "b", "c"].map(str::to_owned).into();
            let moved = reorder(&mut ids, id, &place);
            assert_eq!(moved.then(|| ids.concat()).as_deref(), expected, "{id} {place:?}");
        };
        check("a", Place::Up, Some("abc"));
        check("b", Place::Up, Some("bac"));
        check("b", Place::Down, Some("acb"));
        check("c", Place::Down, Some("abc"));
        check("c", Place::First, Some("cab"));
        check("a", Place::Last, Some("bca"));
        check("c", Place::Before("b".to_owned()), Some("acb"));
        check("a", Place::Before("c".to_owned()), Some("bac"));
        check("a", Place::Before("x".to_owned()), Some("bca"));
        check("b", Place::Before("b".to_owned()), Some("abc"));
        check("x", Place::First, None);
    }
}
