//! Every page in every state worth looking at, for the checks and for the pictures.

use super::seed;

/// Whose page it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// A server on an empty folder.
    Empty,
    /// One with runs, models and data sets.
    Filled,
}

/// Where, the path, and the name of its picture.
pub fn all() -> Vec<(At, String, &'static str)> {
    let (finished, failed) = (seed::FINISHED, seed::FAILED);
    let kit = "model=models/sample&template=qwen";
    let form = "/runs/new?model_name_or_path=models/sample&dataset=sky&template=qwen";
    let fixed = [
        (At::Empty, "/", "welcome"),
        (At::Empty, "/runs", "runs-empty"),
        (At::Filled, "/runs", "runs"),
        (At::Filled, "/runs?q=nothing-like-this", "runs-no-hit"),
        (At::Filled, form, "new"),
        (At::Empty, "/datasets", "datasets-empty"),
        (At::Filled, "/datasets", "datasets"),
        (At::Filled, "/datasets/sky", "dataset-rows"),
        (At::Filled, "/datasets/sky?tab=check", "dataset-check"),
        (At::Filled, "/datasets/sky?tab=columns", "dataset-columns"),
        (At::Empty, "/models", "models-empty"),
        (At::Filled, "/models", "models"),
        (At::Filled, "/queue", "queue"),
        (At::Empty, "/queue", "queue-empty"),
        (At::Filled, "/compare", "compare-choose"),
        (At::Filled, "/system", "system"),
        (At::Filled, "/settings", "settings"),
        (At::Filled, "/settings/audit", "audit"),
    ];
    let mut pages: Vec<_> =
        fixed.into_iter().map(|(at, path, name)| (at, path.to_owned(), name)).collect();
    pages.extend([
        (At::Filled, format!("/runs/{finished}"), "run-finished"),
        (At::Filled, format!("/runs/{failed}"), "run-failed"),
        (At::Filled, format!("/runs/{finished}?tab=config"), "run-config"),
        (At::Filled, format!("/datasets/sky?tab=lengths&{kit}&cutoff_len=300"), "dataset-lengths"),
        (At::Filled, format!("/datasets/sky?tab=tokens&{kit}&row=2"), "dataset-tokens"),
        (At::Filled, format!("/compare?runs={finished},{failed}"), "compare"),
        // last: the control plants faults in it
        (At::Filled, "/no/such/page".to_owned(), "not-found"),
    ]);
    pages
}
