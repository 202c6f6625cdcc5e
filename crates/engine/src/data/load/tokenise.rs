//! Tokenising, labelling and packing: in parallel, in order.

use rayon::prelude::*;

use super::super::convert::{Converted, check_range};
use super::super::encode::{self, Encoded, IGNORE, Row};
use super::super::error::{DataError, RowError};
use super::super::pack;
use super::super::report::Report;
use super::super::template::Template;
use super::super::tokenizer::Tokenizer;
use super::rows::Item;
use super::{DataArgs, Stage};

/// Rows between two calls of the progress function where nothing is packed.
const STEP: usize = 250;

/// The rows of one set.
pub(super) fn all(
    args: &DataArgs,
    kit: Option<(&Tokenizer, &Template)>,
    items: Vec<Item>,
    report: &mut Report,
    advance: &mut dyn FnMut(usize),
) -> Result<Vec<Row>, DataError> {
    let count = items.len() as u64;
    let bad_before = report.bad_rows.len();
    report.rows += count;
    let mut rows = Vec::new();
    // Packs are made inside a batch, and batches inside a worker's share, so both shape them as in the reference.
    let shares = if args.packs() {
        shares(items.len(), args.preprocessing_num_workers)
    } else {
        vec![items.len()]
    };
    let mut rest = items.as_slice();
    for share in shares {
        let (share, after) = rest.split_at(share);
        rest = after;
        for items in share.chunks(batch_size(args)) {
            rows.extend(batch(args, kit, items, report)?);
            advance(items.len());
        }
    }
    if !rows.is_empty() {
        return Ok(rows);
    }
    let reasons: Vec<String> =
        report.bad_rows.iter().skip(bad_before).take(3).map(ToString::to_string).collect();
    if reasons.is_empty() {
        let what = "Cannot find sufficient samples, consider increasing dataset size.";
        let capacity = args.capacity();
        return Err(DataError::invalid(format!(
            "{what} (none of {count} rows fits or fills {capacity} tokens)"
        )));
    }
    Err(DataError::NoValidRows { count, first: reasons.join("; ") })
}

/// Rows that are encoded together: packs are made inside a batch.
pub(super) fn batch_size(args: &DataArgs) -> usize {
    if args.packs() { args.preprocessing_batch_size } else { STEP }
}

/// The rows of one batch, packed where that is asked for.
pub(super) fn batch(
    args: &DataArgs,
    kit: Option<(&Tokenizer, &Template)>,
    items: &[Item],
    report: &mut Report,
) -> Result<Vec<Row>, DataError> {
    let encoded = encode_batch(args, kit, items, report)?;
    let rows = match args.stage {
        _ if !args.packs() => encoded,
        Stage::Sft => packs(args, encoded, report),
        Stage::Pt => blocks(args, kit, encoded, report),
    };
    report.unlabelled +=
        rows.iter().filter(|row| row.labels.iter().all(|label| *label == IGNORE)).count() as u64;
    Ok(rows)
}

/// The share of each worker: contiguous, the first ones one longer where it does not divide.
fn shares(rows: usize, workers: Option<usize>) -> Vec<usize> {
    let workers = workers.unwrap_or(1).clamp(1, rows.max(1));
    (0..workers).map(|i| rows / workers + usize::from(i < rows % workers)).collect()
}

/// The rows of a batch, in order, without the bad ones.
fn encode_batch(
    args: &DataArgs,
    kit: Option<(&Tokenizer, &Template)>,
    batch: &[Item],
    report: &mut Report,
) -> Result<Vec<Row>, DataError> {
    let needs_kit = |item: &Item| matches!(*item.content, Ok(Converted::Example(_)));
    if kit.is_none() && batch.iter().any(needs_kit) {
        return Err(DataError::invalid(
            "a tokenizer is needed: put tokenizer.json into the model's folder (only `formatting: tokens` does without)",
        ));
    }
    let encoded: Vec<Result<Encoded, RowError>> =
        batch.par_iter().map(|item| encode_item(args, kit, item)).collect();
    let mut rows = Vec::with_capacity(batch.len());
    for (item, encoded) in batch.iter().zip(encoded) {
        match encoded {
            Ok(encoded) => {
                report.truncated += u64::from(encoded.cut_tokens > 0);
                report.truncated_tokens += encoded.cut_tokens as u64;
                report.dropped_turns += encoded.dropped_turns as u64;
                rows.push(encoded.row);
            }
            Err(reason) => report.add_bad(item.bad(&reason)),
        }
    }
    Ok(rows)
}

fn encode_item(
    args: &DataArgs,
    kit: Option<(&Tokenizer, &Template)>,
    item: &Item,
) -> Result<Encoded, RowError> {
    let example = match (&*item.content, kit) {
        (Err(reason), _) => return Err(reason.clone()),
        (Ok(Converted::Tokens(row)), _) => {
            let known = args.vocab_size.or(kit.map(|(tokenizer, _)| tokenizer.vocab_size()));
            check_range(row, known.unwrap_or(i32::MAX as usize))?;
            return Ok(Encoded { row: row.clone(), ..Encoded::default() });
        }
        (Ok(Converted::Example(example)), Some(kit)) => (example, kit),
        (Ok(Converted::Example(_)), None) => return Err("there is no tokenizer".into()),
    };
    let (example, (tokenizer, template)) = example;
    if args.stage == Stage::Sft {
        return encode::supervised(tokenizer, template, example, args.labelling());
    }
    let bos = tokenizer.adds_bos() && !args.packs();
    let mut ids = encode::pretraining(tokenizer, template, example, bos)?;
    let mut cut_tokens = 0;
    if !args.packs() {
        cut_tokens = ids.len().saturating_sub(args.capacity());
        ids.truncate(args.capacity());
    }
    Ok(Encoded { row: text_row(ids, tokenizer.pad_id()), cut_tokens, dropped_turns: 0 })
}

/// A row of which everything is trained but the padding token, which the reference's collator masks wherever it is.
fn text_row(input_ids: Vec<u32>, pad: Option<u32>) -> Row {
    let label = |id: &u32| if Some(*id) == pad { IGNORE } else { *id as i32 };
    let labels = input_ids.iter().map(label).collect();
    Row { input_ids, labels, ..Row::default() }
}

fn packs(args: &DataArgs, rows: Vec<Row>, report: &mut Report) -> Vec<Row> {
    let (packs, too_long) = pack::pack(rows, args.capacity(), args.neat_packing);
    report.too_long += too_long;
    packs
}

fn blocks(
    args: &DataArgs,
    kit: Option<(&Tokenizer, &Template)>,
    rows: Vec<Row>,
    report: &mut Report,
) -> Vec<Row> {
    let texts: Vec<Vec<u32>> = rows.into_iter().map(|row| row.input_ids).collect();
    let tokenizer = kit.map(|(tokenizer, _)| tokenizer);
    let bos = tokenizer.filter(|t| t.adds_bos()).and_then(Tokenizer::bos_id);
    let (blocks, remainder) = pack::blocks(&texts, args.capacity(), bos);
    report.remainder_tokens += remainder;
    blocks.into_iter().map(|ids| text_row(ids, tokenizer.and_then(Tokenizer::pad_id))).collect()
}
