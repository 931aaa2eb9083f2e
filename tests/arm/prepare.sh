#!/bin/sh
# Makes what the ARM smoke test runs on: a Debian root for arm64, and beside it our own
# wheel with everything it needs, as a Raspberry Pi would install them. Both are only
# unpacked. About 1 GB; half a minute, and five seconds when it is there already.
# libgomp1 is there because Raspberry Pi OS carries it, with its compiler.
#   sh tests/arm/prepare.sh FOLDER WHEEL
#   FLASH_EDGE_ARM=FOLDER pytest tests/arm
# `make arm` does both. Needs debootstrap, dpkg-deb, qemu-aarch64-static (apt-get install
# debootstrap qemu-user-static) and uv (pip install uv).
set -eu
folder=$(mkdir -p "$1" && cd "$1" && pwd)
wheel=$2
if [ ! -x "$folder/root/usr/bin/python3.11" ]; then
  debootstrap --download-only --arch=arm64 --variant=minbase \
    --include=python3,ca-certificates,libgomp1 bookworm "$folder/packages" >/dev/null
  rm -rf "$folder/root" "$folder/root.part"
  mkdir "$folder/root.part"
  for package in "$folder"/packages/var/cache/apt/archives/*.deb; do
    dpkg-deb -x "$package" "$folder/root.part"
  done
  mv "$folder/root.part" "$folder/root"   # whole or not there
  rm -rf "$folder/packages"
fi
# Wheels only: a board has no compiler.
uv pip install --quiet --only-binary :all: --target "$folder/site" \
  --python-platform aarch64-manylinux_2_28 --python-version 3.11 \
  --reinstall-package flash-edge "flash-edge[torch] @ file://$(realpath "$wheel")"
echo "ready: FLASH_EDGE_ARM=$folder"
