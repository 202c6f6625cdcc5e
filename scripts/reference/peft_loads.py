"""Adapters that Tallow trains, loaded by PEFT: the same loss as `tallow eval`, within 1e-4.

    cargo build --release && /tmp/pv/bin/python scripts/reference/peft_loads.py target/release/tallow

For each method: `tallow train` on the tiny models of crates/engine/tests/fixtures/methods, `tallow eval` of what it
wrote, and the loss of PeftModel.from_pretrained(base, what it wrote) on the same rows. A PiSSA adapter is loaded in its
converted form, on the unchanged base. Needs the packages that methods.py names. Not run in CI.
"""

import json
import os
import subprocess
import sys
import tempfile
import warnings

import torch
import torch.nn.functional as F
from peft import PeftModel
from transformers import AutoModelForCausalLM

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../crates/engine/tests/fixtures/methods")
CASES = [
    ("llama", "", "LoRA", []),
    ("gemma3", "", "LoRA, dropout", ["lora_dropout=0.1"]),
    ("llama", "", "rsLoRA", ["use_rslora=true"]),
    ("llama", "", "DoRA", ["use_dora=true"]),
    ("qwen2-tied", "", "DoRA, LoRA+", ["use_dora=true", "loraplus_lr_ratio=4", "lora_dropout=0.1"]),
    ("llama", "", "some layers", [r"lora_target=.*\.1\.(self_attn|mlp)\.(q|up)_proj"]),
    ("qwen2-tied", "", "tied embed_tokens", ["additional_target=embed_tokens"]),
    ("qwen2-tied", "", "tied lm_head", ["additional_target=lm_head"]),
    ("gemma3", "", "both, norms", ["additional_target=embed_tokens,lm_head,norm"]),
    ("llama", "", "mlp whole", ["additional_target=mlp,lm_head"]),
    ("gemma3", "", "embedding", ["lora_target=embed_tokens,q_proj"]),
    ("llama", "", "NEFTune", ["neftune_noise_alpha=5"]),
    ("llama", "pissa_converted", "PiSSA exact", ["pissa_init=true", "pissa_iter=-1", "pissa_convert=true"]),
    ("qwen2-tied", "pissa_converted", "PiSSA fast", ["pissa_init=true", "pissa_convert=true", "use_rslora=true"]),
    ("gemma3", "pissa_converted", "PiSSA DoRA whole", ["pissa_init=true", "pissa_convert=true", "use_dora=true",
                                                       "additional_target=norm"]),
    ("llama", None, "PiSSA exact, as is", ["pissa_init=true", "pissa_iter=-1"]),
]


def tallow(command, model, folder, more):
    base = dict(model_name_or_path=f"{HERE}/models/{model}", dataset="rows", dataset_dir=HERE, finetuning_type="lora",
                output_dir=folder, per_device_train_batch_size=2, gradient_accumulation_steps=1, learning_rate=0.02,
                num_train_epochs=3, lora_rank=4, save_strategy="no", weight_decay=0.01)
    with open(f"{folder}/config.json", "w") as f:
        json.dump(base, f)
    run = [sys.argv[1], command, f"{folder}/config.json", *more]
    done = subprocess.run(run, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(run)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def peft(model, adapter):
    base = AutoModelForCausalLM.from_pretrained(f"{HERE}/models/{model}", dtype=torch.float32, attn_implementation="eager")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = PeftModel.from_pretrained(base, adapter).eval()
    unread = [str(w.message)[:200] for w in caught if "missing" in str(w.message).lower()]
    total = labels = 0
    for line in open(f"{HERE}/rows.jsonl"):
        row = json.loads(line)
        logits = loaded(torch.tensor([row["input_ids"]])).logits[0, :-1]
        target = torch.tensor(row["labels"][1:])
        total += float(F.cross_entropy(logits, target, ignore_index=-100, reduction="sum"))
        labels += int((target != -100).sum())
    return total / labels, unread


@torch.no_grad()
def main():
    worst = 0.0
    for model, sub, name, more in CASES:
        with tempfile.TemporaryDirectory() as folder:
            tallow("train", model, folder, more)
            adapter = os.path.join(folder, sub or "")
            before = json.loads(tallow("eval", model, folder, ["finetuning_type=full"]).splitlines()[-1])
            said = json.loads(tallow("eval", model, folder, [f"adapter_name_or_path={adapter}"]).splitlines()[-1])
            theirs, unread = peft(model, adapter)
            ours = said["eval_token_loss"]
            worst = max(worst, abs(ours - theirs))
            print(f"{model:11} {name:20} before {before['eval_token_loss']:.6f} tallow {ours:.6f} PEFT {theirs:.6f} "
                  f"difference {abs(ours - theirs):.1e} {unread or ''}")
    print(f"largest difference {worst:.1e}")
    sys.exit(worst > 1e-4)


if __name__ == "__main__":
    main()
