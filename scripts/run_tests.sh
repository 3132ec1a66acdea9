#!/bin/sh
# Runs the unit tests beside all others, which wait for processes more than they compute.
# Usage: BIN=.venv/bin sh scripts/run_tests.sh
set -u
log=$(mktemp)
"$BIN/python" -m pytest -q tests/unit >"$log" 2>&1 &
unit=$!
trap 'kill "$unit" 2>/dev/null; rm -f "$log"' INT TERM
"$BIN/python" -m pytest -q tests --ignore=tests/unit
others=$?
wait "$unit"
code=$?
echo "unit tests"
cat "$log"
rm -f "$log"
[ "$others" -eq 0 ] && [ "$code" -eq 0 ]
