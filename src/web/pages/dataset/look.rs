//! The tabs that only look: rows, problems, lengths, tokens.

use super::super::format::{count, whole};
use super::super::link::query;
use super::super::text::Lang;
use super::Wanted;
use crate::library::datasets::Opened;
use crate::library::kit;
use crate::library::lengths::Lengths;
use crate::library::report::{Finding, Report};
use crate::library::rows::RowView;
use crate::library::tokens::{Token, TokenView};
use crate::library::{LibraryError, Patience};
use crate::web::state::AppState;

type Result<T> = std::result::Result<T, LibraryError>;

/// Rows of a page.
const ROWS: u64 = 20;
/// The cutoff that a run has unless told.
pub const CUTOFF: usize = 2048;

/// A page of rows.
pub struct RowsTab {
    pub rows: Vec<RowView>,
    pub broken: Option<String>,
    /// `21–40 of 900`.
    pub place: String,
    pub previous: Option<String>,
    pub next: Option<String>,
    pub first: u64,
    pub total: u64,
}

/// Rows `wanted.row` and those after it.
pub async fn rows(
    state: &AppState,
    opened: &Opened,
    wanted: &Wanted,
    lang: Lang,
) -> Result<RowsTab> {
    let first = wanted.row.unwrap_or(1).max(1);
    let page = state.library.page(opened, first - 1, 20, Patience::Moment).await?;
    let last = first - 1 + page.rows.len() as u64;
    let link = |row: u64| {
        let row = if row <= 1 { String::new() } else { row.to_string() };
        let path = super::encode(&opened.name);
        format!("/datasets/{path}{}", query(&[("dir", &wanted.dir), ("row", &row)]))
    };
    let whole = |n: u64| whole(i64::try_from(n).unwrap_or(i64::MAX));
    Ok(RowsTab {
        place: lang
            .fill("data.place", &[&whole(first.min(last)), &whole(last), &whole(page.total)]),
        previous: (first > 1).then(|| link(first.saturating_sub(ROWS).max(1))),
        next: (last < page.total && !page.rows.is_empty()).then(|| link(last + 1)),
        first,
        total: page.total,
        rows: page.rows,
        broken: page.broken,
    })
}

/// Rows that share a finding.
pub struct Group {
    pub title: String,
    pub about: String,
    pub kind: &'static str,
    pub places: Vec<PlaceView>,
    pub more: u64,
}

/// A row to look at.
pub struct PlaceView {
    pub number: u64,
    pub href: String,
    pub line: String,
    pub reason: String,
}

/// What a whole reading found.
pub struct CheckTab {
    pub clean: bool,
    pub summary: String,
    pub broken: Option<String>,
    pub reasons: Vec<(String, String)>,
    pub groups: Vec<Group>,
    pub compared: Option<String>,
}

/// What is wrong with the rows.
pub async fn check(
    state: &AppState,
    opened: &Opened,
    wanted: &Wanted,
    lang: Lang,
) -> Result<CheckTab> {
    let report = state.library.report(opened, Patience::Moment).await?;
    let several = opened.files.len() > 1;
    let group = |kind: &'static str, finding: &Finding| {
        let place = |place: &crate::library::report::Place| PlaceView {
            number: place.number,
            href: format!(
                "/datasets/{}{}",
                super::encode(&opened.name),
                query(&[("dir", &wanted.dir), ("row", &place.number.to_string())])
            ),
            line: match several {
                true => format!("{}:{}", place.file, place.line),
                false => place.line.to_string(),
            },
            reason: match kind {
                "twice" => lang.fill("data.check.same", &[&place.reason]),
                _ => place.reason.clone(),
            },
        };
        Group {
            title: lang.fill(&format!("data.check.{kind}"), &[&wholes(finding.count)]),
            about: lang.text(&format!("data.check.{kind}.text")).to_owned(),
            kind,
            places: finding.first.iter().map(place).collect(),
            more: finding.count - finding.first.len() as u64,
        }
    };
    let all = [("bad", &report.bad), ("empty", &report.empty), ("twice", &report.twice)];
    let found = all.into_iter().filter(|(_, finding)| finding.count > 0);
    Ok(CheckTab {
        clean: report.is_clean(),
        summary: summary(&report, lang),
        broken: report.broken.clone(),
        reasons: report.reasons.iter().map(|(why, n)| (why.clone(), wholes(*n))).collect(),
        groups: found.map(|(kind, finding)| group(kind, finding)).collect(),
        compared: report.compared.map(|rows| lang.fill("data.check.compared", &[&wholes(rows)])),
    })
}

fn summary(report: &Report, lang: Lang) -> String {
    let usable = report.rows - report.bad.count;
    lang.fill("data.check.summary", &[&wholes(usable), &wholes(report.rows)])
}

fn wholes(n: u64) -> String {
    whole(i64::try_from(n).unwrap_or(i64::MAX))
}

/// A bar of the histogram in a picture of 600 by 160.
pub struct BarView {
    pub x: String,
    pub width: String,
    pub y: String,
    pub height: String,
    pub over: bool,
    pub title: String,
}

/// Lengths and a cutoff.
pub struct LengthsTab {
    pub bars: Vec<BarView>,
    /// Where the cutoff stands in the picture; outside it where it cuts nothing.
    pub line: Option<String>,
    pub cutoff: usize,
    pub most: usize,
    pub axis: Vec<(String, &'static str)>,
    pub facts: Vec<(String, String, &'static str)>,
    pub table: Vec<(String, String)>,
    pub template: String,
    pub notices: Vec<String>,
    pub sampled: Option<String>,
}

/// How long rows are.
pub async fn lengths(
    state: &AppState,
    opened: &Opened,
    wanted: &Wanted,
    lang: Lang,
) -> Result<LengthsTab> {
    if wanted.model.is_empty() {
        return Err(LibraryError::wrong("model", lang.text("data.no_model").to_owned()));
    }
    let lengths = state.library.lengths(opened, &kit_of(wanted), Patience::Moment).await?;
    let cutoff = wanted.cutoff_len.unwrap_or(CUTOFF).max(1);
    Ok(draw(&lengths, cutoff, lang))
}

fn kit_of(wanted: &Wanted) -> kit::Wanted {
    kit::Wanted {
        train_on_prompt: !wanted.train_on_prompt.is_empty(),
        mask_history: !wanted.mask_history.is_empty(),
        ..kit::Wanted::plain(&wanted.model, &wanted.template)
    }
}

#[expect(clippy::cast_precision_loss, reason = "pixels of a picture")]
fn draw(lengths: &Lengths, cutoff: usize, lang: Lang) -> LengthsTab {
    let bars = lengths.bars();
    let end = bars.last().map_or(1, |bar| bar.to + 1) as f64;
    let high = bars.iter().map(|bar| bar.count).max().unwrap_or(1).max(1) as f64;
    let x = |tokens: usize| 600.0 * tokens as f64 / end;
    let px = |value: f64| format!("{value:.1}");
    let bar = |bar: &crate::library::lengths::Bar| {
        let height = if bar.count == 0 { 0.0 } else { (156.0 * bar.count as f64 / high).max(1.5) };
        BarView {
            x: px(x(bar.from) + 0.5),
            width: px((x(bar.to + 1) - x(bar.from) - 1.0).max(0.5)),
            y: px(160.0 - height),
            height: px(height),
            over: bar.from > cutoff,
            title: lang.fill(
                "data.length.bar",
                &[&wholes(bar.from as u64), &wholes(bar.to as u64), &wholes(bar.count)],
            ),
        }
    };
    let cut = lengths.cut(cutoff);
    let all = (cut.kept + cut.truncated + cut.dropped).max(1);
    let share = |n: u64| format!("{} · {}", wholes(n), percent(n, all));
    let fact = |key: &str, value: String, class| (lang.text(key).to_owned(), value, class);
    let tokens = |n: f64| lang.fill("data.tokens", &[&count(Some(n))]);
    let quantile = |share: f64| wholes(lengths.quantile(share) as u64);
    LengthsTab {
        bars: bars.iter().map(bar).collect(),
        line: (cutoff < end as usize).then(|| px(x(cutoff))),
        cutoff,
        most: lengths.longest().max(CUTOFF).max(cutoff),
        axis: vec![
            ("0".to_owned(), "start"),
            (wholes((end / 2.0) as u64), "middle"),
            (wholes(end as u64), "end"),
        ],
        facts: vec![
            fact("data.length.kept", share(cut.kept), "kept"),
            fact(
                "data.length.truncated",
                share(cut.truncated),
                if cut.truncated > 0 { "warn" } else { "" },
            ),
            fact(
                "data.length.dropped",
                share(cut.dropped),
                if cut.dropped > 0 { "fail" } else { "" },
            ),
            fact("data.length.tokens", tokens(cut.tokens as f64), ""),
            fact("data.length.lost", tokens(cut.lost as f64), ""),
        ],
        table: vec![
            (lang.text("data.length.median").to_owned(), quantile(0.5)),
            (lang.text("data.length.mean").to_owned(), format!("{:.0}", lengths.mean())),
            (lang.text("data.length.p95").to_owned(), quantile(0.95)),
            (lang.text("data.length.longest").to_owned(), wholes(lengths.longest() as u64)),
            (lang.text("data.length.trained").to_owned(), tokens(lengths.trained as f64)),
        ],
        template: lengths.template.clone(),
        notices: lengths.notices.clone(),
        sampled: (lengths.measured + lengths.bad < lengths.total).then(|| {
            let seen = lengths.measured + lengths.bad;
            lang.fill("data.length.sampled", &[&wholes(seen), &wholes(lengths.total)])
        }),
    }
}

#[expect(clippy::cast_precision_loss, reason = "one digit is shown")]
fn percent(part: u64, all: u64) -> String {
    let share = 100.0 * part as f64 / all as f64;
    match part {
        0 => "0 %".to_owned(),
        _ if part == all => "100 %".to_owned(),
        _ if share < 0.1 => "< 0.1 %".to_owned(),
        _ if share > 99.9 => "> 99.9 %".to_owned(),
        _ => format!("{share:.1} %"),
    }
}

/// A token as it is drawn.
pub struct TokenMark {
    pub id: u32,
    pub text: String,
    pub trained: bool,
    /// A line ends with it.
    pub breaks: bool,
}

/// One row, token by token.
pub struct TokensTab {
    pub view: TokenView,
    pub marks: Vec<TokenMark>,
    pub hidden: usize,
    pub previous: Option<u64>,
    pub next: Option<u64>,
}

/// A row as the model gets it.
pub async fn tokens(
    state: &AppState,
    opened: &Opened,
    wanted: &Wanted,
    lang: Lang,
) -> Result<TokensTab> {
    let number = wanted.row.unwrap_or(1).max(1);
    if wanted.model.is_empty() {
        return Err(LibraryError::wrong("model", lang.text("data.no_model").to_owned()));
    }
    let cutoff = wanted.cutoff_len.unwrap_or(CUTOFF).max(1);
    let kit = kit_of(wanted);
    let view = state.library.tokens(opened, number, &kit, cutoff, Patience::Moment).await?;
    let total = state.library.rows_of(opened, Patience::Moment).await?.total;
    let mark = |token: &Token| TokenMark {
        id: token.id,
        text: visible(&token.text),
        trained: token.trained,
        breaks: token.text.ends_with('\n'),
    };
    Ok(TokensTab {
        marks: view.tokens.iter().map(mark).collect(),
        hidden: view.count - view.tokens.len(),
        previous: (number > 1).then(|| number - 1),
        next: (number < total).then_some(number + 1),
        view,
    })
}

/// White space that would not be seen, and the rest of a character that begins in another token.
fn visible(text: &str) -> String {
    if text.is_empty() {
        return "·".to_owned();
    }
    text.replace("\r\n", "↵").replace(['\n', '\r'], "↵").replace('\t', "⇥")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares() {
        for (part, all, expected) in [
            (0, 5, "0 %"),
            (5, 5, "100 %"),
            (1, 3, "33.3 %"),
            (1, 100_000, "< 0.1 %"),
            (99_999, 100_000, "> 99.9 %"),
        ] {
            assert_eq!(percent(part, all), expected);
        }
    }

    #[test]
    fn white_space_is_seen() {
        for (text, expected) in [("", "·"), (" a", " a"), ("\n\n", "↵↵"), ("\r\n\t", "↵⇥")]
        {
            assert_eq!(visible(text), expected);
        }
    }
}
