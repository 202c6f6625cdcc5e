#!/usr/bin/env bash
# Makes data/demo/model again, from nothing: corpus and tokenizer first, then the engine's own
# training from random weights (`train_from_scratch`, `stage: pt`). Same machine, same bytes.
set -euo pipefail
cd "$(dirname "$0")/.."

work=target/demo
rm -rf "$work"
cargo build --release --locked --bin tallow --example make_demo
target/release/examples/make_demo "$work"
target/release/tallow train data/demo/pretrain/pretrain.yaml --threads 2

mkdir -p data/demo/model
for file in config.json generation_config.json model.safetensors tokenizer.json tokenizer_config.json; do
  if [ -e "$work/base/$file" ]; then cp "$work/base/$file" data/demo/model/; fi
done
# The tokenizer is the one that was trained, byte for byte, whatever the run saved beside its model.
cp "$work/model/tokenizer.json" "$work/model/tokenizer_config.json" data/demo/model/
chmod 0644 data/demo/model/*
ls -l data/demo/model
