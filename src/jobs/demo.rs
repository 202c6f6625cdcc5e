//! The sample run: a tiny model and its rows, both in the binary, put into the data folder when they are first wanted.

use std::fs;
use std::io;
use std::path::Path;

use run::config::Config;
use rust_embed::RustEmbed;
use serde_json::Value;

use super::{CreateError, FieldError, Pairs};

/// data/demo of the repository.
#[derive(RustEmbed)]
#[folder = "data/demo/"]
#[allow_missing = true]
struct Demo;

/// The configuration that comes with them.
const CONFIG: &str = "demo.yaml";
/// What the sample's folder says of its rows.
const INFO: &str = r#"{"demo": {"file_name": "identity.json"}}"#;

/// Writes DATA/demo, where it is not there as it should be, and gives the arguments of the sample run.
pub(super) async fn prepare(data_dir: &Path) -> Result<Pairs, CreateError> {
    let folder = data_dir.join("demo");
    tokio::task::spawn_blocking(move || extract(&folder)).await.map_err(io::Error::other)?
}

fn extract(folder: &Path) -> Result<Pairs, CreateError> {
    for name in Demo::iter().filter(|name| !name.starts_with("pretrain")) {
        if let Some(file) = Demo::get(&name) {
            place(&folder.join(name.as_ref()), &file.data)?;
        }
    }
    place(&folder.join("dataset_info.json"), INFO.as_bytes())?;
    let (config, _) = Config::from_file(folder.join(CONFIG))
        .map_err(|error| CreateError::Invalid(error.errors))?;
    if !folder.join("model").is_dir() {
        let message =
            "this build has no sample model; run scripts/make_demo.sh and build again".to_owned();
        return Err(CreateError::Invalid(vec![FieldError {
            field: "model_name_or_path".to_owned(),
            message,
        }]));
    }
    let mut map = config.to_map();
    map.shift_remove("output_dir");
    let text = |path: &Path| Value::from(path.display().to_string());
    map.insert("model_name_or_path".to_owned(), text(&folder.join("model")));
    map.insert("dataset_dir".to_owned(), text(folder));
    map.insert("run_name".to_owned(), "Sample run".into());
    Ok(map.into_iter().collect())
}

fn place(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    run::atomic::write(path, bytes)
}
