//! Databases that are full: ten thousand runs, and one of a million points.
#![allow(dead_code, reason = "tests and measurements use a part of it each")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use sqlx::Connection;

pub const LONG: &str = "01JZ000000000000000000LONG";
pub const POINTS: i64 = 1_000_000;
/// A single high value among a million.
pub const SPIKE: i64 = 654_321;
/// A single value that is not finite.
pub const HOLE: i64 = 222_222;

/// Fills the database of a server that runs.
pub fn fill(database: &Path, statements: &[String]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(fill_async(database, statements));
}

/// The same within a runtime.
pub async fn fill_async(database: &Path, statements: &[String]) {
    let url = format!("sqlite://{}", database.display());
    let mut db = sqlx::SqliteConnection::connect(&url).await.unwrap();
    for sql in statements {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.clone())).execute(&mut db).await.unwrap();
    }
}

pub fn ten_thousand_runs() -> String {
    "with recursive n (x) as (values (1) union all select x + 1 from n where x < 10000)
     insert into run (id, name, status, config, output_dir, created_ms, queue_pos, model, dataset, method, search, spark)
     select printf('01JZ%022d', x), 'sweep ' || x,
       case x % 5 when 0 then 'failed' when 1 then 'stopped' else 'finished' end,
       '{\"model_name_or_path\":\"/models/m' || (x % 7) || '\",\"dataset\":\"d' || (x % 11) || '\",\"learning_rate\":0.0001,
         \"lora_rank\":16,\"per_device_train_batch_size\":4,\"num_train_epochs\":3.0,\"template\":\"qwen\",\"cutoff_len\":2048}',
       '/r/' || x, 1795506192000 + x, x, '/models/m' || (x % 7), 'd' || (x % 11), case x % 2 when 0 then 'lora' else 'full' end,
       'sweep ' || x || char(10) || '/models/m' || (x % 7) || char(10) || 'd' || (x % 11), '3.1 2.2 1.9 1.7 1.65 1.6' from n;
     insert into tag (name, run) select 'rare', num from run where num % 1000 = 0;"
        .to_owned()
}

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
