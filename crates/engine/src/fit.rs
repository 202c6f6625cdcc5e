//! How much of a run is computed at once: settled by the memory that is free when it begins, and taken from the
//! checkpoint when it goes on, because sums are added and dropout's masks are drawn in that order.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::memory;
use crate::model::decoder::Keep;
use crate::observer::Observer;
use crate::train::Run;

/// Bytes that may be missing of what a run was begun with: half of what is kept free for everything that is not
/// counted. How much is free is never twice the same.
const SLACK: u64 = 128 << 20;

/// What free memory settled, and for which micro-batches; a part of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fit {
    /// `per_device_train_batch_size` and `cutoff_len`.
    pub of: (usize, usize),
    /// Bytes of a pass that the layers may keep, where no argument says it; `None`: all that they would.
    pub room: Option<u64>,
    /// Rows that are computed at once.
    pub rows: usize,
}

impl Fit {
    /// Bytes that the layers keep, of `most` that they would.
    fn kept(&self, most: u64) -> u64 {
        self.room.map_or(most, |room| room.min(most))
    }

    /// Whether it takes more memory than there is room for `now`.
    fn is_beyond(&self, now: &Self, most: u64) -> bool {
        self.rows > now.rows || self.kept(most) > now.kept(most).saturating_add(SLACK)
    }
}

impl Run<'_> {
    /// Keeps of the layers what there is room for, beside what is trained now. `auto_find_batch_size`: computes
    /// fewer rows at once where the longest would not fit. `available`: bytes that are free, if that is known.
    ///
    /// # Errors
    /// When what is decided cannot be written down.
    pub(crate) fn fit_into(&mut self, available: Option<u64>, io: &mut dyn Observer) -> Result<()> {
        let now = self.fit_now(available, io)?;
        let fit = match self.state.fit.filter(|begun| begun.of == now.of) {
            Some(begun) => self.fit_again(begun, now, io)?,
            None => *self.state.fit.insert(now),
        };
        self.rows_at_once = fit.rows;
        self.keep = match self.config.activation_memory {
            _ if self.config.gradient_checkpointing => Keep::Inputs,
            Some(mib) => Keep::Within((mib as u64) << 20),
            None => fit.room.map_or(Keep::Intermediates, Keep::Within),
        };
        let batch = self.config.per_device_train_batch_size;
        let Some(available) = available.filter(|_| self.config.auto_find_batch_size) else {
            return Ok(());
        };
        if fit.rows == batch {
            return Ok(());
        }
        io.say(format!(
            "{} rows are computed at once instead of {batch}, and more often, so that a step is over the same rows \
             ({} MiB are free)",
            fit.rows,
            available >> 20
        ))
    }

    /// What there is room for; warns where not even a row may fit.
    fn fit_now(&self, available: Option<u64>, io: &mut dyn Observer) -> Result<Fit> {
        let (batch, cutoff) = (self.config.per_device_train_batch_size, self.config.cutoff_len);
        let everything = Fit { of: (batch, cutoff), room: None, rows: batch };
        let Some(available) = available else { return Ok(everything) };
        let decoder = &self.prepared.decoder;
        let fixed = memory::fixed(decoder, &self.optimiser);
        let asked = self.config.gradient_checkpointing || self.config.activation_memory.is_some();
        let free = available.saturating_sub(fixed);
        let room = (!asked).then(|| memory::room(&decoder.config, batch * cutoff, free));
        if !self.config.auto_find_batch_size {
            return Ok(Fit { room, ..everything });
        }
        let (lengths, each) = (self.prepared.train.lengths(cutoff), memory::per_token(decoder));
        let longest = lengths.iter().max().copied().unwrap_or(0) as u64;
        if fixed + each * longest > available {
            io.warn(format!(
                "a row of {longest} tokens may need {} MiB, and {} MiB are free: lower cutoff_len, or use lora or an \
                 8-bit optimiser",
                (fixed + each * longest) >> 20,
                available >> 20
            ))?;
        }
        let rows = memory::rows_that_fit(batch, &lengths, fixed, each, available);
        Ok(Fit { room, rows, ..everything })
    }

    /// What a resumed run goes on with: as it was begun, if there is still room for that.
    fn fit_again(&self, begun: Fit, now: Fit, io: &mut dyn Observer) -> Result<Fit> {
        let most = self.kept_at_most();
        if begun.is_beyond(&now, most) {
            io.warn(
                "less memory is free than when the run began: less of it is computed at once, and it goes on, but not \
                 bit for bit as without the interruption"
                    .into(),
            )?;
            return Ok(now);
        }
        if begun.kept(most) < now.kept(most) || begun.rows < now.rows {
            io.say(
                "as much is computed at once as when the run began, when less memory was free; activation_memory asks \
                 for more"
                    .into(),
            )?;
        }
        Ok(begun)
    }

    /// Bytes that the layers keep of the largest micro-batch there may be, if they keep all that backward reads.
    fn kept_at_most(&self) -> u64 {
        let mut lengths = self.prepared.train.lengths(self.config.cutoff_len);
        let rows = lengths.len().min(self.config.per_device_train_batch_size);
        if rows > 0 {
            lengths.select_nth_unstable_by_key(rows - 1, |length| std::cmp::Reverse(*length));
        }
        memory::kept_at_most(&self.prepared.decoder, lengths[..rows].iter().sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_goes_on_as_it_was_begun_where_that_still_fits() {
        const MIB: u64 = 1 << 20;
        let fit =
            |room: Option<u64>, rows| Fit { of: (4, 512), room: room.map(|mib| mib * MIB), rows };
        let check = |begun: Fit, now: Fit, beyond: bool| {
            assert_eq!(begun.is_beyond(&now, 1000 * MIB), beyond, "{begun:?} {now:?}");
        };
        check(fit(None, 4), fit(None, 4), false);
        check(fit(Some(0), 4), fit(Some(9000), 4), false);
        // more was free than it takes
        check(fit(Some(9000), 4), fit(Some(1000), 4), false);
        check(fit(None, 4), fit(Some(1000), 4), false);
        // a little less
        check(fit(Some(900), 4), fit(Some(800), 4), false);
        check(fit(Some(900), 4), fit(Some(700), 4), true);
        check(fit(None, 4), fit(Some(700), 4), true);
        check(fit(Some(9000), 4), fit(Some(9000), 2), true);
        check(fit(Some(9000), 2), fit(Some(9000), 4), false);
    }
}
