# Sourced by the other scripts: finds a Python, makes .venv, installs the project, and
# builds the native kernels if there is a C++ compiler.
#
#     source setup_environment.sh && setup_environment EXTRA...
#
# Goes to the root of the project and puts the environment first in PATH, so that
# `python` is its Python. Uses the active virtual or conda environment if there is one,
# else .venv. PYTHON names the interpreter that .venv is made with.

fail() {
  printf '\nerror: %s\n' "$1" >&2
  shift
  (($# == 0)) || printf '       %s\n' "$@" >&2
  exit 1
}

# The range of `python_requires = >=3.LOW,<3.HIGH` in setup.cfg.
read_python_range() {
  local line
  line=$(grep '^python_requires' setup.cfg)
  [[ $line =~ \>=3\.([0-9]+),\<3\.([0-9]+) ]] || fail "setup.cfg: cannot read '$line'"
  python_low=${BASH_REMATCH[1]}
  python_high=${BASH_REMATCH[2]}
  python_words="Python 3.$python_low to 3.$((python_high - 1))"
}

is_supported() { # INTERPRETER
  "$1" -c "import sys; sys.exit(not (3, $python_low) <= sys.version_info < (3, $python_high))" \
    2>/dev/null
}

version_of() { # INTERPRETER
  "$1" -c 'import sys; print("Python %d.%d.%d" % sys.version_info[:3])' 2>/dev/null ||
    echo "no Python that starts"
}

find_python() { # Prints the interpreter to make .venv with.
  local candidate minor
  if [[ -n ${PYTHON:-} ]]; then
    is_supported "$PYTHON" ||
      fail "tem_tf needs $python_words." "PYTHON=$PYTHON is $(version_of "$PYTHON")."
    echo "$PYTHON"
    return
  fi
  local candidates=()
  for ((minor = python_low; minor < python_high; minor++)); do
    candidates+=("python3.$minor")
  done
  candidates+=(python3 python)
  for candidate in "${candidates[@]}"; do
    # A command may be there and not start, as pyenv's are for versions not chosen.
    if is_supported "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  fail "tem_tf needs $python_words, and none was found." \
    "Looked for: ${candidates[*]}; python3 is $(version_of python3)." \
    "Install one, or name one: PYTHON=/path/to/python3.$python_low $0"
}

active_environment() { # Prints the active environment's directory, if any.
  if [[ -n ${VIRTUAL_ENV:-} ]]; then
    echo "$VIRTUAL_ENV"
  elif [[ -n ${CONDA_PREFIX:-} && ${CONDA_DEFAULT_ENV:-} != base ]]; then
    echo "$CONDA_PREFIX" # conda's base is active in every shell, chosen by nobody.
  fi
}

make_venv() {
  local python
  python=$(find_python)
  echo "Making .venv with $(version_of "$python") ..."
  # --clear: what is there does not start, or was left by an attempt that failed.
  "$python" -m venv --clear .venv || {
    rm -rf .venv
    fail "$python cannot make a virtual environment; its own message is above." \
      "Debian and Ubuntu keep that part apart: apt-get install python3-venv"
  }
}

install_project() { # EXTRA...
  # Installed is what a stamp says: one per extra, with the state it was installed in.
  local state extra stamps missing=0
  state="$PWD $(cksum <setup.cfg)"
  stamps=$(python -c 'import sys; print(sys.prefix)')
  for extra in "$@"; do
    [[ $(cat "$stamps/.tem_tf-$extra" 2>/dev/null) == "$state" ]] || missing=1
  done
  ((missing)) || return 0
  echo "Installing tem_tf and what it needs into $stamps (TensorFlow: 1.5 GB) ..."
  extra=$(IFS=,; echo "$*")
  python -m pip install --disable-pip-version-check --editable ".[$extra]" ||
    fail "The installation failed; pip's own message is above."
  for extra in "$@"; do
    echo "$state" >"$stamps/.tem_tf-$extra"
  done
}

build_native() { # A warning where it fails: tem_tf works without, more slowly.
  local state stamp
  state=$(cat setup.cfg tem_tf/native/*.py tem_tf/native/src/* | cksum)
  stamp=$(python -c 'import sys; print(sys.prefix)')/.tem_tf-native
  [[ $(cat "$stamp" 2>/dev/null) == "$state" ]] && return 0
  echo "Building the native kernels (once, about a minute) ..."
  if python -m tem_tf.native build; then
    echo "$state" >"$stamp"
  fi
}

setup_environment() { # EXTRA...
  cd "$(dirname "${BASH_SOURCE[0]}")/.."
  read_python_range
  local directory
  directory=$(active_environment)
  if [[ -n $directory ]]; then
    is_supported "$directory/bin/python" ||
      fail "tem_tf needs $python_words." \
        "The active environment, $directory, has $(version_of "$directory/bin/python")." \
        "Leave it (deactivate, conda deactivate) and start again to have one made."
  else
    directory=$PWD/.venv
    if ! is_supported "$directory/bin/python" ||
      ! "$directory/bin/python" -c 'import pip' 2>/dev/null; then
      make_venv
    fi
  fi
  export PATH="$directory/bin:$PATH"
  install_project "$@"
  build_native
}
