//! From arguments to a queued run: everything is checked, and every path resolved, before the row is made.

use std::fs;

use run::config::{Config, ConfigError};
use run::dir::RunDir;
use serde_json::{Map, Value};

use super::{CreateError, FieldError, Inner, Pairs, Prepared};
use crate::db::runs::{self, NewRun, RunRow};

/// Checks arguments and resolves their paths.
///
/// # Errors
/// With every wrong argument, or where the database fails.
pub(super) async fn prepare(jobs: &Inner, pairs: &Pairs) -> Result<Prepared, CreateError> {
    let (config, notices) = Config::from_pairs(pairs).map_err(invalid)?;
    let mut map = config.to_map();
    let given = |name: &str| pairs.iter().any(|(key, _)| key == name);
    // what is posted here is to be trained, and the page shows its curve
    for switch in ["do_train", "plot_loss"] {
        if !given(switch) {
            map.insert(switch.to_owned(), true.into());
        }
    }
    let roots = jobs.roots.clone();
    let resolved = tokio::task::spawn_blocking(move || roots.confine(&mut map).map(|()| map));
    let map = resolved.await.map_err(std::io::Error::other)?.map_err(CreateError::Invalid)?;
    let (config, _) = Config::from_map(&map).map_err(invalid)?;
    config
        .check()
        .map_err(|error| {
            // the folder is made here where none is given
            let mut errors = error.errors;
            errors.retain(|error| error.field != "output_dir" || config.output_dir.is_some());
            CreateError::Invalid(errors)
        })
        .or_else(|error| match error {
            CreateError::Invalid(errors) if errors.is_empty() => Ok(()),
            other => Err(other),
        })?;
    let output_dir = config.output_dir.clone().filter(|text| !text.is_empty());
    if let Some(path) = &output_dir {
        check_free(jobs, path).await?;
    }
    let name = name(&config);
    let map = config.to_map();
    Ok(Prepared { config, map, name, notices, output_dir })
}

/// Queues a run of prepared arguments.
///
/// # Errors
/// Where the folder cannot be made or the database fails.
pub(super) async fn queue(
    jobs: &Inner,
    prepared: Prepared,
    start_id: Option<String>,
) -> Result<(RunRow, bool), CreateError> {
    let id = ulid::Ulid::new().to_string();
    let Prepared { mut map, name, output_dir, .. } = prepared;
    let output_dir = match output_dir {
        Some(path) => path,
        None => {
            let path = jobs.roots.data_dir().join("runs").join(&id).display().to_string();
            map.insert("output_dir".to_owned(), path.clone().into());
            path
        }
    };
    let new = NewRun {
        id,
        start_id,
        name,
        config: Value::Object(map).to_string(),
        output_dir,
        created_ms: jobs.clock.now_ms(),
    };
    let (row, fresh) = runs::insert(&jobs.db, &new).await?;
    if fresh {
        jobs.nudge.notify_one();
    }
    Ok((row, fresh))
}

/// A folder is written by one run at a time, and a folder of something else by none.
async fn check_free(jobs: &Inner, path: &str) -> Result<(), CreateError> {
    let wrong = |message: String| {
        CreateError::Invalid(vec![FieldError { field: "output_dir".to_owned(), message }])
    };
    if let Some(other) = runs::unfinished_in(&jobs.db, path).await? {
        return Err(wrong(format!(
            "the run {} ({}) writes there and is not over",
            other.id, other.name
        )));
    }
    let dir = RunDir::new(path);
    if run::lock::is_held(&dir).unwrap_or(false) {
        return Err(wrong("another process trains in this folder".to_owned()));
    }
    let empty = fs::read_dir(path).map_or(true, |mut entries| entries.next().is_none());
    if !empty && !dir.is_ours() {
        return Err(wrong(format!("`{path}` is not empty and holds no run; name another folder")));
    }
    Ok(())
}

fn invalid(error: ConfigError) -> CreateError {
    CreateError::Invalid(error.errors)
}

/// What the list shows where no `run_name` is given: model, data set, method.
fn name(config: &Config) -> String {
    if let Some(name) = config.run_name.as_deref().map(str::trim).filter(|name| !name.is_empty()) {
        return name.chars().take(120).collect();
    }
    let map: Map<String, Value> = config.to_map();
    let model = config.model_name_or_path.as_deref().unwrap_or("model");
    let model = model.trim_end_matches('/').rsplit('/').next().unwrap_or(model);
    let method = map.get("finetuning_type").and_then(Value::as_str).unwrap_or("lora");
    let data = config.dataset.join("+");
    [model, &data, method]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(" · ")
}
