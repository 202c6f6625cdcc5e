//! A run of a million points with a spike of one point and a value that is not finite.

use std::path::Path;

use sqlx::Connection;

/// Its id.
pub const LONG: &str = "01JZ000000000000000000LONG";
pub const POINTS: i64 = 1_000_000;
/// A single high value among a million.
pub const SPIKE: i64 = 654_321;
/// A single value that is not finite.
pub const HOLE: i64 = 222_222;

/// Runs statements on the database of a data folder.
pub async fn write(folder: &Path, statements: &[String]) {
    let url = format!("sqlite://{}", folder.join("tallow.db").display());
    let mut db = sqlx::SqliteConnection::connect(&url).await.unwrap();
    for sql in statements {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.clone())).execute(&mut db).await.unwrap();
    }
}

/// What makes the run.
pub fn a_million_points() -> Vec<String> {
    let run = format!("(select num from run where id = '{LONG}')");
    vec![
        format!(
            "insert into run (id, name, status, config, output_dir, created_ms, started_ms, ended_ms, queue_pos, step, total_steps, seq)
             values ('{LONG}', 'long', 'finished', '{{}}', '/r/long', 1, 1, 2, 0, {POINTS}, {POINTS}, {POINTS});
             insert into metric_key (id, name) values (1, 'loss'), (2, 'lr');"
        ),
        format!(
            "with recursive n (x) as (values (1) union all select x + 1 from n where x < {POINTS})
             insert into metric (run, key, step, seq, value)
             select {run}, 1, x, x, case x when {SPIKE} then 99.5 when {HOLE} then null else 2.0 + (x * 7919 % 1000) / 1000.0 end from n;"
        ),
        format!(
            "insert into metric_block (run, key, block, n, total, low, high, last_step, bad)
             select run, key, step / 256, count(value), sum(value), min(value), max(value), max(step), count(*) - count(value)
             from metric where run = {run} group by run, key, step / 256;"
        ),
        format!(
            "with recursive n (x) as (values (1) union all select x + 1 from n where x < {POINTS})
             insert into event (run, seq, kind, at_ms, body) select {run}, x, 'metric', 1, '{{\"step\":' || x || '}}' from n;"
        ),
    ]
}
