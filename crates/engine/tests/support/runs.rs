//! Whole runs in a test: the demo's model and rows, an observer that keeps what it is told.
#![allow(dead_code, reason = "each test file uses a part")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use engine::error::Result;
use engine::model::hub::HubEnv;
use engine::model::weights::{Data, Dtype, read_safetensors};
use engine::observer::Observer;
use engine::prepare::Surroundings;
use engine::train::{Outcome, train};
use run::config::Config;
use run::control::Wish;
use run::event::Body;
use serde_json::{Value, json};

/// Keeps every event; stops at a step where asked to.
#[derive(Default)]
pub struct Watch {
    /// All events in order.
    pub events: Vec<Body>,
    /// Save and stop after so many steps.
    pub stop_after: Option<u64>,
    steps: u64,
}

impl Observer for Watch {
    fn event(&mut self, body: Body) -> Result<()> {
        if let Body::Metric { step, values, .. } = &body
            && values.contains_key("loss")
        {
            self.steps = *step;
        }
        self.events.push(body);
        Ok(())
    }

    fn rewind(&mut self, to_step: u64) -> Result<()> {
        self.steps = to_step;
        Ok(())
    }

    fn wish(&mut self) -> Wish {
        match self.stop_after {
            Some(at) if self.steps >= at => Wish::StopAndSave,
            _ => Wish::Run,
        }
    }

    fn elapsed_s(&self) -> f64 {
        0.0
    }
}

impl Watch {
    /// One value of every metric event that has it, by step.
    pub fn metric(&self, name: &str) -> BTreeMap<u64, f64> {
        let of = |body: &Body| match body {
            Body::Metric { step, values, .. } => Some((*step, values.get(name).copied()??)),
            _ => None,
        };
        self.events.iter().filter_map(of).collect()
    }

    /// All lines that were said.
    pub fn said(&self) -> String {
        let text = |body: &Body| match body {
            Body::Notice { text, .. } => Some(text.clone()),
            _ => None,
        };
        self.events.iter().filter_map(text).collect::<Vec<_>>().join("\n")
    }
}

/// The repository's root.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A run of the demo's model on its rows: `more` adds to and overrides the arguments.
pub fn config(output_dir: &Path, more: Value) -> Config {
    let root = root();
    let mut map = json!({
        "model_name_or_path": root.join("data/demo/model"),
        "dataset": "demo",
        "dataset_dir": root.join("data"),
        "template": "chatml",
        "cutoff_len": 96,
        "output_dir": output_dir,
        "finetuning_type": "full",
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-3,
        "max_steps": 8,
        "max_samples": 40,
        "logging_steps": 1,
        "save_strategy": "no",
        "threads": 2,
    });
    for (name, value) in more.as_object().unwrap() {
        map[name] = value.clone();
    }
    let (config, _) = Config::from_map(map.as_object().unwrap()).unwrap();
    config.check().unwrap();
    config
}

/// A world without hubs.
pub fn around() -> Surroundings {
    Surroundings {
        hub: HubEnv { hf_cache: PathBuf::new(), ms_cache: PathBuf::new() },
        started_unix_s: 1_790_000_000,
        cores: 2,
        memory: None,
    }
}

/// Trains; with `stop_after`, only so far.
pub fn run(config: &Config, stop_after: Option<u64>) -> (Outcome, Watch) {
    run_in(None, config, stop_after)
}

/// As [`run`], where so many bytes of memory are free.
pub fn run_in(memory: Option<u64>, config: &Config, stop_after: Option<u64>) -> (Outcome, Watch) {
    let around = Surroundings { memory, ..around() };
    let mut watch = Watch { stop_after, ..Watch::default() };
    let outcome = train(config, &around, &mut watch).unwrap();
    (outcome, watch)
}

/// The tensors of a safetensors file.
pub fn tensors(path: &Path) -> BTreeMap<String, Vec<f32>> {
    let values = |data: Data| match data {
        Data::F32(values) => values,
        Data::Bf16(values) => values.into_iter().map(f32::from).collect(),
    };
    let read = read_safetensors(path, Dtype::F32).unwrap();
    read.into_iter().map(|(name, tensor)| (name, values(tensor.data))).collect()
}

/// Runs `more` whole, and again with a stop after each of `stops`: losses and the written files must
/// be the same to the bit.
pub fn resumes_bit_for_bit(more: &Value, stops: &[u64], file: &str) {
    let whole = tempfile::tempdir().unwrap();
    let (outcome, watch) = run(&config(whole.path(), more.clone()), None);
    assert_eq!(outcome, Outcome::Finished);
    let (losses, weights) = (watch.metric("loss"), tensors(&whole.path().join(file)));
    let broken = tempfile::tempdir().unwrap();
    let mut together = BTreeMap::new();
    for stop in stops {
        let (outcome, watch) = run(&config(broken.path(), more.clone()), Some(*stop));
        assert_eq!(outcome, Outcome::Stopped(*stop), "{more}");
        together.extend(watch.metric("loss"));
    }
    let (outcome, watch) = run(&config(broken.path(), more.clone()), None);
    assert_eq!(outcome, Outcome::Finished);
    together.extend(watch.metric("loss"));
    assert_eq!(together, losses, "{more}");
    assert_eq!(tensors(&broken.path().join(file)), weights, "{more}");
}
