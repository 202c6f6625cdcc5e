//! The nearest known name for a misspelt one.

use crate::fields::{Class, FIELDS};

/// Longer names are no misspelling of ours; comparing them would only take time.
const LONGEST: usize = 64;

/// What to say about a name that is not in the table.
pub(super) fn unknown(name: &str) -> String {
    let shown: String = name.chars().take(LONGEST).collect();
    match nearest(name) {
        Some(known) => format!("unknown argument `{shown}`; did you mean `{known}`?"),
        None => format!("unknown argument `{shown}`; `tallow train --help` lists all"),
    }
}

fn nearest(name: &str) -> Option<&'static str> {
    if name.len() > LONGEST {
        return None;
    }
    let name = name.trim_start_matches('-').replace('-', "_").to_lowercase();
    let limit = (name.chars().count() / 3).max(1);
    FIELDS
        .iter()
        .map(|field| {
            // Between equals, one that works is the likelier wish.
            (distance(&name, field.name), !matches!(field.class, Class::Done), field.name)
        })
        .min()
        .filter(|(distance, ..)| *distance <= limit)
        .map(|(_, _, known)| known)
}

/// Insertions, deletions, replacements and swaps of neighbours between two names.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before_last = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before_last[j - 2] + 1);
            }
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::unknown;

    #[test]
    fn misspelt_names_find_theirs() {
        for (name, expected) in [
            ("lerning_rate", "learning_rate"),
            ("learning-rate", "learning_rate"),
            ("Learning_Rate", "learning_rate"),
            ("lora_rnak", "lora_rank"),
            ("evaluation_strategy", "eval_strategy"),
            ("per_device_batch_size", "per_device_eval_batch_size"),
            ("cutof_len", "cutoff_len"),
        ] {
            assert_eq!(
                unknown(name),
                format!("unknown argument `{name}`; did you mean `{expected}`?")
            );
        }
    }

    #[test]
    fn strangers_find_none() {
        for name in ["", "x", "zzzzzzzz", "räksmörgås", &"a".repeat(10_000)] {
            assert!(unknown(name).contains("lists all"), "{name}");
        }
    }
}
