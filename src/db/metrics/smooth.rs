//! A smoothed curve: the exponential mean without the bias of its start, over every value and not over what is shown, so
//! that it does not change with the zoom.

use super::{Series, Window};
use crate::db::{Db, Result};

/// Up to so many values are read one by one; more come as blocks, which a mean over more than a few hundred hides.
const EXACT: i64 = 100_000;
/// A value counts no more once its weight has fallen to this.
const FORGOTTEN: f64 = 1e-4;

/// The mean as it goes on.
#[derive(Debug, Clone, Copy)]
struct Mean {
    weight: f64,
    sum: f64,
    mass: f64,
}

impl Mean {
    /// Takes `count` values with that mean.
    fn take(&mut self, count: f64, value: f64) {
        let keep = self.weight.powf(count);
        self.sum = keep * self.sum + (1.0 - keep) * value;
        self.mass = keep * self.mass + (1.0 - keep);
    }

    fn now(self) -> Option<f64> {
        (self.mass > 0.0).then(|| self.sum / self.mass)
    }
}

/// Step, how many values, their mean.
type Part = (i64, i64, Option<f64>);

/// The smoothed value at each step of a series.
///
/// # Errors
/// Where the database fails.
pub(super) async fn line(
    db: &Db,
    window: &Window,
    series: &Series,
    weight: f64,
) -> Result<Vec<Option<f64>>> {
    let before = warm(weight);
    let parts = if series.of.saturating_add(before) <= EXACT {
        window.values(db, before).await?
    } else {
        window.means(db).await?
    };
    Ok(sample(&parts, &series.step, weight))
}

/// How many values before a window still count in it.
fn warm(weight: f64) -> i64 {
    if weight <= 0.0 {
        return 0;
    }
    #[expect(clippy::cast_possible_truncation, reason = "at most some thousands")]
    let count = (FORGOTTEN.ln() / weight.ln()).ceil() as i64;
    count
}

/// The mean at each of `steps`, between two parts on the line from one to the next.
fn sample(parts: &[Part], steps: &[i64], weight: f64) -> Vec<Option<f64>> {
    let mut mean = Mean { weight, sum: 0.0, mass: 0.0 };
    let mut all = parts.iter().filter_map(|(step, count, value)| {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        mean.take(*count as f64, (*value)?);
        Some((*step, mean.now()?))
    });
    let (mut last, mut next) = (None, all.next());
    let mut at = |step: i64| {
        while next.is_some_and(|(end, _)| end <= step) {
            (last, next) = (next, all.next());
        }
        match (last, next) {
            (Some((from, low)), Some((to, high))) => {
                #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
                let share = (step - from) as f64 / (to - from) as f64;
                Some(low + share * (high - low))
            }
            (Some((_, value)), None) | (None, Some((_, value))) => Some(value),
            (None, None) => None,
        }
    };
    steps.iter().map(|step| at(*step)).collect()
}

impl Window {
    /// The values of the window and so many before it.
    async fn values(&self, db: &Db, before: i64) -> Result<Vec<Part>> {
        let sql = "select step, 1, value from (select step, value from metric where run = ?1 and key = ?2 and step < ?3 \
             and seq <= ?5 order by step desc limit ?6) union all select step, 1, value from metric \
             where run = ?1 and key = ?2 and step between ?3 and ?4 and seq <= ?5 order by 1";
        let query = sqlx::query_as(sql).bind(self.run).bind(self.key).bind(self.low);
        Ok(query.bind(self.high).bind(self.upto).bind(before).fetch_all(db.read()).await?)
    }

    /// The roll-ups from the start to the window's end.
    async fn means(&self, db: &Db) -> Result<Vec<Part>> {
        let sql = "select last_step, n, total / nullif(n, 0) from metric_block \
             where run = ? and key = ? and block <= ? / 256 order by block";
        let query = sqlx::query_as(sql).bind(self.run).bind(self.key).bind(self.high);
        Ok(query.fetch_all(db.read()).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_without_the_bias_of_their_start() {
        let check = |parts: &[Part], steps: &[i64], weight: f64, expected: &[Option<f64>]| {
            let got = sample(parts, steps, weight);
            assert_eq!(got.len(), expected.len());
            for (got, expected) in got.iter().zip(expected) {
                let same = match (got, expected) {
                    (Some(got), Some(expected)) => (got - expected).abs() < 1e-9,
                    (got, expected) => got == expected,
                };
                assert!(same, "{got:?} {expected:?}");
            }
        };
        let parts = [(1, 1, Some(4.0)), (2, 1, Some(1.0)), (3, 1, None), (4, 1, Some(1.0))];
        // weight 1/2: 4, then (4 + 2 * 1) / 3, then (4 + 2 + 4) / 7
        let smooth = [Some(4.0), Some(2.0), Some(12.0 / 7.0), Some(10.0 / 7.0)];
        check(&parts, &[1, 2, 3, 4], 0.5, &smooth);
        check(&parts, &[4], 0.5, &[Some(10.0 / 7.0)]);
        check(&parts, &[0, 9], 0.5, &[Some(4.0), Some(10.0 / 7.0)]);
        check(&parts, &[1, 2, 4], 0.0, &[Some(4.0), Some(1.0), Some(1.0)]);
        check(&[], &[1], 0.5, &[None]);
        // a block of ten is ten values of its mean
        let ten: Vec<Part> = (1..=10).map(|step| (step, 1, Some(3.0))).collect();
        let one = sample(&[(0, 1, Some(9.0)), (10, 10, Some(3.0))], &[10], 0.9);
        let all: Vec<Part> = [(0, 1, Some(9.0))].into_iter().chain(ten).collect();
        check(&all, &[10], 0.9, &one);
    }

    #[test]
    fn what_counts_before_a_window() {
        for (weight, expected) in [(0.0, 0), (0.5, 14), (0.9, 88), (0.999, 9206)] {
            assert_eq!(warm(weight), expected, "{weight}");
        }
    }
}
