//! Curves: raw where they are short, buckets with mean, min and max where they are long.

mod smooth;

use indexmap::IndexMap;

use super::{Db, Result};

/// Which part of which curves.
#[derive(Debug, Clone)]
pub struct Query {
    /// Names of the curves; empty = all that the run has.
    pub keys: Vec<String>,
    /// At most so many points a curve.
    pub points: u32,
    /// First step wanted.
    pub from: Option<i64>,
    /// Last step wanted.
    pub to: Option<i64>,
    /// Only what events up to this number brought.
    pub upto: Option<i64>,
    /// How much of the mean before stays in a smoothed curve, 0 to below 1; `None` = none is wanted.
    pub smooth: Option<f64>,
}

impl Default for Query {
    fn default() -> Self {
        Self { keys: Vec::new(), points: 1500, from: None, to: None, upto: None, smooth: None }
    }
}

/// One curve, in columns. `None` = not finite.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Series {
    /// Steps, rising.
    pub step: Vec<i64>,
    /// The value; the mean where points were bucketed.
    pub value: Vec<Option<f64>>,
    /// Lowest of each bucket; only where points were bucketed.
    pub min: Option<Vec<Option<f64>>>,
    /// Highest of each bucket; only where points were bucketed.
    pub max: Option<Vec<Option<f64>>>,
    /// How many points there are in the window.
    pub of: i64,
    /// Steps whose value is not finite, or the last steps of buckets with such a one.
    pub bad: Vec<i64>,
    /// The smoothed curve at the same steps, where it was asked for.
    pub smooth: Option<Vec<Option<f64>>>,
}

/// The curves asked for, in the order asked for; an unknown key gives an empty one.
///
/// # Errors
/// Where the database fails.
pub async fn series(db: &Db, run: i64, query: &Query) -> Result<IndexMap<String, Series>> {
    let keys = if query.keys.is_empty() { keys(db, run).await? } else { query.keys.clone() };
    let mut all = IndexMap::new();
    for key in keys {
        let one = one(db, run, &key, query).await?;
        all.insert(key, one);
    }
    Ok(all)
}

/// The names of the curves that a run has.
///
/// # Errors
/// Where the database fails.
pub async fn keys(db: &Db, run: i64) -> Result<Vec<String>> {
    let sql = "select name from metric_key k where exists (select 1 from metric where run = ? and key = k.id) order by id";
    Ok(sqlx::query_scalar(sql).bind(run).fetch_all(db.read()).await?)
}

/// Steps a row of `metric_block`.
pub(super) const BLOCK: i64 = 256;

async fn one(db: &Db, run: i64, key: &str, query: &Query) -> Result<Series> {
    let points = i64::from(query.points.clamp(3, 10_000));
    let upto = query.upto.unwrap_or(i64::MAX);
    let window: Option<(i64, Option<i64>, Option<i64>)> = sqlx::query_as(
        "select k.id, (select min(step) from metric where run = ?1 and key = k.id and step >= ?3 and step <= ?4), \
         (select max(step) from metric where run = ?1 and key = k.id and step >= ?3 and step <= ?4) \
         from metric_key k where name = ?2",
    )
    .bind(run)
    .bind(key)
    .bind(query.from.unwrap_or(i64::MIN))
    .bind(query.to.unwrap_or(i64::MAX))
    .fetch_optional(db.read())
    .await?;
    let Some((key, Some(low), Some(high))) = window else {
        return Ok(Series::default());
    };
    let window = Window { run, key, low, high, upto };
    let span = high.saturating_sub(low).saturating_add(1);
    let of = if span <= points { span } else { window.count(db, span).await? };
    if of <= points {
        let mut series = window.raw(db).await?;
        window.smoothed(db, &mut series, query.smooth).await?;
        return Ok(series);
    }
    // the first and the last bucket carry the exact ends
    let width = (span + points - 1) / points;
    let mut series = if width >= COARSE {
        // two more for the parts of blocks at either end
        let inner = points - 2;
        window.blocks(db, (span + inner - 1) / inner).await?
    } else {
        columns(window.buckets(db, (low, high), width).await?)
    };
    series.of = of;
    window.exact_ends(db, &mut series).await?;
    window.smoothed(db, &mut series, query.smooth).await?;
    Ok(series)
}

/// Buckets as wide as this are made of whole blocks: fewer points than asked for, and not a scan of every row.
const COARSE: i64 = BLOCK / 4;

/// A stretch of one curve that is known to have a first and a last point.
struct Window {
    run: i64,
    key: i64,
    low: i64,
    high: i64,
    upto: i64,
}

/// Last step, mean, min and max of a bucket, and how many of its values are not finite.
type Bucket = (i64, Option<f64>, Option<f64>, Option<f64>, i64);

impl Window {
    async fn smoothed(&self, db: &Db, series: &mut Series, weight: Option<f64>) -> Result<()> {
        if let Some(weight) = weight {
            series.smooth = Some(smooth::line(db, self, series, weight).await?);
        }
        Ok(())
    }

    async fn count(&self, db: &Db, span: i64) -> Result<i64> {
        let sql = if span > 64 * BLOCK {
            "select coalesce(sum(n), 0) from metric_block where run = ? and key = ? and block between ? / 256 and ? / 256"
        } else {
            "select count(*) from metric where run = ? and key = ? and step between ? and ?"
        };
        let query =
            sqlx::query_scalar(sql).bind(self.run).bind(self.key).bind(self.low).bind(self.high);
        Ok(query.fetch_one(db.read()).await?)
    }

    async fn raw(&self, db: &Db) -> Result<Series> {
        let rows: Vec<(i64, Option<f64>)> = sqlx::query_as(
            "select step, value from metric where run = ? and key = ? and step between ? and ? and seq <= ? \
             order by step",
        )
        .bind(self.run)
        .bind(self.key)
        .bind(self.low)
        .bind(self.high)
        .bind(self.upto)
        .fetch_all(db.read())
        .await?;
        let of = i64::try_from(rows.len()).unwrap_or(i64::MAX);
        let bad = rows.iter().filter(|row| row.1.is_none()).map(|row| row.0).collect();
        let (step, value) = rows.into_iter().unzip();
        Ok(Series { step, value, of, bad, ..Series::default() })
    }

    async fn buckets(&self, db: &Db, (low, high): (i64, i64), width: i64) -> Result<Vec<Bucket>> {
        let sql = "select max(step), avg(value), min(value), max(value), count(*) - count(value) from metric \
             where run = ? and key = ? and step between ? and ? and seq <= ? group by (step - ?) / ? order by 1";
        let query = sqlx::query_as(sql)
            .bind(self.run)
            .bind(self.key)
            .bind(low)
            .bind(high)
            .bind(self.upto)
            .bind(low)
            .bind(width);
        Ok(query.fetch_all(db.read()).await?)
    }

    /// From the roll-ups. A block that only partly lies in the window is read value by value, so that nothing from
    /// outside shows.
    async fn blocks(&self, db: &Db, width: i64) -> Result<Series> {
        let whole = (self.low + BLOCK - 1).div_euclid(BLOCK)..(self.high + 1).div_euclid(BLOCK);
        let mut rows = Vec::new();
        if self.low < whole.start * BLOCK {
            let edge = (self.low, whole.start * BLOCK - 1);
            rows.extend(self.buckets(db, edge, BLOCK).await?);
        }
        let middle: Vec<Bucket> = sqlx::query_as(
            "select max(last_step), sum(total) / nullif(sum(n), 0), min(iif(n > 0, low, null)), \
             max(iif(n > 0, high, null)), sum(bad) from metric_block \
             where run = ? and key = ? and block >= ? and block < ? group by block / ? order by 1",
        )
        .bind(self.run)
        .bind(self.key)
        .bind(whole.start)
        .bind(whole.end)
        .bind((width + BLOCK - 1) / BLOCK)
        .fetch_all(db.read())
        .await?;
        rows.extend(middle);
        if self.high >= whole.end * BLOCK {
            let edge = (whole.end * BLOCK, self.high);
            rows.extend(self.buckets(db, edge, BLOCK).await?);
        }
        Ok(columns(rows))
    }

    async fn exact_ends(&self, db: &Db, series: &mut Series) -> Result<()> {
        let last = series.step.len().saturating_sub(1);
        for (place, step) in [(0, self.low), (last, self.high)] {
            let sql = "select value from metric where run = ? and key = ? and step = ?";
            let value: Option<Option<f64>> = sqlx::query_scalar(sql)
                .bind(self.run)
                .bind(self.key)
                .bind(step)
                .fetch_optional(db.read())
                .await?;
            if let (Some(value), Some(slot), Some(at)) =
                (value, series.value.get_mut(place), series.step.get_mut(place))
            {
                (*slot, *at) = (value, step);
            }
        }
        Ok(())
    }
}

fn columns(rows: Vec<Bucket>) -> Series {
    let (mut min, mut max) = (Vec::new(), Vec::new());
    let mut series = Series::default();
    for (step, mean, low, high, bad) in rows {
        if bad > 0 {
            series.bad.push(step);
        }
        series.step.push(step);
        series.value.push(mean);
        min.push(low);
        max.push(high);
    }
    (series.min, series.max) = (Some(min), Some(max));
    series
}

/// The last value of a curve and the lowest with its step; not finite ones aside.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Best {
    /// The last value.
    pub last: Option<f64>,
    /// The lowest value and its step.
    pub lowest: Option<(i64, f64)>,
}

/// The best of a curve, from its roll-ups.
///
/// # Errors
/// Where the database fails.
pub async fn best(db: &Db, run: i64, key: &str) -> Result<Best> {
    let sql = "select (select id from metric_key where name = ?)";
    let id: Option<i64> = sqlx::query_scalar(sql).bind(key).fetch_one(db.read()).await?;
    let Some(id) = id else {
        return Ok(Best::default());
    };
    let sql = "select value from metric where run = ? and key = ? and value is not null \
               order by step desc limit 1";
    let last: Option<f64> =
        sqlx::query_scalar(sql).bind(run).bind(id).fetch_optional(db.read()).await?;
    let sql = "select block from metric_block where run = ? and key = ? and n > 0 \
               order by low, block limit 1";
    let block: Option<i64> =
        sqlx::query_scalar(sql).bind(run).bind(id).fetch_optional(db.read()).await?;
    let sql = "select step, value from metric where run = ? and key = ? \
               and step between ?3 * 256 and ?3 * 256 + 255 and value is not null \
               order by value, step limit 1";
    let lowest = match block {
        None => None,
        Some(block) => {
            sqlx::query_as(sql).bind(run).bind(id).bind(block).fetch_optional(db.read()).await?
        }
    };
    Ok(Best { last, lowest })
}
