#!/usr/bin/env bash
# Runs the plugin's tests under several versions of Python, TensorFlow and Keras, and
# prints a Markdown table of what passed.
#
#     ./launch/compatibility.sh --list                 # the rows
#     ./launch/compatibility.sh                        # all rows, all tests: hours
#     ./launch/compatibility.sh --quick                # without slow tests and workers
#     ./launch/compatibility.sh --quick --oldest       # the first row alone: six minutes
#     ./launch/compatibility.sh --rows 'py3.14*' py3.11-tf2.21.0-keras3.15.1
#
# Rows are named by their versions; `*` stands for anything. Each has an environment of
# its own in .compatibility/ROW, about 2 GB, which is kept for the next time, and logs in
# .compatibility/logs. The table goes to the output, everything else to the errors:
#
#     ./launch/compatibility.sh --quick >table.md
#
# A Python is looked for as python3.11 and so on, and among pyenv's. The studies' tests
# are no part of this: they belong to the versions that setup.cfg installs.
set -euo pipefail

# Python, TensorFlow, Keras, the oldest first. "nightly" is the newest of Keras's nightly builds.
ROWS="
3.11  2.16.2     3.11.3
3.11  2.17.1     3.11.3
3.11  2.18.1     3.12.4
3.11  2.19.1     3.12.4
3.11  2.20.0     3.15.1
3.11  2.21.0     3.15.1
3.12  2.21.0     3.15.1
3.13  2.21.0     3.15.1
3.12  2.22.0rc0  nightly
3.14  2.22.0rc0  nightly
"

# What the tests import beyond TensorFlow, Keras and the standard library.
TOOLS=(build hypothesis jsonschema pytest pytest-timeout pytest-xdist scikit-learn setuptools
  tensorboard twine wheel)

source "$(dirname "${BASH_SOURCE[0]}")/setup_environment.sh"
cd "$(dirname "${BASH_SOURCE[0]}")/.."

TESTS=(tests/test_*.py tests/checkpoint tests/cluster tests/multi_worker tests/launch)
STUDIES=(--ignore tests/multi_worker/test_workloads.py)

say() { printf '%s\n' "$*" >&2; }

name_of() { echo "py$1-tf$2-keras${3/#nightly/-nightly}"; } # PYTHON TENSORFLOW KERAS

is_chosen() { # NAME
  local pattern
  ((${#patterns[@]})) || return 0
  for pattern in "${patterns[@]}"; do
    # shellcheck disable=SC2053 # It is a pattern.
    [[ $1 == $pattern ]] && return 0
  done
  return 1
}

interpreter() { # VERSION: prints the path of that Python, if there is one.
  local candidates=("python$1") candidate
  if command -v pyenv >/dev/null; then
    candidates+=("$(pyenv root)/versions/$1".*/bin/python)
  fi
  for candidate in "${candidates[@]}"; do
    # A command may be there and not start, as pyenv's are for versions not chosen.
    if "$candidate" -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != sys.argv[1])' \
      "$1" 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  return 1
}

install() { # DIRECTORY TENSORFLOW KERAS
  local keras="keras==$3" pip=("$1/bin/python" -m pip --disable-pip-version-check)
  [[ $3 != nightly ]] || keras="keras-nightly"
  "${pip[@]}" install --upgrade "tensorflow==$2" "$keras" "${TOOLS[@]}" || return
  # A release candidate asks for the nightly build, in the same folder as a release.
  if [[ $3 != nightly ]] && "${pip[@]}" show --quiet keras-nightly; then
    "${pip[@]}" uninstall --yes keras keras-nightly &&
      "${pip[@]}" install --no-deps "$keras" || return
  fi
}

table_row() { # REPORT SECONDS: reads pytest's JUnit file, prints a row of the table.
  python - "$@" <<'PYTHON'
import collections
import datetime
import importlib.metadata
import platform
import sys
import xml.etree.ElementTree

report, seconds = sys.argv[1:]
counts, reasons = collections.Counter(), collections.Counter()
for case in xml.etree.ElementTree.parse(report).iter("testcase"):
    kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
    counts[min(kinds, default="passed")] += 1  # "error" and "failure" come first.
    for skipped in case.findall("skipped"):
        reasons[skipped.get("message")] += 1


def version(*names):
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass


skipped = str(counts["skipped"])
if reasons:
    listed = "; ".join(f"{number} {reason}" for reason, number in reasons.items())
    skipped += f" ({listed})"
cells = [
    *(platform.python_version(), version("tensorflow")),
    *(version("keras", "keras-nightly"), version("numpy")),
    *(counts["passed"], skipped, counts["failure"] + counts["error"]),
    *(f"{int(seconds) / 60:.0f}", datetime.date.today()),
]
print("|", " | ".join(map(str, cells)), "|", flush=True)
PYTHON
}

run_row() { # PYTHON TENSORFLOW KERAS; fails if a test does, or if none could run.
  local name directory log python began status=0
  name=$(name_of "$@")
  directory=.compatibility/$name
  log=.compatibility/logs/$name
  say "== $name"
  if ! python=$(interpreter "$1"); then
    say "There is no python$1 here."
    echo "| $1 | $2 | $3 | | | there is no python$1 here | | | $(date +%F) |"
    return
  fi
  if [[ ! -x $directory/bin/python ]]; then
    "$python" -m venv --clear "$directory" >&2 || return
  fi
  say "Installing: $log-pip.log"
  if ! install "$directory" "$2" "$3" >"$log-pip.log" 2>&1; then
    tail -n 5 "$log-pip.log" >&2
    echo "| $1 | $2 | $3 | | | cannot be installed | | | $(date +%F) |"
    return 1
  fi
  say "Testing: $log-tests.log"
  began=$SECONDS
  (
    PATH="$PWD/$directory/bin:$PATH"
    # Libraries of other versions stay out of the user's cache.
    export XDG_CACHE_HOME="$PWD/.compatibility/cache" PYTHONPATH="$PWD"
    rm -f "$log.xml"
    {
      python -m tem_tf.native build || echo "Testing without the native kernels."
      python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -ra \
        --junit-xml "$log.xml" -o junit_logging=no \
        "${STUDIES[@]}" "${selection[@]}" "${TESTS[@]}"
    } >"$log-tests.log" 2>&1 || status=$?
    grep -E '^(FAILED|ERROR) ' "$log-tests.log" >&2 || true
    tail -n 1 "$log-tests.log" >&2
    if [[ -f $log.xml ]]; then
      table_row "$log.xml" $((SECONDS - began))
    else
      echo "| $1 | $2 | $3 | | | pytest did not start | | | $(date +%F) |"
    fi
    exit "$status"
  )
}

usage() {
  fail "cannot read the arguments: $1" \
    "usage: $0 [--quick] [--list] [--oldest] [--rows NAME...]; see its first lines."
}

selection=()
patterns=()
list=0
oldest=0
while (($#)); do
  case $1 in
    --quick) selection=(-m "not slow and not multi_worker") ;;
    --list) list=1 ;;
    --oldest) oldest=1 ;;
    --rows)
      while (($# > 1)) && [[ $2 != --* ]]; do
        patterns+=("$2")
        shift
      done
      ((${#patterns[@]})) || usage "--rows without a name"
      ;;
    *) usage "$1" ;;
  esac
  shift
done

chosen=()
while read -r python tensorflow keras; do
  [[ -n $python ]] || continue
  name=$(name_of "$python" "$tensorflow" "$keras")
  if is_chosen "$name"; then
    chosen+=("$python $tensorflow $keras")
    ((list)) && echo "$name"
  fi
done <<<"$ROWS"
((${#chosen[@]})) || usage "no row is named ${patterns[*]}; --list shows them"
((list)) && exit
((!oldest)) || chosen=("${chosen[0]}")

mkdir -p .compatibility/logs
echo "| Python | TensorFlow | Keras | NumPy | passed | skipped | failed | minutes | date |"
echo "|---|---|---|---|---|---|---|---|---|"
failed=0
for row in "${chosen[@]}"; do
  read -r python tensorflow keras <<<"$row"
  run_row "$python" "$tensorflow" "$keras" || failed=1
done
exit $failed
