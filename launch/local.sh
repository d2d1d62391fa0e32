#!/usr/bin/env bash
# The way in on a bare machine: makes .venv from constraints.txt when they changed, then runs.
#   bash launch/local.sh quickstart --out runs/quickstart      any word of rqjax and its flags
#   bash launch/local.sh --processes 2 train --config ...      the same as so many processes joined over localhost, each
#                                                              with DEVICES (1) fake devices; status 75 restarts them.
#                                                              Once one has ended, or all were told to, the rest have
#                                                              PATIENCE (60) seconds, then GRACE (5) to end by themselves
#   bash launch/local.sh test [PYTEST ARGUMENTS]               formatting, types and tests
#   bash launch/local.sh pod-test [PYTEST ARGUMENTS]           the slow proofs: processes, faults, launchers, large models
#   bash launch/local.sh notebooks-test [PYTEST ARGUMENTS]     launch/*.ipynb from top to bottom on the CPU
# Needs Python >= 3.11 (PYTHON names another interpreter) and a package index. Where an NVIDIA card or a TPU answers, what
# it needs is installed too. .venv is the checkout's; other relative paths are those of the folder that you call from.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv

fail() { printf 'launch/local.sh: %s\n' "$1" >&2; exit 2; }

python=${PYTHON:-python3}
command -v "$python" >/dev/null || fail "no $python found: install Python >= 3.11 or set PYTHON"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
  || fail "$("$python" --version) found, Python >= 3.11 needed: set PYTHON to one"

# The extra of pyproject.toml that a word of rqjax needs on this machine; none for most on a CPU.
extra_for() {
  local hardware word=
  case $1 in
    test) echo dev; return ;;
    pod-test) echo dev,browser; return ;;
    notebooks-test) echo notebooks; return ;;
    compile) echo compile; return ;;
    demo) word=demo ;;
  esac
  hardware=$(hardware)
  echo "$word${word:+${hardware:+,}}$hardware"
}

# The extra of the hardware that answers; none for a CPU.
hardware() {
  local driver
  [ -z "$processes" ] || return 0  # joined over localhost, they run on fake devices
  if driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1) && [ -n "$driver" ]; then
    # CUDA 13 needs a driver of the 580 series
    if [ "${driver%%.*}" -ge 580 ] 2>/dev/null; then echo cuda13; else echo cuda12; fi
  elif compgen -G '/dev/accel[0-9]*' >/dev/null; then
    echo tpu
  fi
}

# Brings the package with the extra $1 into .venv, unless a stamp says that this checkout, here, has done so.
install() {
  local stamp=$venv/installed-${1:-base} wanted
  wanted=$(echo "$root"; cat "$root/constraints.txt" "$root/pyproject.toml")
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then return; fi
  # the programs of a checkout that was moved still point to where it was
  if [ -f "$venv/made-in" ] && [ "$(cat "$venv/made-in")" != "$root" ]; then rm -rf "$venv"; fi
  if ! [ -x "$venv/bin/python" ]; then
    "$python" -c 'import ensurepip, venv' 2>/dev/null \
      || fail "$python cannot make .venv (no ensurepip): install it (Debian, Ubuntu: apt install python3-venv), or set PYTHON"
    "$python" -m venv "$venv"
    echo "$root" > "$venv/made-in"
  fi
  echo "installing into .venv${1:+, with $1} ..." >&2
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c "$root/constraints.txt" -e "$root${1:+[$1]}" >&2
  echo "$wanted" > "$stamp"
}

# Ends what still runs of `pids`: gently, then, after so many ($grace) seconds, not.
end_all() {
  kill -TERM "${pids[@]}" 2>/dev/null || true
  for _ in $(seq $((10 * ${1:-$grace}))); do
    kill -0 "${pids[@]}" 2>/dev/null || break
    sleep 0.1
  done
  kill -KILL "${pids[@]}" 2>/dev/null || true
}

# Ends the processes if this script is killed: nobody else would.
guard() {
  trap '' HUP
  while kill -0 $$ 2>/dev/null; do sleep 1; done
  end_all "$patience"
}

# One run of "$@" by $processes processes. Returns the status of the first that fails; the others cannot go on then.
together() {
  local port i guard ended=0 failed=0 ticks=0
  port=$("$venv/bin/python" -c 'import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])')
  pids=()
  for ((i = 0; i < processes; i++)); do
    JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=${DEVICES:-1} RQJAX_COORDINATOR=localhost:$port RQJAX_PROCESSES=$processes \
      RQJAX_PROCESS_ID=$i "$venv/bin/rqjax" "$@" > >(trap '' TERM INT HUP; exec sed -u "s/^/[$i] /") 2>&1 &
    pids+=($!)
  done
  guard >/dev/null 2>&1 &
  guard=$!
  while [ "$ended" -lt "$processes" ]; do
    sleep 0.2
    if [ "$ended" != 0 ] || $stopping; then ticks=$((ticks + 1)); fi
    if [ "$ticks" -gt $((5 * patience)) ]; then end_all; fi
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
  kill "$guard" 2>/dev/null || true
  return "$failed"
}

several() {
  case $processes in '' | *[!0-9]* | 0) fail "--processes is '$processes': expected a number" ;; esac
  stopping=false
  trap 'stopping=true; kill -TERM "${pids[@]}" 2>/dev/null || true' TERM HUP  # of a terminal: as a preemption
  trap 'stopping=true; end_all' INT
  while true; do
    status=0
    together "$@" || status=$?
    if [ "$status" != 75 ] || $stopping; then return "$status"; fi
    echo "launch/local.sh: restarting" >&2
  done
}

processes='' patience=${PATIENCE:-60} grace=${GRACE:-5}
case ${1:-} in
  --processes=*) processes=${1#*=} && shift ;;
  --processes) processes=${2:-?} && shift && shift ;;
esac
[ $# -gt 0 ] || { sed -n '2,12p' "$0" | cut -c3-; exit 2; }
extra=$(extra_for "$1")
install "$extra"
if [ -n "$processes" ]; then
  several "$@"
  exit
fi
case $1 in
  test)
    shift
    cd "$root"
    .venv/bin/ruff format --check .
    .venv/bin/ruff check .
    .venv/bin/pyrefly check
    exec .venv/bin/python -m pytest -q -n 2 --dist loadscope "$@"  # a file's fixtures are made once, for all its tests
    ;;
  pod-test)
    shift
    cd "$root"
    exec .venv/bin/python -m pytest -q -m 'slow and not notebook' -n 2 --dist loadscope "$@"
    ;;
  notebooks-test)
    shift
    cd "$root"
    exec .venv/bin/python -m pytest -q -m notebook -n 2 --durations=0 "$@" tests/notebooks
    ;;
  *) exec "$venv/bin/rqjax" "$@" ;;
esac
