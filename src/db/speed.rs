//! How fast this machine was: the throughput of earlier runs.

use super::{Db, Result};

/// Runs that are looked at, the newest first.
const LOOKED_AT: i64 = 5;

/// Tokens a second of the newest runs with this model and this `finetuning_type`, on average; `None` where there was
/// none.
///
/// # Errors
/// Where the database fails.
pub async fn measured(db: &Db, model: &str, method: &str) -> Result<Option<f64>> {
    let sql = "select avg(tokens_per_s) from (select tokens_per_s from run where tokens_per_s > 0 \
        and json_extract(config, '$.model_name_or_path') = ?1 \
        and coalesce(json_extract(config, '$.finetuning_type'), 'lora') = ?2 order by num desc limit ?3)";
    let speed: Option<f64> = sqlx::query_scalar(sql)
        .bind(model)
        .bind(method)
        .bind(LOOKED_AT)
        .fetch_one(db.read())
        .await?;
    Ok(speed)
}
