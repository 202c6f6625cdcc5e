//! The `kv` table: single settings of the server.

use super::{Db, Result};

/// The value of a key.
///
/// # Errors
/// Where the database fails.
pub async fn get(db: &Db, key: &str) -> Result<Option<String>> {
    let sql = "select value from kv where key = ?";
    Ok(sqlx::query_scalar(sql).bind(key).fetch_optional(db.read()).await?)
}

/// Stores a value; `None` removes the key.
///
/// # Errors
/// Where the database fails.
pub async fn set(db: &Db, key: &str, value: Option<&str>) -> Result<()> {
    let mut tx = db.write().await?;
    match value {
        Some(value) => {
            let sql = "insert or replace into kv (key, value) values (?, ?)";
            sqlx::query(sql).bind(key).bind(value).execute(&mut *tx).await?;
        }
        None => {
            sqlx::query("delete from kv where key = ?").bind(key).execute(&mut *tx).await?;
        }
    }
    Ok(tx.commit().await?)
}
