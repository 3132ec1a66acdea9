#!/bin/sh
# Writes constraints.txt anew from the newest versions that pyproject.toml allows.
#
# A fresh virtual environment is filled without constraints, except for torch: a bare `torch` would
# pull gigabytes of CUDA, so its version is raised by hand, here and in constraints.txt.
set -eu

cd "$(dirname "$0")/.."
torch=${TORCH:-torch==2.13.0}
python=${PYTHON:-python3}

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
echo "$torch" >"$folder/torch.txt"
"$folder/venv/bin/python" -m pip install --quiet --upgrade -c "$folder/torch.txt" -e '.[dev]'

{
    sed -n '/^#/p' constraints.txt
    # A local version such as 2.13.0+cpu names one build; the pin holds for every build of it.
    "$folder/venv/bin/python" -m pip freeze --exclude-editable | sed 's/+[a-z0-9.]*$//' | LC_ALL=C sort -f
} >"$folder/constraints.txt"
cp "$folder/constraints.txt" constraints.txt
echo "constraints.txt written. Now run: make test"
