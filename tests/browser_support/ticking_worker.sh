#!/bin/sh
# A worker for tests of the live page: speaks the protocol of `tallow worker RUN_DIR --after-wish N [--resume]` without an
# engine. 120 steps, each with a line in the log; it goes no further than DATA/allowed says, and stops when asked to.
# A run whose name begins with "bad" fails at once.
dir=$2
after=$4
exec 9>>"$dir/lock"
flock -n 9 || exit 75
printf %s $$ >"$dir/lock"
seq=$(cat "$dir/events.jsonl" 2>/dev/null | wc -l)
done=$(grep -c '"kind":"metric"' "$dir/events.jsonl" 2>/dev/null)

event() {
    seq=$((seq + 1))
    echo "{\"seq\":$seq,\"at_ms\":1795506192000,\"elapsed_s\":$seq.5,$1}" >>"$dir/events.jsonl"
}
bye() {
    event "\"kind\":\"exit\",\"code\":$1,\"message\":\"$2\""
    exit "$1"
}

grep -q '"run_name": *"bad' "$dir/run.json" && bye 20 "data.json: row 3 has no column output"
event '"kind":"phase","phase":"training"'
event "\"kind\":\"started\",\"step\":${done:-0},\"total_steps\":120,\"trainable_params\":1,\"all_params\":2,\"epochs\":1.0"
for n in $(seq $((${done:-0} + 1)) 120); do
    event "\"kind\":\"metric\",\"step\":$n,\"total_steps\":120,\"epoch\":0.5,\"values\":{\"loss\":$((130 - n)).25,\"lr\":0.001,\"total_tokens\":$((n * 100))}"
    echo "line $n"
    while :; do
        wish=$(cat "$dir/control.json" 2>/dev/null)
        serial=$(echo "$wish" | grep -o '"serial":[0-9]*' | grep -o '[0-9]*$')
        [ "${serial:-0}" -gt "$after" ] && bye 10 "stopped as asked"
        sleep 0.05 9>&-
        [ "$n" -lt "$(cat "$dir/../../allowed" 2>/dev/null || echo 120)" ] && break
        [ "$n" -ge 120 ] && break
    done
done
bye 0 ""
