//! `streaming`: rows that are read, shuffled and encoded while training, a buffer of them in memory.
//!
//! The order is that of `datasets`' iterable datasets: a buffer is filled, each next row comes from a
//! random place of it, and what is left at the end is shuffled. Everything is a function of the seed, so
//! a resumed run reads on from where it was by passing over the rows before.

use std::collections::{HashSet, VecDeque};
use std::sync::mpsc::{Receiver, sync_channel};

use super::super::encode::Row;
use super::super::error::DataError;
use super::super::info::{self, DatasetInfo};
use super::super::order::{Buffer, Mix, Turns};
use super::super::report::Report;
use super::super::template::Template;
use super::super::tokenizer::Tokenizer;
use super::rows::{self, Item};
use super::{DataArgs, Dataset, tokenise};

/// Rows that a reading thread may be ahead.
const AHEAD: usize = 256;

/// Which row of which dataset.
type Name = (usize, u64);

/// Training rows, read on demand; they begin anew when the data ends.
pub struct Stream {
    args: DataArgs,
    buffer_size: usize,
    infos: Vec<DatasetInfo>,
    /// How often the data has ended.
    epoch: u64,
    /// Rows that this epoch has given.
    given: u64,
    source: Shuffled,
    held_out: HashSet<Name>,
    ready: VecDeque<Row>,
    report: Report,
}

impl Stream {
    /// A stream over the datasets of `args` and the evaluation sets: `eval_dataset`, read as a whole, or
    /// the first `val_size` rows of the stream.
    ///
    /// # Errors
    /// When a file is missing or broken, an argument does not fit, or no row is usable.
    pub fn open(
        args: &DataArgs,
        buffer_size: usize,
        kit: Option<(&Tokenizer, &Template)>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(Self, Dataset), DataError> {
        args.check()?;
        if args.max_samples.is_some() {
            return Err(DataError::invalid("`max_samples` is incompatible with `streaming`."));
        }
        if args.val_size > 0.0 && args.val_size < 1.0 {
            return Err(DataError::invalid("Streaming mode should have an integer val size."));
        }
        let infos = info::read(&args.dataset_dir, &args.dataset)?;
        for info in &infos {
            rows::check(args, info)?;
        }
        let eval_args = DataArgs { dataset: Vec::new(), val_size: 0.0, ..args.clone() };
        let mut dataset = super::load(&eval_args, kit, progress)?;
        let mut report = std::mem::take(&mut dataset.report);
        let mut source = Shuffled::begin(args, &infos, buffer_size, 0)?;
        let mut held_out = HashSet::new();
        let mut items = Vec::new();
        while items.len() < args.val_size as usize {
            let Some((name, item)) = source.next()? else {
                return Err(DataError::invalid(format!(
                    "val_size: {} rows are to be held out, but there are only {}",
                    args.val_size,
                    items.len()
                )));
            };
            held_out.insert(name);
            items.push(item);
        }
        if !items.is_empty() {
            let rows = tokenise::all(args, kit, items, &mut report, &mut |_| {})?;
            dataset.eval.push((String::new(), rows));
        }
        let stream = Self {
            args: args.clone(),
            buffer_size,
            infos,
            epoch: 0,
            given: 0,
            source,
            held_out,
            ready: VecDeque::new(),
            report,
        };
        Ok((stream, dataset))
    }

    /// How often the data has ended so far.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What happened to rows since the last call, for the log.
    pub fn take_report(&mut self) -> Report {
        std::mem::take(&mut self.report)
    }

    /// The next row.
    ///
    /// # Errors
    /// When a file is broken, or a whole pass over the data gave no row.
    pub fn next(&mut self, kit: Option<(&Tokenizer, &Template)>) -> Result<Row, DataError> {
        loop {
            if let Some(row) = self.ready.pop_front() {
                self.given += 1;
                return Ok(row);
            }
            let wanted = tokenise::batch_size(&self.args);
            let mut items = Vec::with_capacity(wanted);
            while items.len() < wanted {
                match self.source.next()? {
                    // The rows before the held out ones' end were taken from this source.
                    Some((name, _)) if self.held_out.contains(&name) => {}
                    Some((_, item)) => items.push(item),
                    None => break,
                }
            }
            if items.is_empty() {
                self.begin_epoch()?;
                continue;
            }
            self.report.rows += items.len() as u64;
            self.ready.extend(tokenise::batch(&self.args, kit, &items, &mut self.report)?);
        }
    }

    fn begin_epoch(&mut self) -> Result<(), DataError> {
        if self.given == 0 {
            let first: Vec<_> =
                self.report.bad_rows.iter().take(3).map(ToString::to_string).collect();
            return Err(DataError::NoValidRows {
                count: self.report.rows,
                first: first.join("; "),
            });
        }
        self.epoch += 1;
        self.given = 0;
        self.source = Shuffled::begin(&self.args, &self.infos, self.buffer_size, self.epoch)?;
        Ok(())
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stream of {:?}, epoch {}", self.args.dataset, self.epoch)
    }
}

/// The rows of one epoch in their shuffled order.
struct Shuffled {
    mixed: Mixed,
    buffer: Buffer<(Name, Item)>,
}

impl Shuffled {
    fn begin(
        args: &DataArgs,
        infos: &[DatasetInfo],
        buffer_size: usize,
        epoch: u64,
    ) -> Result<Self, DataError> {
        let mixed = Mixed::open(args, infos)?;
        Ok(Self { mixed, buffer: Buffer::new(buffer_size, args.seed, epoch) })
    }

    fn next(&mut self) -> Result<Option<(Name, Item)>, DataError> {
        while let Some(row) = self.mixed.next()? {
            if let Some(row) = self.buffer.push(row) {
                return Ok(Some(row));
            }
        }
        Ok(self.buffer.drain())
    }
}

/// The rows of several datasets in turns.
struct Mixed {
    readers: Vec<Reader>,
    turns: Option<Turns>,
}

impl Mixed {
    fn open(args: &DataArgs, infos: &[DatasetInfo]) -> Result<Self, DataError> {
        let open = |(i, info): (usize, &DatasetInfo)| Reader::open(args, info, i);
        let readers = infos.iter().enumerate().map(open).collect::<Result<Vec<_>, _>>()?;
        let turns = match args.mix_strategy {
            Mix::Concat => None,
            _ if readers.len() < 2 => None,
            strategy => Some(Turns::new(
                readers.len(),
                strategy,
                args.interleave_probs.as_deref(),
                args.seed,
            )?),
        };
        Ok(Self { readers, turns })
    }

    fn next(&mut self) -> Result<Option<(Name, Item)>, DataError> {
        let Some(turns) = &mut self.turns else {
            for reader in &mut self.readers {
                if let Some(row) = reader.next()? {
                    return Ok(Some(row));
                }
            }
            return Ok(None);
        };
        let Some(turn) = turns.next() else {
            return Ok(None);
        };
        let reader = &mut self.readers[turn];
        let row = reader.next()?;
        if reader.ahead.is_none() {
            turns.exhausted(turn);
            reader.restart()?;
        }
        Ok(row)
    }
}

/// A dataset that a thread reads ahead of need.
struct Reader {
    args: DataArgs,
    info: DatasetInfo,
    dataset: usize,
    rows: Receiver<Result<Item, DataError>>,
    /// The next row: known before it is wanted, so that the end is known with the last row.
    ahead: Option<Item>,
    row: u64,
}

impl Reader {
    fn open(args: &DataArgs, info: &DatasetInfo, dataset: usize) -> Result<Self, DataError> {
        let (args, info) = (args.clone(), info.clone());
        let rows = read_ahead(&args, &info)?;
        let mut reader = Self { args, info, dataset, rows, ahead: None, row: 0 };
        reader.ahead = reader.receive()?;
        if reader.ahead.is_none() {
            return Err(DataError::invalid(format!(
                "{}: the dataset {} is empty",
                reader.info.path.display(),
                reader.info.name
            )));
        }
        Ok(reader)
    }

    fn restart(&mut self) -> Result<(), DataError> {
        self.rows = read_ahead(&self.args, &self.info)?;
        self.ahead = self.receive()?;
        self.row = 0;
        Ok(())
    }

    fn receive(&mut self) -> Result<Option<Item>, DataError> {
        // A closed channel is the end of the data.
        self.rows.recv().ok().transpose()
    }

    fn next(&mut self) -> Result<Option<(Name, Item)>, DataError> {
        let Some(item) = self.ahead.take() else {
            return Ok(None);
        };
        self.ahead = self.receive()?;
        let name = (self.dataset, self.row);
        self.row += 1;
        Ok(Some((name, item)))
    }
}

/// Starts a thread that reads a dataset; it ends with the data, or when nobody listens.
fn read_ahead(
    args: &DataArgs,
    info: &DatasetInfo,
) -> Result<Receiver<Result<Item, DataError>>, DataError> {
    let (sender, receiver) = sync_channel(AHEAD);
    let (args, info) = (args.clone(), info.clone());
    let thread = std::thread::Builder::new().name(format!("read {}", info.name));
    let started = thread.spawn(move || {
        let mut give = |item| Ok(sender.send(Ok(item)).is_ok());
        if let Err(error) = rows::each(&args, &info, &mut give) {
            // Nobody listens any more: nobody needs to know.
            let _ = sender.send(Err(error));
        }
    });
    let cannot = |e| DataError::invalid(format!("a thread that reads cannot be started: {e}"));
    started.map(|_| receiver).map_err(cannot)
}
