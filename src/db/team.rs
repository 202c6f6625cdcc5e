//! People, their sessions and tokens, and who did what. Secrets come in as hashes only.

use std::fmt;

use sqlx::FromRow;

use super::{Db, DbError, Result};

/// What somebody may do; each may what the one before may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Looks.
    Viewer,
    /// Starts, stops and changes runs.
    Editor,
    /// Decides who may.
    Admin,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Editor, Self::Admin];

    /// The word in the database and in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Editor => "editor",
            Self::Admin => "admin",
        }
    }

    /// The role of a word.
    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == word)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl TryFrom<String> for Role {
    type Error = DbError;

    fn try_from(text: String) -> Result<Self> {
        Self::named(&text).ok_or_else(|| DbError::Unknown(format!("role `{text}`")))
    }
}

/// A person; the password's hash stays in the database but for a login.
#[derive(Debug, Clone, FromRow)]
pub struct User {
    /// Its number.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// What it may do.
    #[sqlx(try_from = "String")]
    pub role: Role,
    /// When it was made.
    pub created_ms: i64,
}

const USER: &str = "select id, name, role, created_ms from user ";

fn select(tail: &'static str) -> sqlx::AssertSqlSafe<String> {
    sqlx::AssertSqlSafe(format!("{USER}{tail}"))
}

/// Everybody, by name.
///
/// # Errors
/// Where the database fails.
pub async fn users(db: &Db) -> Result<Vec<User>> {
    Ok(sqlx::query_as(select("order by name")).fetch_all(db.read()).await?)
}

/// The person of that name, with the password's hash.
///
/// # Errors
/// Where the database fails.
pub async fn by_name(db: &Db, name: &str) -> Result<Option<(User, String)>> {
    let user: Option<User> =
        sqlx::query_as(select("where name = ?")).bind(name).fetch_optional(db.read()).await?;
    let Some(user) = user else {
        return Ok(None);
    };
    let sql = "select password from user where id = ?";
    let hash: Option<String> =
        sqlx::query_scalar(sql).bind(user.id).fetch_optional(db.read()).await?;
    Ok(hash.map(|hash| (user, hash)))
}

/// Adds a person; `None` where the name is taken.
///
/// # Errors
/// Where the database fails.
pub async fn add(
    db: &Db,
    name: &str,
    role: Role,
    password: &str,
    now_ms: i64,
) -> Result<Option<User>> {
    let mut tx = db.write().await?;
    let sql = "insert into user (name, role, password, created_ms) values (?, ?, ?, ?) \
               on conflict (name) do nothing";
    let query = sqlx::query(sql).bind(name).bind(role.as_str()).bind(password).bind(now_ms);
    let done = query.execute(&mut *tx).await?;
    if done.rows_affected() == 0 {
        return Ok(None);
    }
    let user = sqlx::query_as(select("where name = ?")).bind(name).fetch_one(&mut *tx).await?;
    tx.commit().await?;
    Ok(Some(user))
}

/// Changes role or password; a new password ends every session. False where there is no such person.
///
/// # Errors
/// Where the database fails.
pub async fn change(db: &Db, id: i64, role: Option<Role>, password: Option<&str>) -> Result<bool> {
    let mut tx = db.write().await?;
    let sql = "update user set role = coalesce(?2, role), password = coalesce(?3, password) where id = ?1";
    let query = sqlx::query(sql).bind(id).bind(role.map(Role::as_str)).bind(password);
    let done = query.execute(&mut *tx).await?;
    if password.is_some() {
        sqlx::query("delete from session where user = ?").bind(id).execute(&mut *tx).await?;
    }
    tx.commit().await?;
    Ok(done.rows_affected() > 0)
}

/// Removes a person with all sessions and tokens. False where there is none.
///
/// # Errors
/// Where the database fails.
pub async fn remove(db: &Db, id: i64) -> Result<bool> {
    let mut tx = db.write().await?;
    let done = sqlx::query("delete from user where id = ?").bind(id).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(done.rows_affected() > 0)
}

/// A session of this long without use is over.
const IDLE_MS: i64 = 30 * 86_400_000;
/// Use is noted this often.
const NOTE_MS: i64 = 3_600_000;

/// Opens a session and forgets those that are over.
///
/// # Errors
/// Where the database fails.
pub async fn open_session(db: &Db, user: i64, hash: &str, now_ms: i64) -> Result<()> {
    let mut tx = db.write().await?;
    let sql = "delete from session where used_ms < ?";
    sqlx::query(sql).bind(now_ms - IDLE_MS).execute(&mut *tx).await?;
    let sql = "insert into session (hash, user, created_ms, used_ms) values (?, ?, ?, ?)";
    let query = sqlx::query(sql).bind(hash).bind(user).bind(now_ms).bind(now_ms);
    query.execute(&mut *tx).await?;
    Ok(tx.commit().await?)
}

/// Ends a session.
///
/// # Errors
/// Where the database fails.
pub async fn close_session(db: &Db, hash: &str) -> Result<()> {
    let mut tx = db.write().await?;
    sqlx::query("delete from session where hash = ?").bind(hash).execute(&mut *tx).await?;
    Ok(tx.commit().await?)
}

/// Whose session it is, unless it is over.
///
/// # Errors
/// Where the database fails.
pub async fn of_session(db: &Db, hash: &str, now_ms: i64) -> Result<Option<User>> {
    let sql = "select used_ms from session where hash = ? and used_ms >= ?";
    let used: Option<i64> =
        sqlx::query_scalar(sql).bind(hash).bind(now_ms - IDLE_MS).fetch_optional(db.read()).await?;
    let Some(used) = used else {
        return Ok(None);
    };
    if now_ms - used > NOTE_MS {
        let mut tx = db.write().await?;
        let sql = "update session set used_ms = ? where hash = ?";
        sqlx::query(sql).bind(now_ms).bind(hash).execute(&mut *tx).await?;
        tx.commit().await?;
    }
    let tail = "where id = (select user from session where hash = ?)";
    Ok(sqlx::query_as(select(tail)).bind(hash).fetch_optional(db.read()).await?)
}

/// A token of a person, for scripts.
#[derive(Debug, Clone, FromRow)]
pub struct ApiToken {
    /// Its number.
    pub id: i64,
    /// What it is for.
    pub name: String,
    /// When it was made.
    pub created_ms: i64,
    /// When it was last used, to the hour.
    pub used_ms: Option<i64>,
}

/// The tokens of a person.
///
/// # Errors
/// Where the database fails.
pub async fn tokens(db: &Db, user: i64) -> Result<Vec<ApiToken>> {
    let sql = "select id, name, created_ms, used_ms from api_token where user = ? order by id";
    Ok(sqlx::query_as(sql).bind(user).fetch_all(db.read()).await?)
}

/// Adds a token.
///
/// # Errors
/// Where the database fails.
pub async fn add_token(db: &Db, user: i64, name: &str, hash: &str, now_ms: i64) -> Result<i64> {
    let mut tx = db.write().await?;
    let sql = "insert into api_token (hash, user, name, created_ms) values (?, ?, ?, ?)";
    let query = sqlx::query(sql).bind(hash).bind(user).bind(name).bind(now_ms);
    let done = query.execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(done.last_insert_rowid())
}

/// Removes a token of a person. False where there is none.
///
/// # Errors
/// Where the database fails.
pub async fn remove_token(db: &Db, user: i64, id: i64) -> Result<bool> {
    let mut tx = db.write().await?;
    let sql = "delete from api_token where user = ? and id = ?";
    let done = sqlx::query(sql).bind(user).bind(id).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(done.rows_affected() > 0)
}

/// Whose token it is.
///
/// # Errors
/// Where the database fails.
pub async fn of_token(db: &Db, hash: &str, now_ms: i64) -> Result<Option<User>> {
    let sql = "select id, coalesce(used_ms, 0) from api_token where hash = ?";
    let found: Option<(i64, i64)> =
        sqlx::query_as(sql).bind(hash).fetch_optional(db.read()).await?;
    let Some((id, used)) = found else {
        return Ok(None);
    };
    if now_ms - used > NOTE_MS {
        let mut tx = db.write().await?;
        let sql = "update api_token set used_ms = ? where id = ?";
        sqlx::query(sql).bind(now_ms).bind(id).execute(&mut *tx).await?;
        tx.commit().await?;
    }
    let tail = "where id = (select user from api_token where hash = ?)";
    Ok(sqlx::query_as(select(tail)).bind(hash).fetch_optional(db.read()).await?)
}

/// One line of who did what.
#[derive(Debug, Clone, FromRow)]
pub struct Act {
    /// Its number; the newest has the highest.
    pub id: i64,
    /// When.
    pub at_ms: i64,
    /// Who.
    pub who: String,
    /// What: start, stop, resume, edit, ask, queue, move, or team.
    pub act: String,
    /// The path of the request.
    pub path: String,
    /// The run that it was about.
    pub run: Option<String>,
}

/// Notes what somebody did; whoever starts a run owns it.
///
/// # Errors
/// Where the database fails.
pub async fn note(
    db: &Db,
    at_ms: i64,
    who: &str,
    act: &str,
    path: &str,
    run: Option<&str>,
) -> Result<()> {
    let mut tx = db.write().await?;
    let sql = "insert into audit (at_ms, who, act, path, run) values (?, ?, ?, ?, ?)";
    let query = sqlx::query(sql).bind(at_ms).bind(who).bind(act).bind(path).bind(run);
    query.execute(&mut *tx).await?;
    if act == "start" {
        let sql = "update run set owner = ? where id = ? and owner = ''";
        sqlx::query(sql).bind(who).bind(run).execute(&mut *tx).await?;
    }
    Ok(tx.commit().await?)
}

/// What was done last, newest first, before the line of that number.
///
/// # Errors
/// Where the database fails.
pub async fn acts(db: &Db, before: Option<i64>, limit: u32) -> Result<Vec<Act>> {
    let sql =
        "select id, at_ms, who, act, path, run from audit where id < ? order by id desc limit ?";
    let before = before.unwrap_or(i64::MAX);
    Ok(sqlx::query_as(sql).bind(before).bind(limit).fetch_all(db.read()).await?)
}
