//! A run as the pages show it: every value a text with its unit.

use run::fields::Field;
use serde_json::{Map, Value};

use super::format::{NONE, count, duration, iso, number, utc, whole};
use super::text::Lang;
use crate::db::list;
use crate::db::runs::RunRow;
use crate::web::state::AppState;

/// One run.
#[derive(Debug, Clone)]
pub struct RunView {
    /// As in the URL.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Who started it.
    pub owner: String,
    /// The status as in the API: names its icon and its colour.
    pub status: &'static str,
    /// The status in words.
    pub status_word: String,
    /// The model's last path element.
    pub model: String,
    /// The model as it was given.
    pub model_path: String,
    /// The data sets, with commas.
    pub dataset: String,
    /// `LoRA r8`, `Full`.
    pub method: String,
    /// Last training loss.
    pub loss: String,
    /// Steps done.
    pub step: i64,
    /// Steps done, for people.
    pub done: String,
    /// Steps in all, once known.
    pub total: Option<i64>,
    /// `/ 900`, or nothing.
    pub of: String,
    /// Epochs done.
    pub epoch: String,
    /// `12.4k`, tokens per second.
    pub speed: String,
    /// Seconds of training.
    pub elapsed: String,
    /// What is left.
    pub eta: String,
    /// From first start to end, or to now.
    pub duration: String,
    /// When it was made, ISO 8601.
    pub created_iso: String,
    /// When it was made, for people.
    pub created: String,
    /// Whether Stop is offered.
    pub can_stop: bool,
    /// Whether Resume is offered.
    pub can_resume: bool,
    /// Whether it has a prompt that it could answer now.
    pub can_sample: bool,
    /// Whether nothing happens any more.
    pub over: bool,
    /// What a person wrote about it.
    pub notes: String,
    /// Its tags; filled in by whoever shows them.
    pub tags: Vec<String>,
    /// The loss as points of a polyline in a box of 96 x 24; empty without a curve.
    pub spark: String,
}

impl RunView {
    /// The run of a row at `now_ms`.
    #[must_use]
    pub fn new(row: &RunRow, now_ms: i64, lang: Lang) -> Self {
        let config = row.config_map();
        let model_path = argument(&config, "model_name_or_path");
        let status = row.status.as_str();
        Self {
            id: row.id.clone(),
            name: row.name.clone(),
            owner: row.owner.clone(),
            status,
            status_word: lang.text(&format!("status.{status}")).to_owned(),
            model: last_part(&model_path),
            model_path,
            dataset: or_none(argument(&config, "dataset")),
            method: method(&config),
            loss: number(row.last_loss),
            step: row.step,
            done: if row.total_steps.is_some() { whole(row.step) } else { NONE.to_owned() },
            total: row.total_steps,
            of: row.total_steps.map(|total| format!("/ {}", whole(total))).unwrap_or_default(),
            epoch: row.epoch.map_or_else(|| NONE.to_owned(), |epoch| format!("{epoch:.2}")),
            speed: count(row.tokens_per_s),
            elapsed: duration(row.elapsed_s),
            eta: duration(row.eta_s()),
            duration: duration(lasted(row, now_ms)),
            created_iso: iso(row.created_ms),
            created: utc(row.created_ms),
            can_stop: !row.status.is_over(),
            can_resume: row.status.can_resume(),
            can_sample: row.status.is_active() && config.contains_key("sample_prompt"),
            over: row.status.is_over(),
            notes: row.notes.clone(),
            tags: Vec::new(),
            spark: spark(&row.spark),
        }
    }

    /// The runs of a page with their tags.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn tagged(
        state: &AppState,
        rows: &[RunRow],
        lang: Lang,
    ) -> crate::db::Result<Vec<Self>> {
        let mut tags = list::tags(&state.db, rows).await?;
        let now = state.clock.now_ms();
        let view = |row: &RunRow| {
            let tags = tags.remove(&row.num).unwrap_or_default();
            Self { tags, ..Self::new(row, now, lang) }
        };
        Ok(rows.iter().map(view).collect())
    }

    /// The tags as they are typed.
    #[must_use]
    pub fn tag_list(&self) -> String {
        self.tags.join(", ")
    }

    /// Steps done of all, as 0 to 100.
    #[must_use]
    pub fn percent(&self) -> Option<i64> {
        self.total.filter(|total| *total > 0).map(|total| (100 * self.step / total).clamp(0, 100))
    }
}

/// The value of an argument as text; the table's default where the run does not set it.
#[must_use]
pub fn argument(config: &Map<String, Value>, name: &str) -> String {
    match config.get(name) {
        Some(value) => plain(value),
        None => Field::find(name).map(|field| plain(&field.default_value())).unwrap_or_default(),
    }
}

/// JSON as a person would type it into a form.
#[must_use]
pub fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(","),
        Value::Number(number) if number.is_f64() => number.as_f64().map(tidy).unwrap_or_default(),
        other => other.to_string(),
    }
}

/// `3`, `0.05`, `5e-5`.
fn tidy(number: f64) -> String {
    if number != 0.0 && number.abs() < 1e-3 { format!("{number:e}") } else { number.to_string() }
}

/// Values with spaces between them as a polyline: first left, last right, lowest below.
fn spark(values: &str) -> String {
    let values: Vec<Option<f64>> = values.split(' ').map(|value| value.parse().ok()).collect();
    let finite = || values.iter().flatten().copied();
    let (low, high) =
        (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
    if finite().count() < 2 {
        return String::new();
    }
    let span = if high > low { high - low } else { 1.0 };
    #[expect(clippy::cast_precision_loss, reason = "at most 60 values")]
    let wide = (values.len() - 1).max(1) as f64;
    let mut points = Vec::new();
    for (place, value) in values.iter().enumerate() {
        #[expect(clippy::cast_precision_loss, reason = "at most 60 values")]
        let x = place as f64 / wide * 94.0 + 1.0;
        if let Some(value) = value {
            points.push(format!("{x:.1},{:.1}", 2.0 + (high - value) / span * 20.0));
        }
    }
    points.join(" ")
}

fn method(config: &Map<String, Value>) -> String {
    match argument(config, "finetuning_type").as_str() {
        "lora" => format!("LoRA r{}", argument(config, "lora_rank")),
        "full" => "Full".to_owned(),
        other => other.to_owned(),
    }
}

/// The last part of a path, with the one before where it says nothing by itself: `demo/model`.
fn last_part(path: &str) -> String {
    let mut parts = path.trim_end_matches('/').rsplit('/');
    let last = parts.next().unwrap_or_default();
    match parts.next().filter(|parent| !parent.is_empty()) {
        Some(parent) if matches!(last, "model" | "final" | "output") => format!("{parent}/{last}"),
        _ => or_none(last.to_owned()),
    }
}

fn or_none(text: String) -> String {
    if text.is_empty() { NONE.to_owned() } else { text }
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of a run are far below 2^52")]
fn lasted(row: &RunRow, now_ms: i64) -> Option<f64> {
    let start = row.started_ms?;
    let end = if row.status.is_active() { now_ms } else { row.ended_ms? };
    Some((end - start).max(0) as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_as_typed() {
        for (value, expected) in [
            (json!(null), ""),
            (json!(3.0), "3"),
            (json!(5e-5), "5e-5"),
            (json!(0.05), "0.05"),
            (json!(true), "true"),
            (json!(-1), "-1"),
            (json!(["a", "b"]), "a,b"),
            (json!("x"), "x"),
            (json!(0.0), "0"),
        ] {
            assert_eq!(plain(&value), expected);
        }
    }

    #[test]
    fn sparks() {
        for (values, expected) in [
            ("", ""),
            ("1.0", ""),
            ("x x", ""),
            ("2 x 0", "1.0,2.0 95.0,22.0"),
            ("5 5 5", "1.0,2.0 48.0,2.0 95.0,2.0"),
        ] {
            assert_eq!(spark(values), expected, "{values}");
        }
    }

    #[test]
    fn models_and_methods() {
        let of = |config: Value| {
            (
                method(config.as_object().unwrap_or(&Map::new())),
                last_part(&argument(
                    config.as_object().unwrap_or(&Map::new()),
                    "model_name_or_path",
                )),
            )
        };
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(of(json!({})), pair("LoRA r8", "–"));
        assert_eq!(
            of(json!({"finetuning_type": "full", "model_name_or_path": "/a/b/"})),
            pair("Full", "b")
        );
    }
}
