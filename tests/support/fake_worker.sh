#!/bin/sh
# A worker for tests: speaks the protocol of `tallow worker RUN_DIR --after-wish N [--resume]` without an engine.
# What it does is the run's name: finish, hang (until it is told to stop), die, bad, silent, nan (a loss that is none).
dir=$2
after=$4
resume=${5:-}
exec 9>>"$dir/lock"
flock -n 9 || exit 75
printf %s $$ >"$dir/lock"
name=$(grep -o '"run_name": *"[a-z]*"' "$dir/run.json" | grep -o '[a-z]*"$' | tr -d '"')
seq=$(cat "$dir/events.jsonl" 2>/dev/null | wc -l)

event() {
    seq=$((seq + 1))
    echo "{\"seq\":$seq,\"at_ms\":1700000000000,\"elapsed_s\":$seq.5,$1}" >>"$dir/events.jsonl"
}
step() {
    event "\"kind\":\"metric\",\"step\":$1,\"total_steps\":10,\"epoch\":0.$1,\"values\":{\"loss\":$((10 - $1)).25,\"lr\":0.001}"
}
bye() {
    event "\"kind\":\"exit\",\"code\":$1,\"message\":\"$2\""
    exit "$1"
}

echo "fake worker: $name $resume"
[ "$name" = bad ] && bye 20 "data.json: row 3 has no column output"
[ "$name" = silent ] && exit 23
first=1
if [ -n "$resume" ]; then
    event '"kind":"rewound","to_step":2'
    first=3
fi
event '"kind":"phase","phase":"training"'
event "\"kind\":\"started\",\"step\":$((first - 1)),\"total_steps\":10,\"trainable_params\":1,\"all_params\":2,\"epochs\":1.0"
for n in $(seq $first 4); do step "$n"; done
event '"kind":"checkpoint","step":2,"dir":"checkpoint-2"'
case $name in
die) kill -9 $$ ;;
nan) event '"kind":"metric","step":4,"total_steps":10,"epoch":0.4,"values":{"loss":null}' ;;
hang)
    # a test that ends before its worker takes the folder with it
    while [ -d "$dir" ]; do
        wish=$(cat "$dir/control.json" 2>/dev/null)
        serial=$(echo "$wish" | grep -o '"serial":[0-9]*' | grep -o '[0-9]*$')
        if [ "${serial:-0}" -gt "$after" ]; then
            after=$serial
            case $wish in
            *save_now*) event '"kind":"checkpoint","step":4,"dir":"checkpoint-4"' ;;
            *sample_now*) event '"kind":"sample","step":4,"prompt":"Who?","text":"I."' ;;
            *) bye 10 "stopped as asked" ;;
            esac
        fi
        sleep 0.05 9>&-
    done
    exit 0 ;;
esac
for n in 5 6 7 8 9; do step $n; done
bye 0 ""
