//! How a run ended: what came of it and where it is, or what went wrong and what to do.

use run::exit::ExitCode;

use super::live::lines;
use super::written;
use crate::db::metrics;
use crate::db::runs::{RunRow, Status};
use crate::web::error::Result;
use crate::web::pages::format::{duration, number, whole};
use crate::web::pages::text::Lang;
use crate::web::pages::view::argument;
use crate::web::state::AppState;

/// Log lines of an error card.
const LAST_LINES: usize = 40;

/// The card at the top of a run that is over.
pub enum Outcome {
    /// It finished.
    Done(Done),
    /// It failed or was lost.
    Failed(Failure),
}

/// What came of a run.
pub struct Done {
    pub title: String,
    pub folder: String,
}

/// What went wrong.
pub struct Failure {
    pub title: String,
    pub reason: String,
    pub place: String,
    pub log: String,
    pub resume: String,
    /// What a copy with the cure already in it is called, and where it is made.
    pub mended: Option<(String, String)>,
    pub diagnostics: String,
}

impl Outcome {
    /// The card of a run; `None` where it goes on or was stopped.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn load(state: &AppState, row: &RunRow, lang: Lang) -> Result<Option<Self>> {
        Ok(match row.status {
            Status::Finished => Some(Self::Done(Done::load(state, row, lang).await?)),
            Status::Failed => Some(Self::Failed(Failure::new(
                row,
                &lines(state, row).await?,
                "error.failed",
                lang,
            ))),
            Status::Lost => {
                Some(Self::Failed(Failure::new(row, &lines(state, row).await?, "error.lost", lang)))
            }
            _ => None,
        })
    }

    /// The failure, where it is one.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Failed(failure) => Some(failure),
            Self::Done(_) => None,
        }
    }

    /// The success, where it is one.
    pub fn done(&self) -> Option<&Done> {
        match self {
            Self::Done(done) => Some(done),
            Self::Failed(_) => None,
        }
    }
}

impl Done {
    async fn load(state: &AppState, row: &RunRow, lang: Lang) -> Result<Self> {
        let keys = vec!["loss".to_owned()];
        let query = metrics::Query { keys, upto: Some(row.seq), ..metrics::Query::default() };
        let curves = metrics::series(&state.db, row.num, &query).await?;
        let first = curves.get("loss").and_then(|series| series.value.first().copied()).flatten();
        let title = match (first, row.last_loss) {
            (Some(_), Some(_)) => {
                let values = [duration(row.elapsed_s), number(first), number(row.last_loss)];
                lang.fill("done.title", &[&values[0], &values[1], &values[2]])
            }
            _ => lang.text("status.finished").to_owned(),
        };
        Ok(Self { title, folder: row.output_dir.clone() })
    }
}

/// With a capital where it begins with a plain word; a path or an argument's name stays as it is.
fn sentence(text: &str) -> String {
    let first = text.split(' ').next().unwrap_or_default();
    let plain = !first.is_empty() && first.chars().all(|letter| letter.is_ascii_lowercase());
    match text.get(..1).filter(|_| plain) {
        Some(letter) => letter.to_ascii_uppercase() + text.get(1..).unwrap_or_default(),
        None => text.to_owned(),
    }
}

impl Failure {
    /// The card of a run that failed or was lost.
    fn new(row: &RunRow, log: &[String], title: &str, lang: Lang) -> Self {
        let reason = row.reason.clone().unwrap_or_else(|| lang.text("error.unknown").to_owned());
        let at = match row.total_steps {
            Some(total) => lang.fill("error.step", &[&whole(row.step), &whole(total)]),
            None => lang.text("error.start").to_owned(),
        };
        let (saved, resume) = match row.checkpoint_step {
            Some(step) => (
                lang.fill("error.saved", &[&whole(step)]),
                lang.fill("error.resume", &[&whole(step)]),
            ),
            None => (lang.text("error.nosave").to_owned(), lang.text("error.again").to_owned()),
        };
        let log = log.get(log.len().saturating_sub(LAST_LINES)..).unwrap_or_default().join("\n");
        let diagnostics = format!(
            "tallow {}\nrun {} {}: {reason}\n{at} {saved}\n\n{}\n{log}\n",
            env!("CARGO_PKG_VERSION"),
            row.id,
            row.status,
            written(row).0,
        );
        Self {
            title: lang.text(title).to_owned(),
            reason: sentence(&reason),
            place: format!("{at} {saved}"),
            log,
            resume,
            mended: mended(row, lang),
            diagnostics,
        }
    }
}

/// A copy of the run that should not fail in the same way, where the way of its end tells how.
fn mended(row: &RunRow, lang: Lang) -> Option<(String, String)> {
    let config = row.config_map();
    let number = |name: &str| argument(&config, name).parse::<f64>().ok();
    let code = ExitCode::from_code(i32::try_from(row.exit_code?).ok()?)?;
    let (changes, text) = match code {
        ExitCode::NonFinite => {
            let rate = format!("{:.1e}", number("learning_rate")? / 3.0);
            let text = lang.fill("error.mend.rate", &[&rate]);
            (vec![("learning_rate", rate)], text)
        }
        ExitCode::OutOfMemory => {
            let batch = number("per_device_train_batch_size")?;
            let sums = number("gradient_accumulation_steps")?;
            let cutoff = number("cutoff_len")?;
            if batch >= 2.0 {
                let half = (batch / 2.0).floor();
                // the effective batch stays
                let sums = (sums * batch / half).round();
                let pairs = vec![
                    ("per_device_train_batch_size", half.to_string()),
                    ("gradient_accumulation_steps", sums.to_string()),
                ];
                (pairs, lang.fill("error.mend.batch", &[&half]))
            } else {
                let half = (cutoff / 2.0).floor().max(16.0).to_string();
                let text = lang.fill("error.mend.cutoff", &[&half]);
                (vec![("cutoff_len", half)], text)
            }
        }
        ExitCode::NoSpace => {
            let pairs =
                vec![("save_total_limit", "1".to_owned()), ("save_only_model", "true".to_owned())];
            (pairs, lang.text("error.mend.space").to_owned())
        }
        _ => return None,
    };
    let query: String = changes.iter().map(|(name, value)| format!("&{name}={value}")).collect();
    Some((text, format!("/runs/new?from={}{query}", row.id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_begin_as_sentences() {
        for (text, expected) in [
            ("the loss is not finite", "The loss is not finite"),
            ("data.json: row 3", "data.json: row 3"),
            ("/tmp/x: missing", "/tmp/x: missing"),
            ("lora_target: none", "lora_target: none"),
            ("Übung", "Übung"),
            ("", ""),
        ] {
            assert_eq!(sentence(text), expected);
        }
    }
}
