#!/usr/bin/env bash
# Compiles the GPU build without a GPU: every kernel for sm_80 and sm_90, then the engine with the feature cuda.
# Usage: scripts/check_cuda.sh [DIR]; DIR (default ~/.cache/tallow/cuda-13.0) gets nvcc 13.0 from PyPI, about
# 300 MB, where it has none. `. DIR/env.sh` then lets cargo build and link with it (docs/gpu.md).
set -euo pipefail
cd "$(dirname "$0")/.."

readonly dir=$(realpath -m "${1:-${TALLOW_CACHE:-$HOME/.cache/tallow}/cuda-13.0}")
readonly home=$dir/cuda

# A library to link against where the real one is on the GPU's machine only: each function that cudarc names, empty.
stub() { # stub NAME SONAME FOLDER_OF_CUDARC
    local bindings
    bindings=$(ls -d "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/cudarc-0.19.10/src/"$3"/sys/mod.rs | head -1)
    sed -nE 's/^pub unsafe fn ([A-Za-z0-9_]+).*/void \1(void) {}/p' "$bindings" | sort -u |
        cc -x c - -shared -fPIC -nostdlib -Wl,-soname,"$2" -o "$home/lib/stubs/lib$1.so"
}

if [[ ! -x $home/bin/nvcc ]]; then
    if ! python3 -m pip --version >/dev/null 2>&1; then
        echo "check_cuda: needs python3 with pip (apt-get install python3-pip), or a CUDA 13 toolkit at $home" >&2
        exit 1
    fi
    rm -rf "$home" "$dir/wheels"
    # candle's PTX is compiled by the driver, which refuses text newer than itself: 13.0, not the newest.
    python3 -m pip install --quiet --disable-pip-version-check --no-deps --no-compile --target "$dir/wheels" \
        nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-cccl==13.0.85 \
        nvidia-cuda-runtime==13.0.96
    mv "$dir/wheels/nvidia/cu13" "$home"
    rm -rf "$dir/wheels"
    ln -sf lib "$home/lib64"
    ln -sf libcudart.so.13 "$home/lib/libcudart.so"
    mkdir -p "$home/lib/stubs"
    cargo fetch --locked --quiet
    stub cuda libcuda.so.1 driver
    stub cublas libcublas.so.13 cublas
    stub cublasLt libcublasLt.so.13 cublaslt
    stub curand libcurand.so.10 curand
    stub nvrtc libnvrtc.so.13 nvrtc
fi
# No nvidia-smi to ask: candle's own kernels are for compute capability 9.0 unless CUDA_COMPUTE_CAP says otherwise.
if [[ ! -f $dir/env.sh ]]; then
    cat >"$dir/env.sh" <<END
export CUDA_HOME=$home CUDA_PATH=$home PATH=$home/bin:\$PATH CUDA_COMPUTE_CAP=\${CUDA_COMPUTE_CAP:-90}
export LIBRARY_PATH=$home/lib:$home/lib/stubs
END
fi
# shellcheck disable=SC1091
. "$dir/env.sh"
export RUSTFLAGS="-L native=$home/lib -L native=$home/lib/stubs -C link-arg=-Wl,--allow-shlib-undefined"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
for arch in sm_80 sm_90; do
    for file in crates/engine/kernels/*.cu; do
        if ! nvcc -std=c++17 -O3 -cubin -arch="$arch" -Xptxas -v -o "$scratch/cubin" "$file" 2>"$scratch/said"; then
            cat "$scratch/said" >&2
            exit 1
        fi
        awk -v arch="$arch" '/Function properties for/ { name = $NF }
            /spill stores/ { spills = $5 + $9 }
            /Used [0-9]+ registers/ {
                sub(/.*Used /, "")
                printf "%s %-32s %3d registers, %d bytes spilled\n", arch, name, $1, spills
            }' \
            "$scratch/said"
    done
done

export CARGO_INCREMENTAL=0
cargo clippy --release --locked --features cuda -p engine --target-dir target-cuda -- -D warnings
