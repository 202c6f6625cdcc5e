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
        let (now, most) = (self.fit_now(available), self.kept_at_most());
        let begun = self.state.fit.filter(|begun| begun.of == now.of);
        let fit = match begun {
            Some(begun) if begun.is_beyond(&now, most) => {
                io.warn(
                    "less memory is free than when the run began: less of it is computed at once, and it goes on, but \
                     not bit for bit as without the interruption"
                        .into(),
                )?;
                now
            }
            Some(begun) => {
                if begun.kept(most) < now.kept(most) || begun.rows < now.rows {
                    io.say(
                        "as much is computed at once as when the run began, when less memory was free; \
                         activation_memory asks for more"
                            .into(),
                    )?;
                }
                begun
            }
            None => *self.state.fit.insert(now),
        };
        self.rows_at_once = fit.rows;
        self.keep = match self.config.activation_memory {
            _ if self.config.gradient_checkpointing => Keep::Inputs,
            Some(mib) => Keep::Within((mib as u64) << 20),
            None => fit.room.map_or(Keep::Intermediates, Keep::Within),
        };
        match available {
            Some(available) if self.config.auto_find_batch_size => self.tell_rows(available, io),
            _ => Ok(()),
        }
    }

    /// What there is room for.
    fn fit_now(&self, available: Option<u64>) -> Fit {
        let (batch, cutoff) = (self.config.per_device_train_batch_size, self.config.cutoff_len);
        let everything = Fit { of: (batch, cutoff), room: None, rows: batch };
        let Some(available) = available else { return everything };
        let decoder = &self.prepared.decoder;
        let fixed = memory::fixed(decoder, &self.optimiser);
        let asked = self.config.gradient_checkpointing || self.config.activation_memory.is_some();
        let free = available.saturating_sub(fixed);
        let room = (!asked).then(|| memory::room(&decoder.config, batch * cutoff, free));
        if !self.config.auto_find_batch_size {
            return Fit { room, ..everything };
        }
        let lengths = self.prepared.train.lengths(cutoff);
        let each = memory::per_token(decoder);
        let rows = memory::rows_that_fit(batch, &lengths, fixed, each, available);
        Fit { room, rows, ..everything }
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

    /// `auto_find_batch_size`: what it found.
    fn tell_rows(&self, available: u64, io: &mut dyn Observer) -> Result<()> {
        let decoder = &self.prepared.decoder;
        let lengths = self.prepared.train.lengths(self.config.cutoff_len);
        let longest = lengths.iter().max().copied().unwrap_or(0) as u64;
        let needed = memory::fixed(decoder, &self.optimiser) + memory::per_token(decoder) * longest;
        let (batch, rows, free) =
            (self.config.per_device_train_batch_size, self.rows_at_once, available >> 20);
        if needed > available {
            io.warn(format!(
                "a row of {longest} tokens may need {} MiB, and {free} MiB are free: lower cutoff_len, or use lora or \
                 an 8-bit optimiser",
                needed >> 20
            ))?;
        }
        if rows == batch {
            return Ok(());
        }
        io.say(format!(
            "{rows} rows are computed at once instead of {batch}, and more often, so that a step is over the same rows \
             ({free} MiB are free)"
        ))
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
