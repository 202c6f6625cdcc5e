#!/usr/bin/env bash
# Tallow and LLaMA-Factory in turn, A B A B A B, on one machine, the same YAML, rows in file order.
# usage: scripts/side_by_side.sh [-n STEPS] [-r REPEATS] [full_f32|lora_f32|badam_f32|full_bf16|lora_bf16 ...]
#
# Needs the peer's folder (../shared/bench, or $PEER), whose llama_factory.sh makes the Python environment.
# STEPS are counted after two that are not. Tokens are real ones: padding does not count. The machine should
# do nothing else; the log says what else ran. Everything is printed, and a table of medians at the end.
# "start" is in turn with the peer, whose memory a virtual machine's host may take back meanwhile and give out again
# page by page; "again" is that of a run right after ours.
set -euo pipefail
cd "$(dirname "$0")/.."
steps=2 repeats=3
while getopts n:r: option; do
  case $option in n) steps=$OPTARG ;; r) repeats=$OPTARG ;; *) exit 2 ;; esac
done
shift $((OPTIND - 1))
cases=("${@:-full_f32}")
peer=${PEER:-../shared/bench} base=${BASE:-$HOME/.cache/tallow-bench}
python=$base/venv/bin/python
[ -x "$python" ] && [ -e "$base/smollm2-135m/model.safetensors" ] || "$peer/llama_factory.sh" a_full_f32 1 >/dev/null
peer=$(cd "$peer" && pwd)
tallow=${TALLOW:-target/release/tallow}
[ -x "$tallow" ] || cargo build --release --locked --workspace
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT

config() { # name: the YAML that both read
  cat <<YAML
model_name_or_path: $base/smollm2-135m
stage: sft
do_train: true
dataset: alpaca_en_demo
dataset_dir: $peer/../datasets
template: smollm2
cutoff_len: 512
per_device_train_batch_size: 2
gradient_accumulation_steps: 4
learning_rate: 5.0e-05
lr_scheduler_type: cosine
warmup_steps: 0
max_steps: 20
logging_steps: 1
save_strategy: 'no'
val_size: 0.0
seed: 42
report_to: none
use_cpu: true
dataloader_num_workers: 0
disable_gradient_checkpointing: true
disable_shuffling: true
overwrite_cache: true
output_dir: $work/out
YAML
  case $1 in
    full_*|badam_*) echo "finetuning_type: full" ;;
    lora_*) printf 'finetuning_type: lora\nlora_rank: 8\nlora_target: all\n' ;;
  esac
  case $1 in *_bf16) echo "bf16: true" ;; esac
  case $1 in badam_*) printf 'use_badam: true\nbadam_switch_mode: %s\n' "${BADAM_MODE:-ascending}" ;; esac
}

{
  echo "# $(date -u +%FT%TZ), $(nproc) threads, $(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2 | xargs)," \
    "load $(cut -d' ' -f1-3 /proc/loadavg); $steps steps after 2, $repeats times in turn"
  for name in "${cases[@]}"; do
    config "$name" > "$work/$name.yaml"
    for turn in $(seq "$repeats"); do
      echo "tallow $name $turn $("$tallow" bench "$work/$name.yaml" --steps "$steps" 2>/dev/null | grep '^{')"
      echo "again $name $turn $("$tallow" bench "$work/$name.yaml" --steps 0 2>/dev/null | grep '^{')"
      rm -rf "$work/out"
      T0=$(date +%s.%N) OMP_NUM_THREADS=$(nproc) HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 STOP_AT=$((steps + 2)) \
        "$python" "$peer/scripts/lf_run.py" "$work/$name.yaml" "$work/peer.json" > "$work/peer.log" 2>&1 \
        || { tail -5 "$work/peer.log" >&2; exit 1; }
      echo "peer $name $turn $(grep '^RESULT ' "$work/peer.log" | cut -c8-)"
    done
  done
} | tee "$work/log"

"$python" - "$work/log" <<'PY'
import json, statistics, sys

runs = {}
for line in open(sys.argv[1]):
    if line.startswith("#"):
        continue
    who, name, _, result = line.split(" ", 3)
    runs.setdefault(name, {}).setdefault(who, []).append(json.loads(result))
print("\n| | tallow tok/s | peer tok/s | ratio | tallow MiB | peer MiB | share | of our GEMM | start s | again s | peer start s |")
print("|---|---|---|---|---|---|---|---|---|---|---|")
for name, by in runs.items():
    middle = lambda who, key: statistics.median(run[key] for run in by[who])
    ours, theirs = middle("tallow", "tokens_per_s"), middle("peer", "real_tok_per_s")
    mib, peer_mib = middle("tallow", "peak_rss_mib"), middle("peer", "peak_rss_mib")
    print(f"| {name} | {ours:.0f} | {theirs:.0f} | {ours / theirs:.2f} | {mib:.0f} | {peer_mib:.0f} | {mib / peer_mib:.0%} "
          f"| {middle('tallow', 'share_of_gemm'):.1%} | {middle('tallow', 'start_s'):.2f} "
          f"| {middle('again', 'start_s'):.2f} | {middle('peer', 'train_begin_s'):.1f} |")
PY
