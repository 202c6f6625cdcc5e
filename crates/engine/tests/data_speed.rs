//! How long tokenising takes. Alone in its file, because it counts the CPU time of the whole process: the wall clock
//! would measure what else the machine does.
#![expect(clippy::unwrap_used, reason = "a broken test may panic")]

mod data_support;

use data_support::shared;
use engine::data::{DataArgs, Tokenizer, load, prepare_template};
use rustix::time::{ClockId, clock_gettime};

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

#[test]
fn a_thousand_rows_take_less_than_a_second() {
    let Some(folder) = shared("parity/tokenizers/qwen3") else {
        return;
    };
    let Some(datasets) = shared("datasets") else {
        return;
    };
    let args = DataArgs {
        dataset: vec!["alpaca_zh_demo".to_string()],
        dataset_dir: datasets.display().to_string(),
        template: Some("qwen".to_string()),
        max_samples: Some(1000),
        cutoff_len: 1024,
        val_size: 0.1,
        ..DataArgs::default()
    };
    let mut tokenizer = Tokenizer::from_folder(&folder).unwrap();
    let (template, _) = prepare_template(&args, &mut tokenizer).unwrap();
    let begin = cpu_seconds();
    let mut last = (0, 0);
    let dataset =
        load(&args, Some((&tokenizer, &template)), &mut |done, total| last = (done, total))
            .unwrap();
    let took = cpu_seconds() - begin;
    println!("1,000 rows: {took:.2} s of CPU time");
    assert_eq!((dataset.train.len(), dataset.eval[0].1.len(), last), (900, 100, (1000, 1000)));
    assert!(took < 2.0, "{took} s of CPU time are more than a second on two cores");
}
