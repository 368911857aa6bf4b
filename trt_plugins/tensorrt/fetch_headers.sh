#!/bin/sh
# Puts TensorRT's C++ headers into a folder, from a wheel, as any user:
#
#     sh trt_plugins/tensorrt/fetch_headers.sh build/tensorrt-headers
#
# NVIDIA's own wheels carry no headers; kernel-lens carries NVIDIA's of release 10.14, under their Apache-2.0 licence.
# The wheel is downloaded without its dependencies, checked against its digest, and unpacked, never installed.
# PYTHON names the interpreter whose pip is asked (default: python3). Prints the include folder; exit 1 with one line
# where there is no pip, no registry, or another file under that name.
set -eu

destination=${1:?usage: fetch_headers.sh FOLDER}
python=${PYTHON:-python3}
requirement='kernel-lens==2.0.1 --hash=sha256:07cc714e8b5e7f34b672f7c7fad93febe7c747be5837ba276b1527370134ffe0'

give_up() { echo "fetch_headers.sh: $1" >&2; exit 1; }

"$python" -m pip --version >/dev/null 2>&1 || give_up "no pip for $python: set PYTHON"

mkdir -p "$destination"
work=$(mktemp -d "$destination/wheel.XXXXXX")
trap 'rm -rf "$work"' EXIT

echo "$requirement" > "$work/requirements.txt"
"$python" -m pip --quiet --disable-pip-version-check --no-input download --no-deps --only-binary :all: \
    --require-hashes --retries 1 --dest "$work" --requirement "$work/requirements.txt" >"$work/log" 2>&1 ||
    give_up "no registry of this machine gave ${requirement%% *} with the expected digest"
"$python" -m zipfile -e "$work"/*.whl "$work/unpacked"
[ -f "$work/unpacked/kernel_lens/include/tensorrt/NvInferRuntime.h" ] || give_up "the wheel holds no TensorRT headers"
rm -rf "$destination/include"
mv "$work/unpacked/kernel_lens/include/tensorrt" "$destination/include"
echo "$destination/include"
