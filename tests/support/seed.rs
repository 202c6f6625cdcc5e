//! Databases that are full: ten thousand runs, and one of a million points.
#![allow(dead_code, unused_imports, reason = "tests and measurements use a part of it each")]
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "million.rs"]
mod million;

use std::path::Path;

pub use million::{HOLE, LONG, POINTS, SPIKE, a_million_points, write};

/// Fills the database of a data folder whose server runs.
pub fn fill(folder: &Path, statements: &[String]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(write(folder, statements));
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
