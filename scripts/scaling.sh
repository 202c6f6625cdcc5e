#!/usr/bin/env bash
# How time and memory grow with the tokens of a micro-batch: `tallow bench` over cutoff_len and batch size, and with
# ten times the rows, with the fitted slopes. usage: scripts/scaling.sh [MODEL FOLDER OR GGUF FOR FIVE MORE CELLS]
#
# Rows are made here, each longer than any cutoff, so that a micro-batch has exactly cutoff_len x batch tokens.
# The machine should do nothing else. At most 16,384 tokens a micro-batch.
set -euo pipefail
cd "$(dirname "$0")/.."
tallow=${TALLOW:-target/release/tallow}
[ -x "$tallow" ] || cargo build --release --locked --workspace
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT

python3 - "$work" <<'PY'
import json, random, sys

draw = random.Random(7)
words = "the sky is blue water runs down a hill people ask and we answer with care every day of the year".split()
text = lambda n: " ".join(draw.choice(words) for _ in range(n))
folder = sys.argv[1]
json.dump([{"instruction": text(8), "input": "", "output": text(6000)} for _ in range(160)], open(f"{folder}/long.json", "w"))
for name, count in [("rows_1000", 1000), ("rows_10000", 10000)]:
    json.dump([{"instruction": text(8), "input": "", "output": text(40)} for _ in range(count)], open(f"{folder}/{name}.json", "w"))
files = ["long", "rows_1000", "rows_10000"]
json.dump({name: {"file_name": f"{name}.json"} for name in files}, open(f"{folder}/dataset_info.json", "w"))
PY

cell() { # model template dataset cutoff batch
  local line
  line=$("$tallow" bench --stage sft --do_train True --model_name_or_path "$1" --template "$2" --dataset "$3" \
    --dataset_dir "$work" --cutoff_len "$4" --per_device_train_batch_size "$5" --gradient_accumulation_steps 1 \
    --finetuning_type full --disable_shuffling True --max_steps 4 --output_dir "$work/out" --steps 2 \
    2>"$work/err" | grep '^{') || { tail -5 "$work/err" >&2; exit 1; }
  echo "$(basename "$1") $3 $4 $5 $line" | tee -a "$work/log"
}

echo "# $(date -u +%FT%TZ), $(nproc) threads, $(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2 | xargs), load $(cut -d' ' -f1-3 /proc/loadavg)"
demo=data/demo/model
for cutoff in 256 512 1024 2048 4096; do
  for batch in 1 2 4 8 16; do
    [ $((cutoff * batch)) -gt 16384 ] || cell $demo chatml long $cutoff $batch
  done
done
for rows in rows_1000 rows_10000; do cell $demo chatml $rows 128 8; done
if [ $# -gt 0 ]; then
  while read -r cutoff batch; do cell "$1" "${TEMPLATE:-smollm2}" long "$cutoff" "$batch"; done <<< $'256 1\n256 4\n512 4\n1024 1\n2048 1'
fi

python3 - "$work/log" <<'PY'
import collections, json, sys

cells = collections.defaultdict(list)
for line in open(sys.argv[1]):
    model, rows, cutoff, batch, result = line.split(" ", 4)
    result = json.loads(result)
    cells[model, rows].append((int(cutoff), int(batch), result["seconds"] / result["steps"], result["peak_rss_mib"]))
def fit(points):
    n, x, y = len(points), sum(p[0] for p in points), sum(p[1] for p in points)
    xx, xy = sum(p[0] ** 2 for p in points), sum(p[0] * p[1] for p in points)
    slope = (n * xy - x * y) / (n * xx - x * x)
    at0 = (y - slope * x) / n
    rest = sum((p[1] - at0 - slope * p[0]) ** 2 for p in points)
    return slope, at0, 1 - rest / max(sum((p[1] - y / n) ** 2 for p in points), 1e-12)
for (model, rows), found in cells.items():
    print(f"\n{model}, {rows}\n\n| cutoff_len | batch | tokens | s a step | ms a token | peak MiB |\n|---|---|---|---|---|---|")
    for cutoff, batch, seconds, peak in found:
        tokens = cutoff * batch
        print(f"| {cutoff} | {batch} | {tokens} | {seconds:.3f} | {1e3 * seconds / tokens:.3f} | {peak:.0f} |")
    if len(found) < 3:
        continue
    slope, at0, r2 = fit([(c * b, s) for c, b, s, _ in found])
    print(f"\ntime: {1e3 * slope:.4f} ms a token + {at0:.3f} s (R² {r2:.4f})", end="; ")
    slope, at0, r2 = fit([(c * b, m) for c, b, _, m in found])
    print(f"memory: {1024 * slope:.1f} KiB a token of the micro-batch + {at0:.0f} MiB (R² {r2:.4f})")
    for cutoff in sorted({c for c, *_ in found}):
        same = [(c * b, s) for c, b, s, _ in found if c == cutoff]
        if len(same) > 2:
            slope, at0, r2 = fit(same)
            print(f"cutoff_len {cutoff}: {1e3 * slope:.4f} ms a token + {at0:.3f} s (R² {r2:.4f})")
PY
