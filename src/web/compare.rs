//! Two to ten runs beside each other: the settings that differ, what came of them, their curves to take away.

use run::fields::Field;
use serde_json::{Map, Value};

use super::error::{Error, Result};
use super::state::AppState;
use crate::db::metrics::{self, Best};
use crate::db::runs::{self, RunRow};
use crate::plot::overlay;

/// Most runs at a time: more curves nobody can tell apart.
pub const MOST: usize = 10;
/// Settings that say where and under which name, not what.
const NAMES: &[&str] = &["output_dir", "run_name"];
/// Most points of an exported curve; longer ones come as the means of buckets, with the lowest and highest beside them.
const POINTS: u32 = 10_000;

/// The comparison.
pub struct Comparison {
    /// The runs, as they were asked for.
    pub runs: Vec<RunRow>,
    /// Each argument that some run sets; those that differ first.
    pub settings: Vec<Setting>,
    /// What came of them.
    pub results: Vec<Outcome>,
}

/// One argument over all runs.
pub struct Setting {
    /// Its name.
    pub name: String,
    /// Its value in each run; the default where it was not set.
    pub values: Vec<Value>,
    /// Whether not all are the same.
    pub differs: bool,
}

/// One result over all runs.
pub struct Outcome {
    /// `loss.last`, `loss.best`, `eval_loss.last`, `eval_loss.best`, `step`, `elapsed_s`, `tokens_per_s`.
    pub key: &'static str,
    /// Its value in each run.
    pub values: Vec<Option<f64>>,
    /// Of a best value: its step.
    pub steps: Vec<Option<i64>>,
    /// The run with the lowest loss; of other results none.
    pub best: Option<usize>,
}

/// The ids in `runs=a,b&runs=c`: each once, in order.
#[must_use]
pub fn ids<'q>(values: impl Iterator<Item = &'q str>) -> Vec<String> {
    let mut ids: Vec<String> = Vec::new();
    for id in values.flat_map(|value| value.split(',')).map(str::trim) {
        if !id.is_empty() && !ids.iter().any(|known| known == id) {
            ids.push(id.to_owned());
        }
    }
    ids
}

/// The runs of these ids.
///
/// # Errors
/// 404 where one is not there, 400 where they are too many.
pub async fn find(state: &AppState, ids: &[String]) -> Result<Vec<RunRow>> {
    if ids.len() > MOST {
        return Err(Error::bad_request(format!("At most {MOST} runs can be compared at a time.")));
    }
    let mut rows = Vec::new();
    for id in ids {
        let row = runs::get(&state.db, id).await?;
        rows.push(row.ok_or_else(|| Error::not_found("run", id))?);
    }
    Ok(rows)
}

impl Comparison {
    /// Compares these runs.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn load(state: &AppState, runs: Vec<RunRow>) -> Result<Self> {
        let mut best = Vec::new();
        for run in &runs {
            let loss = metrics::best(&state.db, run.num, "loss").await?;
            best.push([loss, metrics::best(&state.db, run.num, "eval_loss").await?]);
        }
        let configs: Vec<Map<String, Value>> = runs.iter().map(RunRow::config_map).collect();
        Ok(Self { settings: settings(&configs), results: results(&runs, &best), runs })
    }
}

fn settings(configs: &[Map<String, Value>]) -> Vec<Setting> {
    let mut names: Vec<&String> = configs.iter().flat_map(Map::keys).collect();
    names.retain(|name| !NAMES.contains(&name.as_str()));
    let mut all: Vec<Setting> = Vec::new();
    for name in names {
        if all.iter().any(|known| known.name == *name) {
            continue;
        }
        let default = Field::find(name).map_or(Value::Null, Field::default_value);
        let value = |config: &Map<String, Value>| config.get(name).unwrap_or(&default).clone();
        let values: Vec<Value> = configs.iter().map(value).collect();
        let differs = values.windows(2).any(|pair| pair.first() != pair.last());
        all.push(Setting { name: name.clone(), values, differs });
    }
    all.sort_by_key(|setting| !setting.differs);
    all
}

fn results(runs: &[RunRow], best: &[[Best; 2]]) -> Vec<Outcome> {
    let mut all = Vec::new();
    for (place, last, lowest) in
        [(0, "loss.last", "loss.best"), (1, "eval_loss.last", "eval_loss.best")]
    {
        let of = || best.iter().filter_map(|both| both.get(place));
        let (values, none) = (of().map(|best| best.last).collect(), vec![None; runs.len()]);
        all.push(outcome(last, values, none, true));
        let values = of().map(|best| best.lowest.map(|lowest| lowest.1)).collect();
        let steps = of().map(|best| best.lowest.map(|lowest| lowest.0)).collect();
        all.push(outcome(lowest, values, steps, true));
    }
    #[expect(clippy::cast_precision_loss, reason = "steps are far below 2^52")]
    let step = runs.iter().map(|run| Some(run.step as f64)).collect();
    let elapsed = runs.iter().map(|run| run.elapsed_s).collect();
    let speed = runs.iter().map(|run| run.tokens_per_s).collect();
    for (key, values) in [("step", step), ("elapsed_s", elapsed), ("tokens_per_s", speed)] {
        all.push(outcome(key, values, vec![None; runs.len()], false));
    }
    all
}

fn outcome(
    key: &'static str,
    values: Vec<Option<f64>>,
    steps: Vec<Option<i64>>,
    low_wins: bool,
) -> Outcome {
    let known = || values.iter().enumerate().filter_map(|(place, value)| Some((place, (*value)?)));
    let lowest = known().min_by(|a, b| a.1.total_cmp(&b.1));
    // where all are the same, none is best
    let beats = |low: f64| known().any(|(_, value)| value > low);
    let best = lowest.filter(|(_, low)| low_wins && beats(*low)).map(|(place, _)| place);
    Outcome { key, values, steps, best }
}

/// The curves of one name for drawing.
///
/// # Errors
/// Where the database fails.
pub async fn lines(state: &AppState, runs: &[RunRow], key: &str) -> Result<Vec<overlay::Line>> {
    let mut lines = Vec::new();
    for run in runs {
        let query = metrics::Query { keys: vec![key.to_owned()], ..metrics::Query::default() };
        let curves = metrics::series(&state.db, run.num, &query).await?;
        let points = curves.get(key).map(|series| {
            let points = series.step.iter().zip(&series.value);
            points.filter_map(|(step, value)| Some((*step as f64, (*value)?))).collect()
        });
        lines.push((run.name.clone(), points.unwrap_or_default()));
    }
    Ok(lines)
}

/// The curves as CSV, a line a point.
///
/// # Errors
/// Where the database fails.
pub async fn csv(state: &AppState, runs: &[RunRow], keys: &[String]) -> Result<String> {
    let mut text = String::from("run,name,key,step,value,min,max\n");
    for run in runs {
        let query =
            metrics::Query { keys: keys.to_vec(), points: POINTS, ..metrics::Query::default() };
        for (key, series) in metrics::series(&state.db, run.num, &query).await? {
            let (low, high) = (series.min.as_ref(), series.max.as_ref());
            for (place, (step, value)) in series.step.iter().zip(&series.value).enumerate() {
                let cell = |value: Option<f64>| value.map(|v| v.to_string()).unwrap_or_default();
                let of = |column: Option<&Vec<Option<f64>>>| {
                    column.and_then(|column| column.get(place).copied()).flatten()
                };
                let (value, min, max) = (
                    value.map_or("nan".to_owned(), |v| v.to_string()),
                    cell(of(low)),
                    cell(of(high)),
                );
                let (id, name, key) = (&run.id, quoted(&run.name), quoted(&key));
                text += &format!("{id},{name},{key},{step},{value},{min},{max}\n");
            }
        }
    }
    Ok(text)
}

/// A text as a field of CSV; one that a spreadsheet would compute is told to be text.
fn quoted(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = format!("{}{text}", if formula { "'" } else { "" });
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn differences_come_first() {
        let configs = [
            json!({"learning_rate": 1e-4, "lora_rank": 8, "run_name": "a", "seed": 1}),
            json!({"lora_rank": 16, "run_name": "b", "learning_rate": 1e-4}),
        ];
        let configs: Vec<_> = configs.iter().map(|c| c.as_object().unwrap().clone()).collect();
        let all: Vec<_> =
            settings(&configs).into_iter().map(|one| (one.name, one.differs)).collect();
        let expected = [("lora_rank", true), ("seed", true), ("learning_rate", false)];
        assert_eq!(all, expected.map(|(name, differs)| (name.to_owned(), differs)));
        // what is not set has the default
        let rank = json!({"lora_rank": 8});
        let same = [rank.as_object().unwrap().clone(), Map::new()];
        assert!(!settings(&same)[0].differs);
    }

    #[test]
    fn fields_of_csv() {
        for (text, expected) in [
            ("a", "a"),
            ("a,b", "\"a,b\""),
            ("\"", "\"\"\"\""),
            ("=1+1", "'=1+1"),
            ("@a,b", "\"'@a,b\""),
        ] {
            assert_eq!(quoted(text), expected);
        }
    }

    #[test]
    fn which_is_best() {
        let best = |values: &[Option<f64>], low| {
            outcome("loss.best", values.to_vec(), vec![None; values.len()], low).best
        };
        assert_eq!(best(&[Some(2.0), None, Some(1.0)], true), Some(2));
        assert_eq!(best(&[Some(2.0), Some(1.0)], false), None);
        assert_eq!(best(&[None], true), None);
        assert_eq!(best(&[Some(1.0), Some(1.0)], true), None);
        assert_eq!(ids(["a,b", "", " b ,c"].into_iter()), ["a", "b", "c"]);
    }
}
