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
# a curve that looks like one: loss, rate, norm and speed of each step, and every 20 steps what is held out
values() {
    awk 'BEGIN { srand(7); for (n = 1; n <= 120; n++) {
        x = n / 120; noise = rand() * exp(-2 * x); held = ""
        if (n % 20 == 0) held = sprintf(",\"eval_loss\":%.4f", 3.1 * exp(-4 * x) + 0.5)
        printf "\"loss\":%.4f,\"lr\":%.3e,\"grad_norm\":%.4f,\"tokens_per_s\":%.1f,\"total_tokens\":%d%s\n",
            3 * exp(-5 * x) + 0.35 + 0.5 * noise, 1e-3 * (1 - x), 1.8 * exp(-2 * x) + noise, 11800 + 900 * noise, n * 1480, held
    } }'
}
n=0
while read -r value; do
    n=$((n + 1))
    [ "$n" -le "${done:-0}" ] && continue
    # it waits before a step, never after it: one that is killed and started again where it may not go on makes no progress
    while :; do
        wish=$(cat "$dir/control.json" 2>/dev/null)
        serial=$(echo "$wish" | grep -o '"serial":[0-9]*' | grep -o '[0-9]*$')
        [ "${serial:-0}" -gt "$after" ] && bye 10 "stopped as asked"
        allowed=$(cat "$dir/../../allowed" 2>/dev/null || echo 120)
        [ "$n" -le "${allowed:-0}" ] && break
        sleep 0.05 9>&-
    done
    sleep 0.05 9>&-
    event "\"kind\":\"metric\",\"step\":$n,\"total_steps\":120,\"epoch\":$(echo "$n" | awk '{ print $1 / 40 }'),\"values\":{$value}"
    echo "line $n"
    [ $((n % 40)) -eq 0 ] && event "\"kind\":\"checkpoint\",\"step\":$n,\"dir\":\"checkpoint-$n\""
    [ $((n % 40)) -eq 0 ] && event "\"kind\":\"sample\",\"step\":$n,\"prompt\":\"My invoice is wrong.\",\"text\":\"I am sorry. Which number stands at its top? (after $n)\""
done <<LINES
$(values)
LINES
bye 0 ""
