#!/usr/bin/env bash
# Installs what the tests need, then runs the linters and the whole suite.
#
#     ./launch/test.sh                                      # everything
#     ./launch/test.sh -m "not slow and not multi_worker"   # under two minutes
#
# Arguments go to pytest. TEM_TF_DATA may name a directory of real data for the tests
# that want it (see README.md); they are skipped without.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/setup_environment.sh"
setup_environment main test

echo "== ruff and pyright"
ruff check .
ruff format --check .
pyright

echo "== pytest"
exec python -m pytest --durations=15 "$@"
