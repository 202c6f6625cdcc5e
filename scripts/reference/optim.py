#!/usr/bin/env python3
"""Five steps of each optimiser by its original implementation: crates/engine/tests/fixtures/optim.json.

Needs torch, transformers, galore_torch (needs bitsandbytes) and bitsandbytes in the Python that runs
it; bitsandbytes computes on the CPU here. Parameters and gradients come from an integer hash that
the Rust test repeats, so that the file holds results alone. Run: optim.py > optim.json
"""
import json
import sys

import bitsandbytes as bnb
import torch
from galore_torch import GaLoreAdafactor, GaLoreAdamW
from transformers.optimization import Adafactor

_svd = torch.linalg.svd


def signed_svd(a, **kw):
    """The signs of singular vectors are anyone's choice, and a moment in the old basis meets the new
    one: here, as in engine::linalg, the largest entry of each left vector is positive."""
    u, s, vh = _svd(a, **kw)
    sign = u.gather(0, u.abs().argmax(0, keepdim=True)).sign()
    return u * sign, s, vh * sign.T


torch.linalg.svd = signed_svd

LR, DECAY, STEPS, CLIP = 1e-2, 0.1, 5, 0.5


def values(seed, shape):
    """Numbers in [-1, 1], the same in both languages."""
    n = 1
    for d in shape:
        n *= d
    h = torch.arange(n, dtype=torch.int64) * 2654435761 + seed * 40503 & 0xFFFFFFFF
    for _ in range(2):
        h = (h ^ (h >> 16)) * 0x45D9F3B & 0xFFFFFFFF
    h = h ^ (h >> 16)
    return ((h % 20001 - 10000).double() / 10000).float().reshape(shape)


def digest(p):
    """Sum, sum of squares and some elements."""
    flat = p.detach().double().flatten()
    picked = flat[:: max(1, len(flat) // 8)]
    return {"sum": flat.sum().item(), "squares": flat.square().sum().item(), "picked": picked.tolist()}


def run(make, shape):
    p = torch.nn.Parameter(values(1, shape))
    optimiser = make([p])
    steps = []
    for s in range(STEPS):
        p.grad = values(10 + s, shape) * CLIP
        optimiser.step()
        steps.append(digest(p))
    return steps


def galore(cls, proj, **kw):
    return lambda ps: cls([{"params": ps, "rank": 4, "update_proj_gap": 2, "scale": 2.0, "proj_type": proj}],
                          lr=LR, weight_decay=DECAY, **kw)


RULES = {
    "adamw": (lambda ps: torch.optim.AdamW(ps, lr=LR, weight_decay=DECAY), [(24, 40), (40,)]),
    "adamw_8bit": (lambda ps: bnb.optim.AdamW(ps, lr=LR, weight_decay=DECAY, optim_bits=8),
                   [(96, 65), (24, 40)]),
    "adafactor": (lambda ps: Adafactor(ps, lr=LR, weight_decay=DECAY, scale_parameter=False, relative_step=False),
                  [(24, 40), (300, 5), (40,)]),
    "lion_32bit": (lambda ps: bnb.optim.Lion(ps, lr=LR, betas=(0.9, 0.999), weight_decay=DECAY, optim_bits=32),
                   [(24, 40)]),
    "lion_8bit": (lambda ps: bnb.optim.Lion(ps, lr=LR, betas=(0.9, 0.999), weight_decay=DECAY, optim_bits=8),
                  [(96, 65)]),
    "sgd": (lambda ps: torch.optim.SGD(ps, lr=LR, weight_decay=DECAY), [(24, 40)]),
}
for proj in ["std", "reverse_std", "right", "left", "full"]:
    # Projected from both sides, a gradient is diagonal up to rounding: only a large epsilon keeps
    # Adam from making full steps of that noise.
    eps = 0.1 if proj == "full" else 1e-8
    RULES[f"galore_adamw_{proj}"] = (galore(GaLoreAdamW, proj, eps=eps, no_deprecation_warning=True),
                                     [(24, 40), (40, 24)])
RULES["galore_adafactor_std"] = (galore(GaLoreAdafactor, "std", scale_parameter=False, relative_step=False),
                                 [(24, 40), (40, 24)])

cases = [{"rule": name, "shape": shape, "steps": run(make, shape)}
         for name, (make, shapes) in RULES.items() for shape in shapes]
json.dump({"lr": LR, "weight_decay": DECAY, "clip": CLIP, "cases": cases}, sys.stdout, separators=(",", ":"))
