#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what building and testing rankwise needs, on Debian 12 and Ubuntu 24.04. Packages that are
# there already are left alone; with nothing missing no privilege and no network is needed.
#   launch/install_packages.sh [--list]
set -euo pipefail

packages=(
  # compiler and build
  g++ cmake ninja-build ccache pkg-config
  # ranks: MPI compiler wrappers and mpirun
  libopenmpi-dev openmpi-bin
  # CPU matrix products: oneDNN, or OpenBLAS, whose LAPACK decomposes matrices
  libdnnl-dev libopenblas-pthread-dev
  # files: HDF5 stores, JSON, YAML, SHA-256
  libhdf5-dev nlohmann-json3-dev libyaml-cpp-dev libssl-dev
  # tokenizer, command line, text
  libsentencepiece-dev libcli11-dev libfmt-dev
  # tests and benchmarks
  libgtest-dev libbenchmark-dev iproute2 shellcheck
)

if [[ "${1:-}" == "--list" ]]; then
  printf '%s\n' "${packages[@]}"
  exit 0
fi

fail() {
  echo "install_packages: $*" >&2
  exit 1
}

command -v dpkg >/dev/null || fail "this is no Debian or Ubuntu; install by hand: ${packages[*]}"

is_installed() {
  dpkg -s "$1" 2>/dev/null | grep -q '^Status: install ok installed'
}

missing=()
for package in "${packages[@]}"; do
  is_installed "$package" || missing+=("$package")
done
if [[ ${#missing[@]} -eq 0 ]]; then
  echo "install_packages: all ${#packages[@]} packages are installed"
  exit 0
fi

as_root=()
if [[ $(id -u) -ne 0 ]]; then
  command -v sudo >/dev/null || fail "run as root, or install by hand: ${missing[*]}"
  as_root=(sudo)
fi

echo "install_packages: installing ${missing[*]}"
install_missing() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y --no-install-recommends "${missing[@]}"
}
# Package lists may be empty (fresh containers) or stale (a listed version is gone): refresh once.
if ! apt-cache show "${missing[@]}" >/dev/null 2>&1 || ! install_missing; then
  "${as_root[@]}" apt-get update
  install_missing
fi
for package in "${missing[@]}"; do
  is_installed "$package" || fail "$package is still missing"
done
