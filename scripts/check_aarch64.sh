#!/usr/bin/env bash
# Compiles the whole workspace for aarch64 Linux, and runs the engine's unit tests there (under qemu, with the CPU's
# bf16 instructions, where this machine is no such machine).
# Usage: scripts/check_aarch64.sh [DIR] [TEST FILTERS ...]
#
# Needs root and Debian's debootstrap: the compiler, its standard library for aarch64, the C cross compiler and
# qemu come from Debian's testing (1.5 GB in DIR, default ~/.cache/tallow/aarch64), since a machine's own toolchain
# may have no other targets. Build outputs stay in DIR too. Crates come from this machine's cargo cache.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=${1:-$HOME/.cache/tallow/aarch64}
shift $(($# > 0))
mkdir -p "$dir"
dir=$(cd "$dir" && pwd) root=$dir/root target=aarch64-unknown-linux-gnu
cargo_home=${CARGO_HOME:-$HOME/.cargo}

if [ ! -e "$dir/ready" ]; then
  command -v debootstrap >/dev/null || apt-get install -y -q debootstrap
  rm -rf "$root"
  debootstrap --variant=minbase --include=ca-certificates forky "$root" http://deb.debian.org/debian /usr/share/debootstrap/scripts/sid
  chroot "$root" dpkg --add-architecture arm64
  # a mirror that is some weeks behind is as good
  echo 'Acquire::Check-Valid-Until "false";' >"$root/etc/apt/apt.conf.d/99mirror"
  chroot "$root" apt-get update -q
  chroot "$root" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
    cargo rustc libstd-rust-dev:arm64 gcc g++ gcc-aarch64-linux-gnu g++-aarch64-linux-gnu libc6-dev-arm64-cross \
    make cmake pkgconf qemu-user
  chroot "$root" apt-get clean
  touch "$dir/ready"
fi

# a namespace of its own: the mounts end with it
inside() {
  unshare --mount -- bash -euc '
    root=$1 source=$2 dir=$3 cargo_home=$4; shift 4
    mkdir -p "$root/source" "$root/output" "$root/cargo"
    mount --bind -o ro "$source" "$root/source" 2>/dev/null || mount --bind "$source" "$root/source"
    mount --bind "$dir/target" "$root/output"
    mount --bind "$cargo_home/registry" "$root/cargo/registry"
    mount -t proc proc "$root/proc"
    cp -L /etc/resolv.conf "$root/etc/resolv.conf"
    exec chroot "$root" env -i HOME=/root PATH=/usr/bin:/bin CARGO_HOME=/cargo CARGO_TARGET_DIR=/output \
      CARGO_NET_OFFLINE=true CARGO_INCREMENTAL=0 CARGO_TERM_COLOR=never RUST_BACKTRACE=0 \
      CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
      CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc CXX_aarch64_unknown_linux_gnu=aarch64-linux-gnu-g++ \
      CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -cpu max -L /usr/aarch64-linux-gnu" \
      "$@"' _ "$root" "$PWD" "$dir" "$cargo_home" "$@"
}
cargo fetch --locked --quiet
mkdir -p "$dir/target" "$root/cargo/registry" "$cargo_home/registry"

cd_and() { inside sh -c 'cd /source && exec "$@"' _ "$@"; }
cd_and cargo check --release --locked --workspace --target "$target"
cd_and cargo check --release --locked -p engine -p run --all-targets --target "$target"
cd_and cargo test --release --locked -p engine --lib --target "$target" -- "${@:-ops::}"
