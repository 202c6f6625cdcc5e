//! Forms, files and command lines end in the same config, or in all their mistakes.
#![expect(clippy::unwrap_used, reason = "a test may fail loudly")]

mod fit;
mod random;

use std::fs;

use serde_json::json;

use super::*;
use crate::fields::*;

/// What the board writes for the mission's run, without BAdam where that is not there yet.
const MISSION_YAML: &str = "\
cutoff_len: 1024
dataset: alpaca_zh
dataset_dir: data
ddp_timeout: 180000000
do_train: true
enable_thinking: true
eval_steps: 100
eval_strategy: steps
finetuning_type: full
flash_attn: auto
fp16: true
gradient_accumulation_steps: 8
include_num_input_tokens_seen: true
learning_rate: 5.0e-05
logging_steps: 5
lr_scheduler_type: cosine
max_grad_norm: 1.0
max_samples: 1000
model_name_or_path: Qwen/Qwen2-0.5B
num_train_epochs: 3.0
optim: adamw_torch
output_dir: saves/Qwen2-0.5B/full/train_test
packing: false
per_device_eval_batch_size: 2
per_device_train_batch_size: 2
plot_loss: true
preprocessing_num_workers: 16
report_to: none
save_steps: 100
seed: 42
stage: sft
template: qwen
trust_remote_code: true
val_size: 0.1
warmup_steps: 0
badam_mode: layer
badam_switch_interval: 50
badam_switch_mode: ascending
badam_update_ratio: 0.05
use_badam: true
";

const MISSION_FLAGS: &str = "--stage sft --do_train True --model_name_or_path Qwen/Qwen2-0.5B \
    --preprocessing_num_workers 16 --finetuning_type full --template qwen --flash_attn auto \
    --dataset_dir data --dataset alpaca_zh --cutoff_len 1024 --learning_rate 5e-05 \
    --num_train_epochs 3.0 --max_samples 1000 --per_device_train_batch_size 2 \
    --gradient_accumulation_steps 8 --lr_scheduler_type cosine --max_grad_norm 1.0 \
    --logging_steps 5 --save_steps 100 --warmup_steps 0 --optim adamw_torch --packing False \
    --report_to none --output_dir saves/Qwen2-0.5B/full/train_test --fp16 True --plot_loss True \
    --ddp_timeout 180000000 --include_num_input_tokens_seen True --val_size 0.1 \
    --eval_strategy steps --eval_steps 100 --per_device_eval_batch_size 2 --trust_remote_code \
    --use_badam True --badam_mode layer --badam_switch_mode ascending --badam_switch_interval 50 \
    --badam_update_ratio 0.05";

fn from_yaml(text: &str) -> Result<(Config, Vec<Notice>), ConfigError> {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("run.yaml");
    fs::write(&path, text).unwrap();
    Config::from_file(path)
}

fn from_flags(text: &str) -> Result<(Config, Vec<Notice>), ConfigError> {
    Config::from_flags(&text.split_whitespace().collect::<Vec<_>>())
}

fn from_json(value: Value) -> Result<(Config, Vec<Notice>), ConfigError> {
    Config::from_map(value.as_object().unwrap())
}

#[test]
fn the_missions_run_reads_alike_from_a_file_and_from_flags() {
    let (config, notices) = from_yaml(MISSION_YAML).unwrap();
    let (same, mut same_notices) = from_flags(MISSION_FLAGS).unwrap();
    // The order of what was given is the order of `inert` and of the notices.
    same_notices.sort_by_key(|notice| notice.field);
    let mut sorted = notices.clone();
    sorted.sort_by_key(|notice| notice.field);
    assert_eq!((&config.to_map(), &sorted), (&same.to_map(), &same_notices));
    assert!(notices.iter().any(|notice| notice.field == "ddp_timeout"), "{notices:?}");
    config.check().unwrap();
    assert_eq!(config.model_name_or_path.as_deref(), Some("Qwen/Qwen2-0.5B"));
    assert_eq!((config.stage, config.finetuning_type), (Stage::Sft, FinetuningType::Full));
    assert_eq!(config.lr_scheduler_type, SchedulerType::Cosine);
    assert_eq!((config.learning_rate, config.num_train_epochs), (5e-5, 3.0));
    assert_eq!((config.cutoff_len, config.max_samples), (1024, Some(1000)));
    assert_eq!((config.packing, config.val_size, config.fp16), (Some(false), 0.1, true));
    assert_eq!(config.include_num_input_tokens_seen, TokensSeen::All);
    assert_eq!(
        (config.save_every(171), config.eval_every(171), config.log_every(171)),
        (Some(100), Some(100), Some(5))
    );
    let (again, again_notices) = Config::from_map(&config.to_map()).unwrap();
    assert_eq!(again.to_map(), config.to_map());
    assert_eq!(again_notices.len(), notices.len());
}

#[test]
fn yaml_is_read_as_pyyaml_and_omegaconf_write_it() {
    let text = "# a comment\n---\nlearning_rate: 1.0e-4\nadam_epsilon: 1e-8\nplot_loss: yes\n\
        do_train: on\ndo_eval: No\neval_strategy: no\nval_size: '0.1'\nseed: \"7\"\ntemplate: null\n\
        run_name: 010\nlora_alpha: ~\ndataset:\n  - a\n  - b\nlora_target: [q_proj, v_proj]\n\
        lr_scheduler_kwargs: {min_lr: 1e-6}\ndefault_system: |\n  two\n  lines\nlogging_steps: 10.0\n";
    let (config, notices) = from_yaml(text).unwrap();
    assert!(notices.is_empty());
    assert_eq!((config.learning_rate, config.adam_epsilon), (1e-4, 1e-8));
    assert_eq!((config.plot_loss, config.do_train, config.do_eval), (true, true, false));
    assert_eq!(
        (config.eval_strategy, config.val_size, config.seed),
        (IntervalStrategy::No, 0.1, 7)
    );
    assert_eq!((config.template, config.lora_alpha), (None, None));
    assert_eq!(
        (config.dataset, config.lora_target),
        (vec!["a".into(), "b".into()], vec!["q_proj".into(), "v_proj".into()])
    );
    assert_eq!(config.default_system.as_deref(), Some("two\nlines\n"));
    assert_eq!(Value::from(config.lr_scheduler_kwargs.unwrap()), json!({"min_lr": 1e-6}));
    assert_eq!(from_yaml("").unwrap().0, Config::default());
}

#[test]
fn files_that_cannot_be_read_name_themselves_and_the_line() {
    let check = |name: &str, text: &str, parts: &[&str]| {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(name);
        fs::write(&path, text).unwrap();
        let message = Config::from_file(&path).unwrap_err().to_string();
        assert!(message.starts_with(&format!("{}: ", path.display())), "{message}");
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    };
    check("a.yaml", "stage: sft\nseed: [1\ndataset: a\n", &["line 3"]);
    check("a.yaml", "seed: 1\nseed: 2\n", &["duplicate", "seed"]);
    check("a.yml", "- a\n- b\n", &["`name: value`"]);
    check("a.yaml", "seed: !x 1\n", &["tag"]);
    check(
        "a.yaml",
        "model_name_or_path: ${oc.env:HOME}\n",
        &["model_name_or_path", "not replaced"],
    );
    check("a.yaml", "learning_rate: .nan\n", &["learning_rate", "`.nan` is not a number"]);
    check("a.json", "{\n\"seed\": 1,\n\"stage\" 2}", &["line 3 column"]);
    check("a.json", r#"{"seed": 1, "seed": 2}"#, &["`seed` comes twice"]);
    check("a.json", "[1]", &["an object of names and values"]);
    check("a.toml", "seed = 1", &["ends in .yaml, .yml or .json"]);
    let message = Config::from_file("/no/such.yaml").unwrap_err().to_string();
    assert!(message.starts_with("/no/such.yaml: No such file"), "{message}");
}

#[test]
fn all_mistakes_are_told_at_once() {
    let error =
        from_yaml("lerning_rate: 1\nseed: x\nstage: dpo\ndeepspeed: ds_z2.json\ncutoff_len: -1\n")
            .unwrap_err();
    let fields: Vec<&str> = error.errors.iter().map(|error| error.field.as_str()).collect();
    assert_eq!(fields, ["lerning_rate", "seed", "stage", "deepspeed", "cutoff_len"]);
    let mut error = error;
    error.file = None;
    assert_eq!(
        error.to_string(),
        "unknown argument `lerning_rate`; did you mean `learning_rate`?\n\
         seed: `x` is not a number\n\
         stage: `dpo` is none of sft, pt\n\
         deepspeed: training on several devices or machines is not supported\n\
         cutoff_len: `-1` is out of range"
    );
}

#[test]
fn a_quantised_base_is_for_lora() {
    let check = |more: Value, expected: &[&str]| {
        let mut map = json!({
            "model_name_or_path": "m", "dataset": "d", "template": "default", "output_dir": "o",
            "quantization_bit": 4,
        });
        map.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let found = match from_json(map).unwrap().0.check() {
            Ok(()) => Vec::new(),
            Err(error) => error.errors.into_iter().map(|e| e.message).collect(),
        };
        assert_eq!(found, expected, "{more}");
    };
    check(json!({}), &[]);
    check(json!({ "quantization_bit": 8, "quantization_type": "fp4" }), &[]);
    check(
        json!({ "finetuning_type": "full" }),
        &["Quantization is only compatible with the LoRA or OFT method."],
    );
    check(
        json!({ "adapter_name_or_path": "a,b" }),
        &["Quantized model only accepts a single adapter. Merge them first."],
    );
    check(
        json!({ "quantization_bit": 5 }),
        &["Bitsandbytes only accepts 4-bit or 8-bit quantization."],
    );
    check(
        json!({ "quantization_method": "hqq" }),
        &[
            "`hqq` is not supported: only bitsandbytes' formats (`bnb`) and those of GGUF files are \
           computed with here",
        ],
    );
    check(json!({ "quantization_type": "int4" }), &["`quantization_type` is `nf4` or `fp4`."]);
    check(
        json!({ "train_from_scratch": true }),
        &["A model that is trained from scratch has no weights to quantise."],
    );
}

#[test]
fn what_asks_for_nothing_is_never_refused() {
    for value in [json!(null), json!(false), json!(""), json!("none"), json!("None"), json!([])] {
        for name in ["deepspeed", "report_to", "fsdp", "moe_aux_loss_coef"] {
            assert!(from_json(json!({ name: value })).is_ok(), "{name}: {value}");
        }
    }
    for (name, value) in
        [("pref_beta", json!("0.1")), ("use_apollo", json!("False")), ("oft_rank", json!(0.0))]
    {
        assert_eq!(from_json(json!({ name: value })).unwrap().0, Config::default());
    }
    for (name, value) in [
        ("report_to", json!("wandb")),
        ("use_muon", json!(true)),
        ("deepspeed", json!({"a": 1})),
        ("pref_beta", json!(0.2)),
    ] {
        let error = from_json(json!({ name: value })).unwrap_err();
        assert_eq!(error.errors[0].field, name);
    }
}

#[test]
fn no_effect_is_said_once_and_kept_but_secrets_are_not() {
    let (config, notices) = from_json(json!({
        "tf32": true, "ddp_timeout": 1800, "dataloader_num_workers": "4", "hub_token": "hf_x", "fp16": true,
    }))
    .unwrap();
    let texts: Vec<&str> = notices.iter().map(|notice| notice.text.as_str()).collect();
    assert_eq!(texts[0], "`tf32` has no effect here: it concerns GPUs");
    let fields: Vec<&str> = notices.iter().map(|notice| notice.field).collect();
    assert_eq!(fields[..3], ["tf32", "dataloader_num_workers", "hub_token"]);
    let map = Value::from(config.to_map());
    assert_eq!(map, json!({"fp16": true, "tf32": true, "dataloader_num_workers": 4}));
    let (_, again) = from_json(map).unwrap();
    assert_eq!(again.len(), notices.len() - 1);
}

#[test]
fn flags_are_read_as_transformers_reads_them() {
    let check = |flags: &[&str], expected: Value| {
        let (config, _) =
            Config::from_flags(flags).unwrap_or_else(|error| panic!("{flags:?}: {error}"));
        assert_eq!(Value::from(config.to_map()), expected, "{flags:?}");
    };
    check(&[], json!({}));
    check(&["--plot_loss", "--seed", "1"], json!({"plot_loss": true, "seed": 1}));
    check(&["--seed=1", "--lora-rank", "4"], json!({"lora_rank": 4, "seed": 1}));
    check(&["--seed", "1", "--seed", "2"], json!({"seed": 2}));
    check(&["--max_steps", "-1"], json!({}));
    check(&["--no_enable_thinking"], json!({"enable_thinking": false}));
    check(&["--no-ignore-pad-token-for-loss"], json!({"ignore_pad_token_for_loss": false}));
    check(&["--dataset", "a", "b"], json!({"dataset": "a,b"}));
    check(&["--dataset", "a,b", "--dataset", "c"], json!({"dataset": "a,b,c"}));
    check(&["--include_num_input_tokens_seen"], json!({"include_num_input_tokens_seen": "all"}));
    check(&["--default_system", "a b --c"], json!({"default_system": "a b --c"}));
    check(&["--default_system="], json!({"default_system": ""}));
    check(&["--run_name=--x"], json!({"run_name": "--x"}));
    check(
        &["--lr_scheduler_kwargs", r#"{"min_lr": 0.1}"#],
        json!({"lr_scheduler_kwargs": {"min_lr": 0.1}}),
    );
    let wrong = |flags: &[&str], expected: &str| {
        assert_eq!(Config::from_flags(flags).unwrap_err().to_string(), expected);
    };
    wrong(&["--seed"], "seed: it needs a value");
    wrong(&["x", "--seed", "1"], "`x` belongs to no argument; they look like --name value");
    wrong(
        &["--run_name", "a", "b"],
        "run_name: it takes one value, and `b` is a second; quote text with spaces",
    );
    wrong(&["--sede", "1"], "unknown argument `sede`; did you mean `seed`?");
    wrong(&["--"], "`--` belongs to no argument; they look like --name value");
}

#[test]
fn overrides_go_last() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a.yaml");
    fs::write(&path, "seed: 1\ndeepspeed: x.json\ndataset: a\n").unwrap();
    let overrides =
        ["seed=2", "deepspeed=null", "dataset=[b, c]", "run_name='x=y'", "plot_loss=True"];
    let (config, _) = Config::load(&path, &overrides).unwrap();
    let expected = json!({"dataset": "b,c", "run_name": "x=y", "plot_loss": true, "seed": 2});
    assert_eq!(Value::from(config.to_map()), expected);
    let mut config = config;
    config.apply_overrides(&["seed=42", "--learning_rate=1e-3"]).unwrap();
    assert_eq!((config.seed, config.learning_rate), (42, 1e-3));
    let before = config.clone();
    let error = config.apply_overrides(&["seed", "run_name=[a"]).unwrap_err().to_string();
    assert!(
        error.starts_with(
            "`seed` is no override; they look like name=value\nrun_name: `[a` is not YAML"
        ),
        "{error}"
    );
    assert!(config.apply_overrides(&["sead=1"]).is_err());
    assert_eq!(config, before);
}

#[test]
fn yaml_and_command_look_as_people_write_them() {
    let (config, _) = from_json(json!({
        "stage": "pt", "learning_rate": 1e-5, "template": "no", "plot_loss": true, "run_name": "it's new",
        "model_name_or_path": "/m/a b", "lora_target": "q_proj,v_proj", "enable_thinking": null, "use_cpu": true,
        "adapter_name_or_path": ["a,b", "c"], "lr_scheduler_kwargs": {"min_lr": 1e-6}, "default_system": "",
    }))
    .unwrap();
    assert_eq!(
        config.to_yaml(),
        "model_name_or_path: \"/m/a b\"\nadapter_name_or_path: [\"a,b\", c]\ntemplate: \"no\"\n\
         default_system: \"\"\nenable_thinking: null\nstage: pt\nlora_target: q_proj,v_proj\n\
         learning_rate: 1.0e-05\nlr_scheduler_kwargs: {\"min_lr\": 1.0e-06}\nrun_name: \"it's new\"\n\
         plot_loss: true\nuse_cpu: true\n"
    );
    assert_eq!(
        config.to_command(),
        "tallow train \\\n    --model_name_or_path '/m/a b' \\\n    --adapter_name_or_path '[\"a,b\",\"c\"]' \\\n    --template no \\\n    --default_system '' \\\n    \
         --enable_thinking null \\\n    --stage pt \\\n    --lora_target q_proj,v_proj \\\n    \
         --learning_rate 1e-05 \\\n    --lr_scheduler_kwargs '{\"min_lr\":1e-6}' \\\n    \
         --run_name 'it'\\''s new' \\\n    --plot_loss True \\\n    --use_cpu True"
    );
}
