# highwater in a small image, for one process of a run:
#
#   docker build --tag highwater .
#   docker run --rm highwater run cars
#
# The same commit and the same base images give the same program: dependencies come from Cargo.lock,
# no path of the build machine and no time is in the binary. All processes of a run must be of one
# build (they compare themselves), so push an image once and name it by its digest everywhere.

ARG RUST_VERSION=1.88.0
ARG DEBIAN_RELEASE=bookworm
ARG DEBIAN_VERSION=12.11

FROM rust:${RUST_VERSION}-slim-${DEBIAN_RELEASE} AS build

# librdkafka is compiled from its bundled source; SASL/SCRAM and TLS need OpenSSL's headers.
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ libssl-dev make pkg-config zlib1g-dev \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY . .

# The program leaves the cache mount at the end: what is in one is not in the image.
ENV CARGO_PROFILE_RELEASE_STRIP=symbols \
    RUSTFLAGS="--remap-path-prefix=/usr/local/cargo=/cargo --remap-path-prefix=/src=/highwater" \
    SOURCE_DATE_EPOCH=0
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --release --package highwater-dataflows --features kafka-tls \
    && install -D target/release/highwater /out/highwater

FROM debian:${DEBIAN_VERSION}-slim

RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libssl3 zlib1g \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/highwater \
        --shell /usr/sbin/nologin highwater \
    && install --directory --owner highwater --group highwater \
        /var/lib/highwater /var/lib/highwater/dims

COPY --from=build /out/highwater /usr/local/bin/highwater

# By number: Kubernetes can only then tell that it is not root.
USER 10001:10001
WORKDIR /var/lib/highwater

# Processes of one run (-p with a hostfile), and the HTTP endpoint (--http 0.0.0.0:9464).
EXPOSE 2101 9464

# A run ends in good order on SIGTERM; the first process of a container may lack default handlers,
# highwater has its own.
STOPSIGNAL SIGTERM
ENTRYPOINT ["highwater"]
CMD ["--help"]
