# Two images from one file:
#   docker build --target cpu  -t tallow:cpu .
#   docker build --target cuda -t tallow:cuda .     (needs the NVIDIA container toolkit to run)
# The cuda target computes on the first NVIDIA GPU (docs/gpu.md).

FROM rust:1.95-bookworm AS build-cpu
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin tallow \
 && install -D -m 0755 target/release/tallow /out/tallow \
 && strip --strip-debug /out/tallow

FROM nvidia/cuda:13.0.1-devel-ubuntu24.04 AS build-cuda
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends build-essential ca-certificates pkg-config \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build-cpu /usr/local/rustup /usr/local/rustup
COPY --from=build-cpu /usr/local/cargo /usr/local/cargo
ENV RUSTUP_HOME=/usr/local/rustup CARGO_HOME=/usr/local/cargo PATH=/usr/local/cargo/bin:$PATH
ARG FEATURES="cuda"
# 80 runs on everything from an A100 on: the driver compiles its PTX for newer GPUs.
ARG CUDA_COMPUTE_CAP=80
ENV CUDA_HOME=/usr/local/cuda CUDA_COMPUTE_CAP=$CUDA_COMPUTE_CAP
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin tallow --features "$FEATURES" \
 && install -D -m 0755 target/release/tallow /out/tallow \
 && strip --strip-debug /out/tallow

FROM nvidia/cuda:13.0.1-runtime-ubuntu24.04 AS cuda
# curl sends webhooks over https
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates curl \
 && rm -rf /var/lib/apt/lists/*
RUN userdel --remove ubuntu \
 && useradd --uid 1000 --create-home --shell /usr/sbin/nologin tallow \
 && install -d -o tallow -g tallow /data
COPY --from=build-cuda /out/tallow /usr/local/bin/tallow
COPY scripts/healthcheck.sh /usr/local/bin/tallow-healthcheck
USER 1000:1000
WORKDIR /data
VOLUME /data
EXPOSE 7860 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=10s --retries=4 CMD ["tallow-healthcheck"]
CMD ["tallow", "serve", "--host", "0.0.0.0", "--port", "7860", "--data-dir", "/data"]

# Last, so that a plain `docker build .` makes it.
FROM debian:bookworm-slim AS cpu
# curl sends webhooks over https
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates curl \
 && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 1000 --create-home --shell /usr/sbin/nologin tallow \
 && install -d -o tallow -g tallow /data
COPY --from=build-cpu /out/tallow /usr/local/bin/tallow
COPY scripts/healthcheck.sh /usr/local/bin/tallow-healthcheck
USER 1000:1000
WORKDIR /data
VOLUME /data
EXPOSE 7860 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=10s --retries=4 CMD ["tallow-healthcheck"]
CMD ["tallow", "serve", "--host", "0.0.0.0", "--port", "7860", "--data-dir", "/data"]
