"""Figures that crates/engine/tests/methods.rs compares with, computed by PEFT and torch.

    python -m venv /tmp/pv && /tmp/pv/bin/pip install torch==2.11.0 transformers==5.6.0 peft==0.18.1
    /tmp/pv/bin/python scripts/reference/methods.py

Makes three tiny random decoders (Llama; Qwen2 with a tied head and biases; Gemma 3), ten rows of token ids and,
for each method, the adapter to start from, and trains five steps: two padded rows a step, AdamW (0.9, 0.999, 1e-8),
weight decay 0.01 on what transformers decays, gradients clipped to 1, a constant rate. Written for each step: the
loss (cross-entropy summed, over the number of labels) and the gradient's norm before clipping; at the end: the norm
of each trained tensor by the name it has in PEFT's file, and (trainable, all) parameters. Not run in CI.
"""

import json
import math
import os
import shutil

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from peft.utils import get_peft_model_state_dict
from transformers import (AutoModelForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM,
                          Qwen2Config, Qwen2ForCausalLM)
from transformers.trainer_pt_utils import get_parameter_names
from transformers.pytorch_utils import ALL_LAYERNORM_LAYERS

OUT = os.path.join(os.path.dirname(__file__), "../../crates/engine/tests/fixtures/methods")
LR, DECAY, STEPS, RATIO = 1e-2, 0.01, 5, 4.0
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
torch.set_num_threads(1)


def shape(**more):
    return dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                head_dim=8, vocab_size=64, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0,
                attn_implementation="eager", **more)


def models():
    """Weights are kept to bf16's numbers, and larger than usual: the methods should have something to move."""
    made = {
        "llama": LlamaForCausalLM(LlamaConfig(**shape(tie_word_embeddings=False))),
        "qwen2-tied": Qwen2ForCausalLM(Qwen2Config(**shape(tie_word_embeddings=True))),
        "gemma3": Gemma3ForCausalLM(Gemma3TextConfig(**shape(query_pre_attn_scalar=8, sliding_window=8,
                                                             layer_types=["sliding_attention", "full_attention"]))),
    }
    for name, model in made.items():
        for p in model.parameters():
            p.data = (p.data + torch.randn_like(p) * 0.05).bfloat16().float()
        model.to(torch.bfloat16).save_pretrained(f"{OUT}/models/{name}")
        os.remove(f"{OUT}/models/{name}/generation_config.json")


def load(name):
    return AutoModelForCausalLM.from_pretrained(f"{OUT}/models/{name}", dtype=torch.float32, attn_implementation="eager")


def rows():
    out = []
    for i in range(2 * STEPS):
        ids = torch.randint(3, 64, (8 + 3 * (i % 4),)).tolist()
        out.append(dict(input_ids=ids, labels=[-100] * 3 + ids[3:]))
    with open(f"{OUT}/rows.jsonl", "w") as f:
        f.writelines(json.dumps(row) + "\n" for row in out)
    with open(f"{OUT}/dataset_info.json", "w") as f:
        json.dump({"rows": {"file_name": "rows.jsonl", "formatting": "tokens"}}, f)
    return out


def batch(some):
    width = max(len(row["input_ids"]) for row in some)
    pad = lambda row, key, value: row[key] + [value] * (width - len(row[key]))
    ids = torch.tensor([pad(row, "input_ids", 0) for row in some])
    labels = torch.tensor([pad(row, "labels", -100) for row in some])
    mask = torch.tensor([[1] * len(r["input_ids"]) + [0] * (width - len(r["input_ids"])) for r in some])
    return ids, mask, labels


def loss_of(model, some):
    ids, mask, labels = batch(some)
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
    labels = labels[:, 1:]
    total = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), ignore_index=-100, reduction="sum")
    return total / (labels != -100).sum()


def decays(model):
    forbidden = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]
    return set(get_parameter_names(model, ALL_LAYERNORM_LAYERS, forbidden))


def groups(model, ratio, embedding):
    """LLaMA-Factory's groups, of which PEFT's `create_loraplus_optimizer` has three."""
    decay, out = decays(model), {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            if ratio is None:
                lr = LR
            elif "lora_embedding_B" in name:
                lr = embedding
            else:
                lr = LR * ratio if "lora_B" in name or p.ndim == 1 else LR
            out.setdefault((lr, DECAY if name in decay else 0.0), []).append(p)
    return [dict(params=ps, lr=lr, weight_decay=wd) for (lr, wd), ps in out.items()]


def train(model, data, ratio=None, embedding=1e-6):
    model.eval()  # no dropout anywhere
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(groups(model, ratio, embedding), betas=(0.9, 0.999), eps=1e-8)
    if ratio is not None:  # the rates are PEFT's own
        theirs = create_loraplus_optimizer(model, torch.optim.AdamW, lr=LR, loraplus_lr_ratio=ratio)
        rate = lambda opt: {id(p): g["lr"] for g in opt.param_groups for p in g["params"]}
        embeds = {id(p) for n, p in model.named_parameters() if "lora_embedding" in n}
        mine, other = rate(optimizer), rate(theirs)
        assert all(math.isclose(mine[i], other[i]) for i in mine if i not in embeds)
    losses, norms = [], []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(model, data[2 * step : 2 * step + 2])
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(params, 1.0)))
        optimizer.step()
        losses.append(float(loss.detach()))
    return dict(losses=losses, grad_norms=norms)


def norms(tensors):
    return {name: float(t.detach().double().norm()) for name, t in sorted(tensors.items())}


def counted(model):
    """(trainable, all) as Tallow counts: what PEFT keeps as the frozen original of a module is no parameter."""
    names = model.named_parameters(remove_duplicate=False)
    kept = {id(p): p for n, p in names if ".original_module." not in n}.values()
    return [sum(p.numel() for p in kept if p.requires_grad), sum(p.numel() for p in kept)]


def adapter(case, model_name, config, **arguments):
    """An adapter with random B matrices, written as PEFT writes it, loaded again and trained."""
    start = get_peft_model(load(model_name), config)
    for name, p in start.named_parameters():
        if "lora_B" in name or "lora_embedding_A" in name:
            p.data.normal_(std=0.05)
        if "lora_A" in name:
            p.data.normal_(std=0.2)
        if "lora_magnitude" in name:
            p.data *= torch.rand_like(p) * 0.2 + 0.9
    start.save_pretrained(f"{OUT}/{case}")
    for stray in ["README.md"]:
        os.path.exists(f"{OUT}/{case}/{stray}") and os.remove(f"{OUT}/{case}/{stray}")
    blank_base(f"{OUT}/{case}")
    model = PeftModel.from_pretrained(load(model_name), f"{OUT}/{case}", is_trainable=True)
    params = counted(model)
    out = dict(model=model_name, params=params, before=float(loss_of(model, DATA).detach()))
    out |= train(model, DATA, arguments.get("loraplus_lr_ratio"), arguments.get("loraplus_lr_embedding", 1e-6))
    trained = {n: t for n, t in get_peft_model_state_dict(model).items() if ".base_layer." not in n}
    out |= dict(arguments=dict(finetuning_type="lora", **arguments), norms=norms(trained))
    # Not merged by PEFT: where head and embedding are one, that changes the head too.
    return out | dict(after=float(loss_of(model, DATA).detach()))


def blank_base(folder):
    """The path of the model on the machine that ran this says nothing."""
    path = f"{folder}/adapter_config.json"
    settings = json.load(open(path))
    settings["base_model_name_or_path"] = ""
    settings["target_modules"] = sorted(settings["target_modules"]) if isinstance(settings["target_modules"], list) else settings["target_modules"]
    json.dump(settings, open(path, "w"), indent=2, sort_keys=True)


def lora(**more):
    return LoraConfig(**(dict(r=3, lora_alpha=5, target_modules=ALL, task_type="CAUSAL_LM") | more))


def pissa(model_name):
    """The exact form starts from the model alone; signs of a singular pair are anybody's choice."""
    config = lora(r=4, lora_alpha=8, init_lora_weights="pissa")
    model = get_peft_model(load(model_name), config)
    state = get_peft_model_state_dict(model)
    products = {}
    for name, a in state.items():
        if "lora_A" in name:
            products[name.replace(".lora_A.weight", "")] = float((state[name.replace("_A", "_B")] @ a).norm())
    start = norms(state)
    out = dict(model=model_name, params=counted(model), before=float(loss_of(model, DATA).detach()))
    out |= dict(start=start, products=products) | train(model, DATA)
    arguments = dict(finetuning_type="lora", pissa_init=True, pissa_iter=-1, lora_rank=4, lora_alpha=8)
    return out | dict(arguments=arguments, norms=norms(get_peft_model_state_dict(model)))


def freeze(model_name, layers, modules, extra):
    """LLaMA-Factory's rule: parts of parameter names."""
    model = load(model_name)
    count = model.config.num_hidden_layers
    chosen = range(max(0, count - layers), count) if layers > 0 else range(min(-layers, count))
    parts = [f".{i}.{'' if m == 'all' else m}" for m in modules for i in chosen] + extra
    for name, p in model.named_parameters():
        p.requires_grad_(any(part in name for part in parts))
    out = dict(model=model_name, params=counted(model), before=float(loss_of(model, DATA).detach())) | train(model, DATA)
    arguments = dict(finetuning_type="freeze", freeze_trainable_layers=layers, freeze_trainable_modules=",".join(modules),
                     freeze_extra_modules=",".join(extra))
    return out | dict(arguments=arguments, norms=norms(dict(model.named_parameters())), trained=parts)


def main():
    global DATA
    shutil.rmtree(OUT, ignore_errors=True)
    os.makedirs(OUT)
    torch.manual_seed(7)
    models()
    DATA = rows()
    dora = lora(use_dora=True)
    cases = {
        "lora-suffix": adapter("lora-suffix", "llama", lora(target_modules=["self_attn.q_proj", "1.mlp.up_proj"])),
        "lora-pattern": adapter("lora-pattern", "gemma3", lora(target_modules=r".*\.1\.self_attn\.(q|v)_proj")),
        "rslora": adapter("rslora", "llama", lora(use_rslora=True)),
        "dora": adapter("dora", "llama", dora),
        "dora-bias": adapter("dora-bias", "qwen2-tied", lora(use_dora=True, target_modules=["q_proj", "down_proj"])),
        "loraplus": adapter("loraplus", "llama", dora, loraplus_lr_ratio=RATIO),
        "whole": adapter("whole", "llama", lora(target_modules=["v_proj"], modules_to_save=["embed_tokens", "lm_head", "norm"])),
        "whole-tied-embed": adapter("whole-tied-embed", "qwen2-tied", lora(target_modules=["v_proj"], modules_to_save=["embed_tokens"])),
        "whole-tied-head": adapter("whole-tied-head", "qwen2-tied", lora(target_modules=["v_proj"], modules_to_save=["lm_head"]), loraplus_lr_ratio=RATIO),
        "whole-tied-both": adapter("whole-tied-both", "gemma3", lora(target_modules=["v_proj"], modules_to_save=["lm_head", "embed_tokens"])),
        "embedding": adapter("embedding", "gemma3", lora(target_modules=["embed_tokens", "o_proj"]), loraplus_lr_ratio=RATIO, loraplus_lr_embedding=1e-3),
        "pissa-llama": pissa("llama"),
        "pissa-gemma3": pissa("gemma3"),
        "freeze-last": freeze("llama", 1, ["all"], []),
        "freeze-mlp": freeze("gemma3", 1, ["mlp"], ["norm"]),
        "freeze-first": freeze("qwen2-tied", -1, ["self_attn", "input_layernorm"], []),
        "freeze-extra": freeze("llama", 0, ["all"], ["lm_head"]),
    }
    with open(f"{OUT}/cases.json", "w") as f:
        json.dump(cases, f, indent=1)
    for name, case in cases.items():
        print(f"{name:18} {case['losses']} {case['params']}")


if __name__ == "__main__":
    main()
