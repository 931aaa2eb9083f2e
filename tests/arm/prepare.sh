#!/bin/sh
# Makes what the ARM smoke test runs on: a Debian root for arm64 and the wheels a
# Raspberry Pi would install, both only unpacked. About 750 MB, two minutes. libgomp1 is
# there because Raspberry Pi OS carries it, with its compiler.
#   sh tests/arm/prepare.sh FOLDER
#   FLASH_EDGE_ARM=FOLDER pytest tests/arm
# Needs debootstrap, dpkg-deb, qemu-aarch64-static (apt-get install debootstrap
# qemu-user-static) and uv (pip install uv).
set -eu
folder=$(mkdir -p "$1" && cd "$1" && pwd)
if [ ! -x "$folder/root/usr/bin/python3.11" ]; then
  debootstrap --download-only --arch=arm64 --variant=minbase \
    --include=python3,ca-certificates,libgomp1 bookworm "$folder/packages"
  mkdir -p "$folder/root"
  for package in "$folder"/packages/var/cache/apt/archives/*.deb; do
    dpkg-deb -x "$package" "$folder/root"
  done
  rm -rf "$folder/packages"
fi
if [ ! -d "$folder/site/torch" ]; then
  # Wheels only: a board has no compiler. torch as pyproject.toml bounds it on ARM.
  uv pip install --quiet --only-binary :all: --target "$folder/site" \
    --python-platform aarch64-manylinux_2_28 --python-version 3.11 \
    'torch>=2.7,<2.10' msgpack msgspec numpy paho-mqtt psutil rich safetensors typer
fi
echo "ready: FLASH_EDGE_ARM=$folder"
