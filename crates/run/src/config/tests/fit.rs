//! Arguments that are each right and do not fit together.

use serde_json::{Value, json};

use super::super::Purpose;
use super::from_json;

#[test]
fn arguments_that_do_not_fit_together_say_so_in_upstreams_words() {
    let check = |given: Value, expected: &str| {
        let mut all = json!({"model_name_or_path": "m", "dataset": "d", "do_train": true});
        all.as_object_mut().unwrap().extend(given.as_object().unwrap().clone());
        let (config, _) = from_json(all).unwrap();
        let found = config.check().err().map(|error| error.to_string()).unwrap_or_default();
        assert_eq!(found, expected, "{given}");
    };
    check(json!({}), "");
    check(json!({"model_name_or_path": ""}), "Please provide `model_name_or_path`.");
    check(json!({"dataset": ""}), "dataset: Please specify dataset for training.");
    check(
        json!({"val_size": 0.1, "eval_dataset": "e"}),
        "Cannot specify `val_size` if `eval_dataset` is not None.",
    );
    check(
        json!({"val_size": 1.5}),
        "`val_size` is a fraction below 1 or a whole number of rows above 1.",
    );
    check(json!({"val_size": 100}), "");
    check(
        json!({"mask_history": true, "train_on_prompt": true}),
        "`mask_history` is incompatible with `train_on_prompt`.",
    );
    check(
        json!({"stage": "pt", "neat_packing": true}),
        "`neat_packing` cannot be set as True except SFT.",
    );
    check(
        json!({"stage": "pt", "mask_history": true}),
        "`train_on_prompt` or `mask_history` cannot be set as True except SFT.",
    );
    check(
        json!({"finetuning_type": "full", "adapter_name_or_path": "a"}),
        "adapter_name_or_path: Adapter is only valid for the LoRA method.",
    );
    check(
        json!({"finetuning_type": "full", "use_rslora": true}),
        "`use_rslora` is only valid for LoRA training.",
    );
    check(
        json!({"do_eval": true}),
        "val_size: Please make sure eval_dataset be provided or val_size >1e-6",
    );
    check(
        json!({"eval_strategy": "epoch"}),
        "val_size: Please make sure eval_dataset be provided or val_size >1e-6",
    );
    check(json!({"eval_strategy": "epoch", "eval_dataset": "e"}), "");
    check(
        json!({"save_steps": 2.5}),
        "save_steps: --save_steps must be an integer if bigger than 1",
    );
    check(
        json!({"logging_steps": 0}),
        "logging_steps: logging strategy steps requires non-zero --logging_steps",
    );
    check(
        json!({"fp16": true, "bf16": true}),
        "fp16: At most one of fp16 and bf16 can be True, but not both",
    );
    check(
        json!({"lr_scheduler_type": "cosine_with_min_lr"}),
        "One of min_lr or min_lr_rate should be set through the `lr_scheduler_kwargs`",
    );
    check(
        json!({"lr_scheduler_kwargs": {"min_lr": []}}),
        "lr_scheduler_kwargs: min_lr is [], which is not a number",
    );
    check(json!({"num_train_epochs": 0}), "`num_train_epochs` of 0 needs `max_steps`.");
    let (config, _) = from_json(json!({"model_name_or_path": "m", "eval_dataset": "e"})).unwrap();
    config.check_for(Purpose::Eval).unwrap();
    config.check_for(Purpose::Data).unwrap();
    assert!(config.check().is_err());
}
