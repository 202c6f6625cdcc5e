//! How a run ended: what came of it and where it is, or what went wrong and what to do.

use super::live::lines;
use super::written;
use crate::db::metrics;
use crate::db::runs::{RunRow, Status};
use crate::web::error::Result;
use crate::web::pages::format::{duration, number, whole};
use crate::web::pages::text::Lang;
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
            reason,
            place: format!("{at} {saved}"),
            log,
            resume,
            diagnostics,
        }
    }
}
