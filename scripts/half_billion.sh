#!/usr/bin/env bash
# Peak memory of a model of Qwen2-0.5B's shape (494M, random weights): a full f32 step and a LoRA bf16 step at
# cutoff 512, batch 1, by `tallow bench`. Makes 2 GB of weights in a temporary folder. usage: scripts/half_billion.sh
set -euo pipefail
cd "$(dirname "$0")/.."
tallow=${TALLOW:-target/release/tallow}
[ -x "$tallow" ] || cargo build --release --locked --workspace
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
mkdir "$work/model"
cp data/demo/model/tokenizer*.json "$work/model/"

python3 - "$work" <<'PY'
import array, json, random, sys

folder = sys.argv[1]
hidden, inner, layers, heads, kv_heads, words = 896, 4864, 24, 14, 2, 151936
kv = hidden // heads * kv_heads
shapes = {"model.embed_tokens.weight": [words, hidden], "model.norm.weight": [hidden]}
for i in range(layers):
    at = f"model.layers.{i}."
    for name, out, into in [("q_proj", hidden, hidden), ("k_proj", kv, hidden), ("v_proj", kv, hidden), ("o_proj", hidden, hidden)]:
        shapes[f"{at}self_attn.{name}.weight"] = [out, into]
        if name != "o_proj":
            shapes[f"{at}self_attn.{name}.bias"] = [out]
    for name, out, into in [("gate_proj", inner, hidden), ("up_proj", inner, hidden), ("down_proj", hidden, inner)]:
        shapes[f"{at}mlp.{name}.weight"] = [out, into]
    for name in ["input_layernorm", "post_attention_layernorm"]:
        shapes[f"{at}{name}.weight"] = [hidden]
json.dump({
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu", "hidden_size": hidden,
    "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
    "num_key_value_heads": kv_heads, "vocab_size": words, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
    "rope_theta": 1e6, "tie_word_embeddings": True, "torch_dtype": "float32", "bos_token_id": 1, "eos_token_id": 2,
}, open(f"{folder}/model/config.json", "w"))

size = lambda shape: 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
header, end = {}, 0
for name, shape in shapes.items():
    header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size(shape)]}
    end += size(shape)
header = json.dumps(header).encode()
header += b" " * (-len(header) % 8)
draw = random.Random(7)
some = array.array("f", (draw.gauss(0, 0.02) for _ in range(1 << 20))).tobytes()
with open(f"{folder}/model/model.safetensors", "wb") as file:
    file.write(len(header).to_bytes(8, "little") + header)
    for name, shape in shapes.items():
        left = size(shape)
        if len(shape) == 1:
            file.write(array.array("f", [1.0 if "norm" in name else 0.0]).tobytes() * shape[0])
        else:
            while left:
                left -= file.write(some[:left])
print(f"{end // 4 / 1e6:.0f}M parameters")

text = lambda n: " ".join(draw.choice("people ask and we answer with care every day of the year".split()) for _ in range(n))
json.dump([{"instruction": text(8), "input": "", "output": text(3000)} for _ in range(16)], open(f"{folder}/long.json", "w"))
json.dump({"long": {"file_name": "long.json"}}, open(f"{folder}/dataset_info.json", "w"))
PY

step() { # name arguments ...
  local name=$1 line
  shift
  line=$("$tallow" bench --stage sft --do_train True --model_name_or_path "$work/model" --template default --dataset long \
    --dataset_dir "$work" --cutoff_len 512 --per_device_train_batch_size 1 --gradient_accumulation_steps 1 \
    --max_steps 4 --output_dir "$work/out" --steps 2 "$@" 2>"$work/err" | grep '^{') || { tail -5 "$work/err" >&2; exit 1; }
  echo "$name $line"
}
step full_f32 --finetuning_type full
step lora_bf16 --finetuning_type lora --lora_rank 8 --lora_target all --bf16 True
