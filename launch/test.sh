#!/usr/bin/env bash
# Installs what the tests need, then runs the linters and the whole suite.
#
#     ./launch/test.sh                                      # everything
#     ./launch/test.sh -m "not slow and not multi_worker"   # tests: three minutes
#
# Arguments go to pytest. TEM_TF_DATA may name a directory of real data for the tests
# that want it (see README.md); they are skipped without.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/setup_environment.sh"
setup_environment studies test

echo "== ruff and pyright"
ruff check .
ruff format --check .
pyright

echo "== pytest"
# In two processes, which take files in the order of tests/conftest.py. `-n 0` among the
# arguments runs all in one, as plain pytest does.
exec python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=15 "$@"
