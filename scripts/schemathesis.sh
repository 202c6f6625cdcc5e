#!/usr/bin/env bash
# Runs schemathesis over GET /api/v1/openapi.json of throw-away servers, and fails where it finds anything.
#   scripts/schemathesis.sh [CASES]     CASES a operation and pass, 40 unless told
# TALLOW=target/release/tallow is the server's binary. schemathesis goes into a virtual environment of its own.
# Passes: nobody is asked (loopback); an admin; a viewer; nobody known. Each has an empty data folder, and the first
# two are done again with a run, a data set and a person that exist.
set -euo pipefail
cd "$(dirname "$0")/.."
version=4.32.5 cases=${1:-40} tallow=${TALLOW:-target/release/tallow}
venv=${VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/tallow-schemathesis}
checks=not_a_server_error,status_code_conformance,content_type_conformance
checks+=,response_schema_conformance,negative_data_rejection,ignored_auth
password=correct-horse-battery

"$venv/bin/st" --version 2>/dev/null | grep -q "$version" || {
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet "schemathesis==$version"
}
work=$(mktemp -d) server= failed=0
stop() { [ -z "$server" ] || { kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; server=; }; }
trap 'stop; rm -rf "$work"' EXIT

# serve NAME [ARGUMENT...]: a server on an empty data folder; its address in $url
serve() {
    stop
    local log=$work/$1.log data=$work/$1
    shift
    mkdir -p "$data"
    : >"$log"
    cp -r data/demo/model "$data/demo-model"
    # no run trains here: the tests' worker only speaks the protocol
    WORKER_BIN=$PWD/tests/support/fake_worker.sh RUST_LOG=warn \
        "$tallow" serve --port 0 --data-dir "$data" "$@" >"$log" 2>&1 &
    server=$!
    for _ in $(seq 100); do
        port=$(sed -n 's/^ready on port //p' "$log")
        [ -n "$port" ] && break
        sleep 0.1
    done
    url=http://127.0.0.1:${port:?$(cat "$log")}
    auth=()
    [ ! -f "$data/token" ] || auth=(-H "Authorization: Bearer $(cat "$data/token")")
}

call() { curl -sf "${auth[@]}" -H "Content-Type: ${2:-application/json}" --data-binary "${3:-{\}}" "$url/api/v1/$1"; }
field() { sed -n "s/.*\"$1\":\"\\{0,1\\}\\([^\",}]*\\).*/\\1/p" | head -1; }

# seed: something that exists, and the parameters that name it
seed() {
    call 'uploads?file=seed.jsonl&name=seed' application/octet-stream \
        $'{"instruction":"Say hi","output":"hi"}\n{"instruction":"Say no","output":"no"}\n' >"$work/seed.out"
    local run user
    run=$(call runs application/json \
        '{"model_name_or_path":"demo-model","dataset":"seed","template":"qwen","run_name":"finish"}' | field id)
    user=$(call users application/json "{\"name\":\"kim\",\"role\":\"viewer\",\"password\":\"$password\"}" | field id)
    cat >"$work/schemathesis.toml" <<EOF
[[operations]]
include-path-regex = "/runs/[{]id"
parameters = { id = "$run" }
[[operations]]
include-path-regex = "/datasets/[{]name[}](/rows|/report)?$"
parameters = { name = "seed" }
[[operations]]
include-path-regex = "/datasets/[{]name[}]/(lengths|tokens)"
parameters = { name = "seed", model = "demo-model", template = "qwen" }
[[operations]]
include-path-regex = "/users/[{]id[}]$"
parameters = { id = "$user" }
[[operations]]
include-path-regex = "/compare"
parameters = { runs = "$run" }
EOF
}

# look WHAT [OPTION...]: one pass
look() {
    local what=$1
    shift
    curl -sf "${auth[@]}" "$url/api/v1/openapi.json" >"$work/openapi.json"
    (cd "$work" && "$venv/bin/st" run openapi.json --url "$url" --checks "$checks" -n "$cases" --workers 2 \
        --phases examples,coverage,fuzzing --max-failures 500 --continue-on-failure --request-timeout 30 \
        --generation-database none --warnings off --no-color "$@" >"$work/out.txt" 2>&1) || {
        cat "$work/out.txt"
        failed=1
    }
    printf '%-32s %s\n' "$what" "$(grep -E ' generated' "$work/out.txt" || echo 'did not run')"
    kill -0 "$server" || { echo "the server is gone"; failed=1; }
    ! grep -E 'panic|request failed' "$work"/*.log || failed=1
}

: >"$work/schemathesis.toml"
serve local && look "loopback, empty"
serve team --host 0.0.0.0 && look "admin, empty" "${auth[@]}"
look "nobody known"
call users application/json "{\"name\":\"vera\",\"role\":\"viewer\",\"password\":\"$password\"}" >"$work/seed.out" || true
cookie=$(curl -si -H 'Sec-Fetch-Site: same-origin' --data "name=vera&token=$password" "$url/login" |
    sed -n 's/^set-cookie: \([^;]*\).*/\1/p')
auth=(-H "Cookie: ${cookie:?no login}")
token=$(call tokens application/json '{"name":"schemathesis"}' | field token)
auth=(-H "Authorization: Bearer ${token:?none}")
look "viewer, empty" "${auth[@]}"
serve local2 && seed && look "loopback, with data"
serve team2 --host 0.0.0.0 && seed && look "admin, with data" "${auth[@]}"
exit "$failed"
