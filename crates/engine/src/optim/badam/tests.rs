//! Orders, coverage and entries of BAdam's blocks, against the package's own bookkeeping.

use super::*;

fn order(mode: BadamSwitchMode, blocks: usize, start: Option<i64>, every: i64) -> Order {
    let config = Config {
        badam_switch_mode: Some(mode),
        badam_start_block: start,
        badam_switch_interval: Some(every),
        ..Config::default()
    };
    Order::new(&config, blocks).unwrap()
}

/// The package's own bookkeeping: after update s it switches where s + 1 is a multiple of K.
fn ordinals_of_the_package(every: u64, steps: u64) -> Vec<u64> {
    let (mut global_step, mut switches) = (0, 0);
    let step = |_| {
        let active = switches;
        global_step += 1;
        if (global_step + 1) % every == 0 {
            switches += 1;
        }
        active
    };
    (0..steps).map(step).collect()
}

#[test]
fn switches_come_when_the_package_makes_them() {
    for every in [1, 2, 3, 50] {
        let order = order(BadamSwitchMode::Ascending, 4, None, every as i64);
        let got: Vec<u64> = (0..171).map(|step| order.ordinal(step)).collect();
        assert_eq!(got, ordinals_of_the_package(every, 171), "every {every}");
    }
    let never = order(BadamSwitchMode::Ascending, 4, None, -1);
    assert!((0..500).all(|step| never.ordinal(step) == 0));
}

#[test]
fn blocks_come_in_the_order_that_is_asked_for() {
    use BadamSwitchMode::{Ascending, Descending, Fixed};
    let check = |mode, start, expected: [usize; 6]| {
        let order = order(mode, 4, start, 50);
        let got: Vec<usize> = (0..6).map(|o| order.block(o)).collect();
        assert_eq!(got, expected, "{mode} from {start:?}");
    };
    check(Ascending, None, [0, 1, 2, 3, 0, 1]);
    check(Ascending, Some(2), [2, 3, 0, 1, 2, 3]);
    check(Descending, None, [3, 2, 1, 0, 3, 2]);
    check(Descending, Some(1), [1, 0, 3, 2, 1, 0]);
    check(Fixed, None, [0; 6]);
    check(Fixed, Some(3), [3; 6]);
}

#[test]
fn random_order_visits_every_block_once_a_round() {
    for start in [None, Some(5)] {
        let order = order(BadamSwitchMode::Random, 7, start, 50);
        let rounds: Vec<Vec<usize>> =
            (0..4).map(|r| (0..7).map(|i| order.block(r * 7 + i)).collect()).collect();
        for round in &rounds {
            let mut sorted = round.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3, 4, 5, 6]);
        }
        assert_ne!(rounds[0], rounds[1]);
        assert_ne!(rounds[1], rounds[2]);
        if let Some(start) = start {
            assert_eq!(rounds[0][0], start as usize);
        }
    }
}

#[test]
fn a_start_block_must_exist() {
    for start in [-1, 4, i64::MAX] {
        let config = Config { badam_start_block: Some(start), ..Config::default() };
        let error = Order::new(&config, 4).unwrap_err().to_string();
        assert!(error.contains("badam_start_block"), "{error}");
        assert!(error.contains("0 to 3"), "{error}");
    }
}

#[test]
fn coverage_is_that_of_the_mission() {
    let mission = order(BadamSwitchMode::Ascending, 24, None, 50);
    assert_eq!(mission.reached(171), [0, 1, 2, 3]);
    assert_eq!(mission.reached(1150).len(), 24);
    assert_eq!(mission.reached(1149).len(), 23);
    assert_eq!(mission.reached(0), [0; 0]);
    assert_eq!(ranges(&[0, 1, 2, 3]), "layers 0-3");
    assert_eq!(ranges(&[4]), "layer 4");
    assert_eq!(ranges(&[0, 2, 3, 9]), "layers 0, 2-3, 9");
}

#[test]
fn entries_move_on_and_come_round() {
    let check = |window, ratio, size, expected: &[u32]| {
        let entries = Share::new(ratio, false, 1, window).of(size);
        assert_eq!(entries.indices(), expected, "window {window} of {size}");
    };
    check(0, 0.02, 200, &[0, 1, 2, 3]);
    check(1, 0.02, 200, &[4, 5, 6, 7]);
    check(50, 0.02, 200, &[0, 1, 2, 3]);
    check(1, 0.6, 100, &(0..20).chain(60..100).collect::<Vec<u32>>());
    check(3, 0.02, 5, &[0, 1, 2, 3, 4]);
}

#[test]
fn scattered_entries_reach_each_entry_once_a_round() {
    let mut seen = vec![0; 1000];
    for window in 0..20 {
        let entries = Share::new(0.05, true, 7, window).of(1000);
        assert_eq!(entries.len(), 50);
        assert_ne!(entries.indices()[49] - entries.indices()[0], 49, "they lie scattered");
        entries.indices().iter().for_each(|i| seen[*i as usize] += 1);
    }
    assert!(seen.iter().all(|n| *n == 1));
}
