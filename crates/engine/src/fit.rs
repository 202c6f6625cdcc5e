//! How much of a run is computed at once: settled by the memory that is free when it begins, and taken from the
//! checkpoint when it goes on, because sums are added and dropout's masks are drawn in that order.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::memory;
use crate::model::decoder::Keep;
use crate::observer::Observer;
use crate::train::Run;

/// What free memory settled; a part of a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fit {
    /// Bytes of a pass that the layers may keep, where no argument says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room: Option<u64>,
    /// Rows that are computed at once, with `auto_find_batch_size`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<usize>,
}

impl Run<'_> {
    /// Keeps of the layers what there is room for, beside what is trained now. `auto_find_batch_size`: computes
    /// fewer rows at once where the longest would not fit. `available`: bytes that are free, if that is known.
    ///
    /// # Errors
    /// When what is decided cannot be written down.
    pub(crate) fn fit_into(&mut self, available: Option<u64>, io: &mut dyn Observer) -> Result<()> {
        let fixed = memory::fixed(&self.prepared.decoder, &self.optimiser);
        let free = available.map(|available| available.saturating_sub(fixed));
        self.keep = match self.config.activation_memory {
            _ if self.config.gradient_checkpointing => Keep::Inputs,
            Some(mib) => Keep::Within((mib as u64) << 20),
            None => self.keep_within(free, io)?,
        };
        if self.config.auto_find_batch_size {
            self.rows_at_once = self.rows_within(available, fixed, io)?;
        }
        Ok(())
    }

    fn keep_within(&mut self, free: Option<u64>, io: &mut dyn Observer) -> Result<Keep> {
        let decoder = &self.prepared.decoder;
        let tokens = self.config.per_device_train_batch_size * self.config.cutoff_len;
        let now = free.map(|free| memory::room(&decoder.config, tokens, free));
        let most = memory::kept_at_most(decoder, tokens);
        let room = match (self.state.fit.room, now) {
            (Some(then), Some(now)) if then.min(most) > now => {
                differs(io)?;
                Some(now)
            }
            (Some(then), _) => Some(then),
            (None, now) => now,
        };
        self.state.fit.room = room;
        Ok(room.map_or(Keep::Intermediates, Keep::Within))
    }

    fn rows_within(
        &mut self,
        available: Option<u64>,
        fixed: u64,
        io: &mut dyn Observer,
    ) -> Result<usize> {
        let batch = self.config.per_device_train_batch_size;
        let then = self.state.fit.rows.map(|rows| rows.min(batch));
        let Some(available) = available else { return Ok(then.unwrap_or(batch)) };
        let each = memory::per_token(&self.prepared.decoder, self.keep);
        let lengths = self.prepared.train.lengths(self.config.cutoff_len);
        let now = memory::rows_that_fit(batch, &lengths, fixed, each, available);
        let rows = match then {
            Some(then) if then > now => {
                differs(io)?;
                now
            }
            then => then.unwrap_or(now),
        };
        self.state.fit.rows = Some(rows);
        let longest = lengths.iter().max().copied().unwrap_or(0) as u64;
        let (needed, free) = ((fixed + each * longest) >> 20, available >> 20);
        if fixed + each * longest > available {
            io.warn(format!(
                "a row of {longest} tokens may need {needed} MiB, and {free} MiB are free: lower cutoff_len, or use \
                 lora or an 8-bit optimiser"
            ))?;
        }
        if rows < batch {
            io.say(format!(
                "{free} MiB are free: {rows} rows are computed at once instead of {batch}, and more often, so that a \
                 step is over the same rows"
            ))?;
        }
        Ok(rows)
    }
}

/// Says that a resumed run cannot be computed as it was begun.
fn differs(io: &mut dyn Observer) -> Result<()> {
    io.warn(
        "less memory is free than when the run began: less of it is computed at once, and it goes on, but not bit \
         for bit as without the interruption"
            .into(),
    )
}
