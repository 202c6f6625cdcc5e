#!/usr/bin/env bash
# Compiles the whole program for aarch64 Linux, and runs the engine's unit tests there under qemu, with the CPU's bf16
# instructions. On such a machine it runs them as they are.
# Usage: scripts/check_aarch64.sh [TEST FILTERS ...]
#
# Needs root and Debian's debootstrap: the compiler, its standard library for aarch64, the C cross compiler and qemu come
# from Debian's testing (1.5 GB in ~/.cache/tallow/debian-aarch64, or under $TALLOW_CACHE), since a machine's own
# toolchain may have no other targets. Crates come from this machine's cargo cache.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$(uname -m)" = aarch64 ]; then
  exec cargo test --release --locked -p engine --lib -- "$@"
fi

readonly dir=$(realpath -m "${TALLOW_CACHE:-$HOME/.cache/tallow}/debian-aarch64") target=aarch64-unknown-linux-gnu
readonly root=$dir/root cargo_home=${CARGO_HOME:-$HOME/.cargo}

# Mounts are made in a namespace of their own, and end with it.
if [ ! -e "$dir/ready" ]; then
  command -v debootstrap >/dev/null || apt-get install -y -q debootstrap
  mkdir -p "$dir"
  rm -rf --one-file-system "$root"
  unshare --mount -- bash -euo pipefail -c '
    root=$1
    debootstrap --variant=minbase --include=ca-certificates forky "$root" http://deb.debian.org/debian \
      /usr/share/debootstrap/scripts/sid
    chroot "$root" dpkg --add-architecture arm64
    # a mirror that is some weeks behind is as good
    echo "Acquire::Check-Valid-Until \"false\";" >"$root/etc/apt/apt.conf.d/99mirror"
    chroot "$root" apt-get update -q
    chroot "$root" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
      cargo rustc libstd-rust-dev:arm64 gcc g++ gcc-aarch64-linux-gnu g++-aarch64-linux-gnu libc6-dev-arm64-cross \
      make cmake pkgconf qemu-user
    chroot "$root" apt-get clean
  ' setup "$root"
  touch "$dir/ready"
fi

inside() { # cargo's arguments
  unshare --mount -- bash -euo pipefail -c '
    root=$1
    mount --bind -o ro "$2" "$root/source"
    mount --bind "$3" "$root/output"
    mount --bind "$4" "$root/cargo/registry"
    mount -t proc proc "$root/proc"
    shift 4
    exec chroot "$root" env -i HOME=/root PATH=/usr/bin:/bin CARGO_HOME=/cargo CARGO_TARGET_DIR=/output \
      CARGO_NET_OFFLINE=true CARGO_INCREMENTAL=0 CARGO_TERM_COLOR=never RUST_BACKTRACE=0 \
      CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
      CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc CXX_aarch64_unknown_linux_gnu=aarch64-linux-gnu-g++ \
      CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -cpu max -L /usr/aarch64-linux-gnu" \
      sh -c "cd /source && exec cargo \"\$@\"" cargo "$@"
  ' inside "$root" "$PWD" "$dir/target" "$cargo_home/registry" "$@"
}
mkdir -p "$dir/target" "$root/source" "$root/output" "$root/cargo/registry"
cargo fetch --locked --quiet
inside check --release --locked --workspace --target "$target"
inside check --release --locked -p engine -p run --all-targets --target "$target"
inside test --release --locked -p engine --lib --target "$target" -- "$@"
