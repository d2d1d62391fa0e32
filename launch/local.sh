#!/usr/bin/env bash
# The way in on a bare machine: makes .venv from constraints.txt when they changed, then runs.
#   bash launch/local.sh quickstart --out runs/quickstart      any word of rqjax and its flags
#   bash launch/local.sh --processes 2 train --config ...      the same as so many processes joined over localhost, each
#                                                              with DEVICES (1) fake devices; status 75 restarts them
#   bash launch/local.sh test [PYTEST ARGUMENTS]               formatting, types and tests
#   bash launch/local.sh pod-test [PYTEST ARGUMENTS]           the slow proofs: processes, faults, launchers, large models
# Needs Python >= 3.11 (PYTHON names another interpreter) and a package index.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { printf 'launch/local.sh: %s\n' "$1" >&2; exit 2; }

python=${PYTHON:-python3}
command -v "$python" >/dev/null || fail "no $python found: install Python >= 3.11 or set PYTHON"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
  || fail "$("$python" --version) found, Python >= 3.11 needed: set PYTHON to one"

install() {
  stamp=.venv/installed
  if [ -f "$stamp" ] && cmp -s "$stamp" <(cat constraints.txt pyproject.toml); then return; fi
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  echo "installing into .venv ..." >&2
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]' >&2
  cat constraints.txt pyproject.toml > "$stamp"
}

# Ends what still runs of `pids`: gently, then not.
end_all() {
  kill -TERM "${pids[@]}" 2>/dev/null || true
  for _ in $(seq 50); do
    kill -0 "${pids[@]}" 2>/dev/null || break
    sleep 0.1
  done
  kill -KILL "${pids[@]}" 2>/dev/null || true
}

# One run of "$@" by $processes processes. Returns the status of the first that fails; the others cannot go on then.
together() {
  local port i ended=0 failed=0
  port=$(.venv/bin/python -c 'import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])')
  pids=()
  for ((i = 0; i < processes; i++)); do
    JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=${DEVICES:-1} RQJAX_COORDINATOR=localhost:$port RQJAX_PROCESSES=$processes \
      RQJAX_PROCESS_ID=$i .venv/bin/rqjax "$@" > >(trap '' TERM INT; exec sed -u "s/^/[$i] /") 2>&1 &
    pids+=($!)
  done
  while [ "$ended" -lt "$processes" ]; do
    sleep 0.2
    for i in "${!pids[@]}"; do
      if kill -0 "${pids[i]}" 2>/dev/null; then continue; fi
      status=0
      wait "${pids[i]}" || status=$?
      unset 'pids[i]'
      ended=$((ended + 1))
      if [ "$status" != 0 ] && [ "$failed" = 0 ]; then failed=$status; fi
      if [ "$failed" != 0 ] && [ "$failed" != 75 ] && [ "$ended" -lt "$processes" ]; then end_all; fi
    done
  done
  return "$failed"
}

several() {
  case $processes in '' | *[!0-9]* | 0) fail "--processes is '$processes': expected a number" ;; esac
  stopping=false
  trap 'stopping=true; kill -TERM "${pids[@]}" 2>/dev/null || true' TERM
  trap 'stopping=true; end_all' INT
  while true; do
    status=0
    together "$@" || status=$?
    if [ "$status" != 75 ] || $stopping; then return "$status"; fi
    echo "launch/local.sh: restarting" >&2
  done
}

processes=''
case ${1:-} in
  --processes=*) processes=${1#*=} && shift ;;
  --processes) processes=${2:-?} && shift && shift ;;
esac
[ $# -gt 0 ] || { sed -n '2,9p' "$0" | cut -c3-; exit 2; }
install
if [ -n "$processes" ]; then
  several "$@"
  exit
fi
case $1 in
  test)
    shift
    .venv/bin/ruff format --check .
    .venv/bin/ruff check .
    .venv/bin/pyrefly check
    exec .venv/bin/python -m pytest -q -n 2 --dist loadscope "$@"  # a file's fixtures are made once, for all its tests
    ;;
  pod-test)
    shift
    exec .venv/bin/python -m pytest -q -m slow -n 2 --dist loadscope "$@"
    ;;
  *) exec .venv/bin/rqjax "$@" ;;
esac
