//! /api/v1/datasets/{name}/...: rows, what is wrong with them, how long they are, one of them token by token.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::super::error::{Problem, Result};
use super::super::extract::{Id, Params, within};
use super::super::state::AppState;
use super::datasets::Dir;
use crate::library::Patience;
use crate::library::kit::Wanted;
use crate::library::report::{Finding, Place};
use crate::library::rows::{RowView, Said};

/// The largest number that every JSON reader has exactly.
const ROW_MAX: u64 = (1 << 53) - 1;

/// Which rows.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct RowsQuery {
    /// The folder, as in the list.
    #[serde(default)]
    dir: String,
    /// The first row, from 1.
    #[param(minimum = 1, maximum = 9007199254740991_u64)]
    from: Option<u64>,
    /// At most so many, 20 unless told.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<usize>,
}

/// One turn.
#[derive(Debug, Serialize, ToSchema)]
pub struct Turn {
    /// system, tools, user, assistant, function, observation or text.
    role: String,
    /// What is said; long texts are cut.
    text: String,
}

/// A row as a run would read it.
#[derive(Debug, Serialize, ToSchema)]
pub struct Row {
    /// Its place, from 1.
    row: u64,
    /// The line of its file that it begins on.
    line: u64,
    /// The conversation.
    turns: Vec<Turn>,
    /// Why it cannot be used.
    problem: Option<String>,
    /// The row as it stands in the file.
    raw: String,
}

impl From<RowView> for Row {
    fn from(view: RowView) -> Self {
        let turn = |said: Said| Turn { role: said.role.to_owned(), text: said.text };
        Self {
            row: view.number,
            line: view.line,
            turns: view.said.into_iter().map(turn).collect(),
            problem: view.problem,
            raw: view.raw,
        }
    }
}

/// A page of rows.
#[derive(Debug, Serialize, ToSchema)]
pub struct Page {
    /// The rows.
    rows: Vec<Row>,
    /// Rows in all.
    total: u64,
    /// Where a file breaks off.
    broken: Option<String>,
}

/// A page of rows.
///
/// # Errors
/// 404 where there is no such data set, 422 where it cannot be used.
#[utoipa::path(get, path = "/api/v1/datasets/{name}/rows", params(("name" = String, Path), RowsQuery),
    responses((status = 200, body = Page), (status = 404, body = Problem), (status = 422, body = Problem)))]
pub async fn page(
    State(state): State<AppState>,
    Id(name): Id,
    Params(query): Params<RowsQuery>,
) -> Result<Json<Page>> {
    let opened = state.library.opened(state.library.home(&query.dir)?, &name).await?;
    let from = within("from", query.from, 1, 1..=ROW_MAX)? - 1;
    let limit = within("limit", query.limit, 20, 1..=200)?;
    let page = state.library.page(&opened, from, limit, Patience::End).await?;
    let rows = page.rows.into_iter().map(Row::from).collect();
    Ok(Json(Page { rows, total: page.total, broken: page.broken }))
}

/// Rows with the same thing wrong.
#[derive(Debug, Serialize, ToSchema)]
pub struct Found {
    /// How many.
    count: u64,
    /// The first of them.
    first: Vec<FoundRow>,
}

/// A row with something wrong.
#[derive(Debug, Serialize, ToSchema)]
pub struct FoundRow {
    /// Its place, from 1.
    row: u64,
    /// Its file.
    file: String,
    /// The line it begins on.
    line: u64,
    /// What is wrong; of a duplicate the row that it repeats.
    reason: String,
}

impl From<&Finding> for Found {
    fn from(finding: &Finding) -> Self {
        let row = |place: &Place| FoundRow {
            row: place.number,
            file: place.file.clone(),
            line: place.line,
            reason: place.reason.clone(),
        };
        Self { count: finding.count, first: finding.first.iter().map(row).collect() }
    }
}

/// What a whole reading found.
#[derive(Debug, Serialize, ToSchema)]
pub struct Findings {
    /// Rows that were read.
    rows: u64,
    /// Rows that a run leaves out.
    bad: Found,
    /// Rows with an empty answer.
    empty_answers: Found,
    /// Rows that repeat one before.
    duplicates: Found,
    /// Where a file breaks off: a run would not start.
    broken: Option<String>,
}

/// Reads a data set from end to end and says what is wrong with it.
///
/// # Errors
/// 404 where there is no such data set, 422 where it cannot be used.
#[utoipa::path(get, path = "/api/v1/datasets/{name}/report", params(("name" = String, Path), Dir),
    responses((status = 200, body = Findings), (status = 404, body = Problem), (status = 422, body = Problem)))]
pub async fn report(
    State(state): State<AppState>,
    Id(name): Id,
    Params(query): Params<Dir>,
) -> Result<Json<Findings>> {
    let opened = state.library.opened(state.library.home(&query.dir)?, &name).await?;
    let report = state.library.report(&opened, Patience::End).await?;
    Ok(Json(Findings {
        rows: report.rows,
        bad: (&report.bad).into(),
        empty_answers: (&report.empty).into(),
        duplicates: (&report.twice).into(),
        broken: report.broken.clone(),
    }))
}

/// Under which model and template.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct TokensQuery {
    /// The folder, as in the list.
    #[serde(default)]
    dir: String,
    /// The model: a folder, a GGUF file, or a name in a hub's cache.
    #[serde(default)]
    model: String,
    /// Name of the template; the tokenizer's own unless given.
    #[serde(default)]
    template: String,
    /// Rows are cut to this many tokens; 2048 unless told.
    #[param(minimum = 1, maximum = 1000000)]
    cutoff_len: Option<usize>,
    /// The row, from 1 (tokens only).
    #[param(minimum = 1, maximum = 9007199254740991_u64)]
    row: Option<u64>,
    /// Learn the prompts too.
    #[serde(default)]
    train_on_prompt: bool,
    /// Learn the last answer only.
    #[serde(default)]
    mask_history: bool,
}

impl TokensQuery {
    fn cutoff(&self) -> Result<usize> {
        within("cutoff_len", self.cutoff_len, 2048, 1..=1_000_000)
    }

    fn wanted(&self) -> Wanted {
        let (train_on_prompt, mask_history) = (self.train_on_prompt, self.mask_history);
        Wanted { train_on_prompt, mask_history, ..Wanted::plain(&self.model, &self.template) }
    }
}

/// Lengths in tokens.
#[derive(Debug, Serialize, ToSchema)]
pub struct LengthTable {
    /// The template that was used.
    template: String,
    /// Rows that were measured: all of them, or of a large data set an even share.
    measured: u64,
    /// Rows in all.
    total: u64,
    /// Rows that stay whole at the cutoff.
    kept: u64,
    /// Rows that the cutoff shortens.
    truncated: u64,
    /// Rows that cannot be used.
    dropped: u64,
    /// Tokens that remain.
    tokens: u64,
    /// The longest row.
    longest: usize,
    /// `[from, to, rows]` for each bar.
    bars: Vec<(usize, usize, u64)>,
}

/// How long the rows are in a model's tokens, and what a cutoff does to them.
///
/// # Errors
/// 404 where there is no such data set, 422 where it, the model or the template cannot be used.
#[utoipa::path(get, path = "/api/v1/datasets/{name}/lengths", params(("name" = String, Path), TokensQuery),
    responses((status = 200, body = LengthTable), (status = 404, body = Problem), (status = 422, body = Problem)))]
pub async fn lengths(
    State(state): State<AppState>,
    Id(name): Id,
    Params(query): Params<TokensQuery>,
) -> Result<Json<LengthTable>> {
    let opened = state.library.opened(state.library.home(&query.dir)?, &name).await?;
    let lengths = state.library.lengths(&opened, &query.wanted(), Patience::End).await?;
    let cut = lengths.cut(query.cutoff()?);
    Ok(Json(LengthTable {
        template: lengths.template.clone(),
        measured: lengths.measured,
        total: lengths.total,
        kept: cut.kept,
        truncated: cut.truncated,
        dropped: cut.dropped,
        tokens: cut.tokens,
        longest: lengths.longest(),
        bars: lengths.bars().iter().map(|bar| (bar.from, bar.to, bar.count)).collect(),
    }))
}

/// A token: id, text, whether it is trained.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenInfo {
    /// Its id.
    id: u32,
    /// Its text; empty where it ends inside a character.
    text: String,
    /// Whether the model learns it.
    trained: bool,
}

/// A row, token by token.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenRow {
    /// The row, from 1.
    row: u64,
    /// The template that was used.
    template: String,
    /// The tokens; the first 4000.
    tokens: Vec<TokenInfo>,
    /// How many there are.
    count: usize,
    /// How many are trained.
    trained: usize,
    /// How many the cutoff took away.
    cut: usize,
}

/// A row as the model gets it: its tokens, and which are trained.
///
/// # Errors
/// 404 where there is no such data set or row, 422 where it, the model or the template cannot be used.
#[utoipa::path(get, path = "/api/v1/datasets/{name}/tokens", params(("name" = String, Path), TokensQuery),
    responses((status = 200, body = TokenRow), (status = 404, body = Problem), (status = 422, body = Problem)))]
pub async fn tokens(
    State(state): State<AppState>,
    Id(name): Id,
    Params(query): Params<TokensQuery>,
) -> Result<Json<TokenRow>> {
    let opened = state.library.opened(state.library.home(&query.dir)?, &name).await?;
    let row = within("row", query.row, 1, 1..=ROW_MAX)?;
    let cutoff = query.cutoff()?;
    let view = state.library.tokens(&opened, row, &query.wanted(), cutoff, Patience::End).await?;
    let token = |token: crate::library::tokens::Token| TokenInfo {
        id: token.id,
        text: token.text,
        trained: token.trained,
    };
    Ok(Json(TokenRow {
        row,
        template: view.template,
        tokens: view.tokens.into_iter().map(token).collect(),
        count: view.count,
        trained: view.trained,
        cut: view.cut,
    }))
}
