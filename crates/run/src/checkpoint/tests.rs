//! Checkpoints appear whole, and a damaged one is noticed.
#![expect(clippy::unwrap_used, reason = "a test may fail loudly")]

use super::*;
use crate::manifest::{Fault, NAME};

fn facts(step: u64) -> Facts {
    let cpu_features = vec!["avx2".to_owned()];
    Facts { step, engine_version: "0.1.0".into(), threads: 2, cpu_features }
}

fn save(dir: &RunDir, step: u64) -> PathBuf {
    let staged = Staged::begin(dir, step).unwrap();
    fs::write(staged.path().join("weights.safetensors"), step.to_string().repeat(100)).unwrap();
    fs::write(staged.path().join("state.json"), "{}").unwrap();
    staged.publish(facts(step)).unwrap()
}

fn steps(dir: &RunDir) -> Vec<u64> {
    dir.checkpoints().unwrap().iter().map(|checkpoint| checkpoint.step).collect()
}

fn names(dir: &RunDir) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn published_ones_verify_newest_first() {
    let root = tempfile::tempdir().unwrap();
    let dir = RunDir::new(root.path());
    for step in [5, 10, 100] {
        assert_eq!(save(&dir, step), dir.checkpoint(step));
    }
    fs::create_dir(root.path().join("checkpoint-final")).unwrap();
    fs::write(root.path().join("checkpoint-7"), "a file").unwrap();
    assert_eq!(steps(&dir), [100, 10, 5]);
    let search = dir.newest_complete_checkpoint().unwrap();
    let (checkpoint, manifest) = search.found.unwrap();
    assert_eq!((checkpoint.step, manifest.facts.clone()), (100, facts(100)));
    assert_eq!(manifest.files["weights.safetensors"].length, 300);
    assert!(search.rejected.is_empty());
    assert!(
        RunDir::new(root.path().join("none")).newest_complete_checkpoint().unwrap().found.is_none()
    );
}

#[test]
fn an_unpublished_one_leaves_nothing_and_a_killed_one_is_swept() {
    let root = tempfile::tempdir().unwrap();
    let dir = RunDir::new(root.path());
    save(&dir, 5);
    drop(Staged::begin(&dir, 10).unwrap());
    assert_eq!(names(&dir), ["checkpoint-5"]);
    let killed = Staged::begin(&dir, 10).unwrap();
    fs::write(killed.path().join("weights.safetensors"), "half").unwrap();
    std::mem::forget(killed);
    assert_eq!(dir.newest_complete_checkpoint().unwrap().found.unwrap().0.step, 5);
    assert_eq!(atomic::sweep(dir.path()).unwrap(), 1);
    assert_eq!(names(&dir), ["checkpoint-5"]);
}

#[test]
fn the_same_step_again_replaces_it() {
    let root = tempfile::tempdir().unwrap();
    let dir = RunDir::new(root.path());
    fs::create_dir(dir.checkpoint(5)).unwrap();
    save(&dir, 5);
    save(&dir, 5);
    assert_eq!(names(&dir), ["checkpoint-5"]);
    manifest::verify(&dir.checkpoint(5)).unwrap();
}

#[test]
fn pruning_keeps_the_newest_and_the_spared() {
    for (keep, spare, expected) in [
        (3, None, vec![40, 30, 20]),
        (2, Some(10), vec![40, 10]),
        (1, Some(20), vec![40, 20]),
        (0, None, vec![40]),
        (9, None, vec![40, 30, 20, 10]),
    ] {
        let root = tempfile::tempdir().unwrap();
        let dir = RunDir::new(root.path());
        for step in [10, 20, 30, 40] {
            save(&dir, step);
        }
        let removed = prune(&dir, keep, spare).unwrap();
        assert_eq!(steps(&dir), expected, "keep {keep}, spare {spare:?}");
        assert_eq!(removed.len() + expected.len(), 4);
        assert_eq!(names(&dir).len(), expected.len());
    }
}

#[test]
fn every_damage_is_noticed_named_and_passed_over() {
    type Damage = fn(&Path);
    type Expected = fn(&Fault) -> bool;
    let file = "weights.safetensors";
    let cases: [(Damage, Expected, &str); 8] = [
        (
            |dir| fs::remove_file(dir.join(NAME)).unwrap(),
            |f| matches!(f, Fault::Unfinished { .. }),
            "never finished",
        ),
        (
            |dir| fs::write(dir.join(NAME), "{\"schema\"").unwrap(),
            |f| matches!(f, Fault::Unreadable { .. }),
            NAME,
        ),
        (
            |dir| edit(dir, "\"schema\": 1", "\"schema\": 2"),
            |f| matches!(f, Fault::Unreadable { .. }),
            "schema 2",
        ),
        (
            |dir| edit(dir, "state.json", "../state.json"),
            |f| matches!(f, Fault::Unreadable { .. }),
            "plain file name",
        ),
        (
            |dir| fs::remove_file(dir.join("weights.safetensors")).unwrap(),
            |f| matches!(f, Fault::Io { .. }),
            file,
        ),
        (
            |dir| fs::write(dir.join("weights.safetensors"), "101010").unwrap(),
            |f| matches!(f, Fault::Length { .. }),
            "6 bytes",
        ),
        (
            |dir| fs::write(dir.join("weights.safetensors"), "01".repeat(100)).unwrap(),
            |f| matches!(f, Fault::Content { .. }),
            file,
        ),
        (
            |dir| fs::write(dir.join("state.json"), "[]").unwrap(),
            |f| matches!(f, Fault::Content { .. }),
            "state.json",
        ),
    ];
    for (damage, expected, part) in cases {
        let root = tempfile::tempdir().unwrap();
        let dir = RunDir::new(root.path());
        save(&dir, 5);
        damage(&save(&dir, 10));
        let search = dir.newest_complete_checkpoint().unwrap();
        assert_eq!(search.found.unwrap().0.step, 5, "{part}");
        let [(checkpoint, fault)] = search.rejected.as_slice() else { panic!("one rejected") };
        assert_eq!(checkpoint.step, 10);
        assert!(expected(fault), "{fault:?}");
        assert!(
            fault.to_string().contains("checkpoint-10") && fault.to_string().contains(part),
            "{fault}"
        );
    }
}

fn edit(dir: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(dir.join(NAME)).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(dir.join(NAME), text.replace(from, to)).unwrap();
}

#[test]
fn folders_and_links_are_no_part_of_a_checkpoint() {
    let root = tempfile::tempdir().unwrap();
    let dir = RunDir::new(root.path());
    let staged = Staged::begin(&dir, 5).unwrap();
    fs::create_dir(staged.path().join("inner")).unwrap();
    let error = staged.publish(facts(5)).unwrap_err();
    assert!(error.to_string().contains("plain files only"), "{error}");
    assert!(names(&dir).is_empty());
}
