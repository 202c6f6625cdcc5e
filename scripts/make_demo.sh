#!/usr/bin/env bash
# Makes data/demo/model again, from nothing: corpus and tokenizer first, then the engine's own
# training from random weights (`train_from_scratch`, `stage: pt`). Same machine, same bytes.
set -euo pipefail
cd "$(dirname "$0")/.."

work=target/demo
rm -rf "$work"
cargo build --release --locked --workspace --bin tallow --example make_demo
target/release/examples/make_demo sources "$work"
target/release/tallow train data/demo/pretrain/pretrain.yaml --threads 2
target/release/examples/make_demo bf16 "$work/base" data/demo/model

# The tokenizer is the one that was trained, whatever the run wrote beside its model.
cp "$work/model/tokenizer.json" "$work/model/tokenizer_config.json" data/demo/model/
cp "$work/base/generation_config.json" data/demo/model/
ls -l data/demo/model
