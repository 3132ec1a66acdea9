#!/bin/sh
# Runs the tests in two halves side by side: those with real workers wait more than they compute.
# Usage: BIN=.venv/bin sh scripts/run_tests.sh
set -u
log=$(mktemp)
"$BIN/python" -m pytest -q tests --ignore=tests/acceptance --ignore=tests/chaos >"$log" 2>&1 &
first=$!
trap 'kill "$first" 2>/dev/null; rm -f "$log"' INT TERM
echo "with real workers: acceptance, chaos"
"$BIN/python" -m pytest -q tests/acceptance tests/chaos
workers=$?
wait "$first"
code=$?
echo "all others: unit, integration, properties"
cat "$log"
rm -f "$log"
[ "$workers" -eq 0 ] && [ "$code" -eq 0 ]
