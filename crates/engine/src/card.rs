//! README.md of a finished run: transformers' model card, with what was measured.

use run::config::Config;
use run::fields::FinetuningType;
use serde_json::{Map, Value};

use crate::train::Run;

/// Figures of an evaluation that a card does not show.
const HIDDEN: [&str; 3] = ["runtime", "samples_per_second", "steps_per_second"];

/// The model card: what was trained on what, how, and how far it came.
#[must_use]
pub fn write(run: &Run<'_>) -> String {
    let config = run.config;
    let base = config.model_name_or_path.as_deref().unwrap_or("a model");
    let name = run.dir.path().file_name().unwrap_or_default().to_string_lossy();
    let (library, tag) = match config.finetuning_type {
        FinetuningType::Lora => ("peft", "lora"),
        FinetuningType::Full => ("transformers", "full"),
        FinetuningType::Freeze => ("transformers", "freeze"),
    };
    let origin = match config.train_from_scratch {
        true => format!("This model was trained from scratch, in the shape of {base}, on"),
        false => format!("This model is a fine-tuned version of {base} on"),
    };
    let rows = evaluations(&run.state.log_history);
    format!(
        "---\nlibrary_name: {library}\nlicense: other\nbase_model: {base}\ntags:\n- tallow\n\
         - llama-factory\n- {tag}\npipeline_tag: text-generation\n---\n\n# {name}\n\n{origin} {}.\n\
         {}\n## Training procedure\n\n### Training hyperparameters\n\nThe following \
         hyperparameters were used during training:\n{}\n{}### Framework versions\n\n- Tallow {}\n",
        datasets(&config.dataset),
        results(&run.state.log_history),
        hyperparameters(config, run.plan.total_steps),
        table(&rows),
        env!("CARGO_PKG_VERSION"),
    )
}

fn datasets(names: &[String]) -> String {
    match names {
        [] => "an unknown dataset".to_owned(),
        [one] => format!("the {one} dataset"),
        [most @ .., last] => {
            let most: Vec<String> = most.iter().map(|name| format!("the {name}")).collect();
            format!("{} and the {last} datasets", most.join(", "))
        }
    }
}

fn hyperparameters(config: &Config, total_steps: u64) -> String {
    let mut lines = vec![
        format!("learning_rate: {}", config.learning_rate),
        format!("train_batch_size: {}", config.per_device_train_batch_size),
        format!("eval_batch_size: {}", config.per_device_eval_batch_size),
        format!("seed: {}", config.seed),
    ];
    let accumulation = config.gradient_accumulation_steps;
    if accumulation > 1 {
        lines.push(format!("gradient_accumulation_steps: {accumulation}"));
        let whole = accumulation * config.per_device_train_batch_size;
        lines.push(format!("total_train_batch_size: {whole}"));
    }
    let optim = config.optim;
    lines.push(if optim.name().contains("adamw") {
        let (b1, b2, eps) = (config.adam_beta1, config.adam_beta2, config.adam_epsilon);
        format!("optimizer: {optim} with betas=({b1},{b2}) and epsilon={eps}")
    } else {
        format!("optimizer: {optim}")
    });
    lines.push(format!("lr_scheduler_type: {}", config.lr_scheduler_type));
    let warmup = config.warmup(total_steps);
    if warmup > 0 {
        lines.push(format!("lr_scheduler_warmup_steps: {warmup}"));
    }
    lines.push(match config.max_steps > 0 {
        true => format!("training_steps: {total_steps}"),
        false => format!("num_epochs: {}", config.num_train_epochs),
    });
    if config.label_smoothing_factor > 0.0 {
        lines.push(format!("label_smoothing_factor: {}", config.label_smoothing_factor));
    }
    lines.iter().map(|line| format!("- {line}\n")).collect()
}

/// The last evaluation's figures.
fn results(history: &[Map<String, Value>]) -> String {
    let Some(last) = history.iter().rev().find(|line| evaluated(line)) else {
        return String::new();
    };
    let lines = figures(last).map(|(name, value)| format!("- {name}: {}\n", number(value)));
    format!(
        "It achieves the following results on the evaluation set:\n{}",
        lines.collect::<String>()
    )
}

/// Each evaluation as (column, value) pairs, with the training loss known then.
fn evaluations(history: &[Map<String, Value>]) -> Vec<Vec<(String, String)>> {
    let mut loss = "No log".to_owned();
    let mut rows = Vec::new();
    for line in history {
        if let Some(value) = line.get("loss") {
            loss = number(value);
        }
        if !evaluated(line) {
            continue;
        }
        let plain = |key: &str| line.get(key).map(number).unwrap_or_default();
        let mut row = vec![
            ("Training Loss".to_owned(), loss.clone()),
            ("Epoch".to_owned(), plain("epoch")),
            ("Step".to_owned(), plain("step")),
        ];
        row.extend(figures(line).map(|(name, value)| {
            let name = if name == "Loss" { "Validation Loss".to_owned() } else { name };
            (name, number(value))
        }));
        rows.push(row);
    }
    // Where several sets are evaluated their lines have other columns.
    let columns = rows.first().map(|row| columns_of(row));
    rows.retain(|row| Some(columns_of(row)) == columns);
    rows
}

fn columns_of(row: &[(String, String)]) -> Vec<String> {
    row.iter().map(|(name, _)| name.clone()).collect()
}

fn table(rows: &[Vec<(String, String)>]) -> String {
    let Some(first) = rows.first() else {
        return String::new();
    };
    let width = |c: usize| {
        let cells = rows.iter().map(|row| row[c].1.len());
        cells.chain([first[c].0.len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..first.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let each = cells.iter().zip(&widths).map(|(cell, width)| format!(" {cell:<width$} |"));
        format!("|{}\n", each.collect::<String>())
    };
    let rule: String = widths.iter().map(|width| format!(":{}:|", "-".repeat(*width))).collect();
    let body: String =
        rows.iter().map(|row| line(row.iter().map(|(_, value)| &**value).collect())).collect();
    let head = line(first.iter().map(|(name, _)| &**name).collect());
    format!("### Training results\n\n{head}|{rule}\n{body}\n")
}

fn evaluated(line: &Map<String, Value>) -> bool {
    line.keys().any(|key| key.starts_with("eval_") && key.ends_with("_loss") || key == "eval_loss")
}

/// `eval_loss` as ("Loss", value), without times and speeds.
fn figures(line: &Map<String, Value>) -> impl Iterator<Item = (String, &Value)> {
    line.iter().filter_map(|(key, value)| {
        let name = key.strip_prefix("eval_")?;
        let hidden = HIDDEN.iter().any(|hidden| name.ends_with(hidden));
        let word = |part: &str| {
            let mut chars = part.chars();
            chars
                .next()
                .map(|c| c.to_ascii_uppercase())
                .into_iter()
                .chain(chars)
                .collect::<String>()
        };
        let words: Vec<String> = name.split('_').map(word).collect();
        (!hidden).then(|| (words.join(" "), value))
    })
}

/// At most four decimals.
fn number(value: &Value) -> String {
    match value.as_f64() {
        Some(v) if value.is_f64() && v.fract() != 0.0 => format!("{v:.4}"),
        Some(v) => format!("{v}"),
        None => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn results_and_their_table() {
        let line = |value: Value| value.as_object().cloned().unwrap_or_default();
        let history = [
            line(json!({"eval_loss": 3.0, "epoch": 0, "step": 0, "eval_runtime": 1.0})),
            line(json!({"loss": 2.123_456, "epoch": 0.5, "step": 5})),
            line(
                json!({"eval_loss": 2.5, "eval_samples_per_second": 9.0, "epoch": 0.5, "step": 5}),
            ),
            line(json!({"train_runtime": 3.0, "step": 5})),
        ];
        assert_eq!(
            results(&history),
            "It achieves the following results on the evaluation set:\n- Loss: 2.5000\n"
        );
        assert_eq!(
            table(&evaluations(&history)),
            "### Training results\n\n\
             | Training Loss | Epoch  | Step | Validation Loss |\n\
             |:-------------:|:------:|:----:|:---------------:|\n\
             | No log        | 0      | 0    | 3               |\n\
             | 2.1235        | 0.5000 | 5    | 2.5000          |\n\n"
        );
        assert_eq!(table(&evaluations(&history[3..])), "");
        let names =
            |names: &[&str]| datasets(&names.iter().map(|n| (*n).into()).collect::<Vec<_>>());
        assert_eq!(names(&["a", "b", "c"]), "the a, the b and the c datasets");
    }
}
