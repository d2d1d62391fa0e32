#!/usr/bin/env bash
# The half of launch/tpu.sh that every worker of a TPU slice runs, in ~/rqjax: install | sweep | start WORDS OF RQJAX.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { printf 'launch/worker.sh on %s: %s\n' "$(hostname)" "$1" >&2; exit 2; }

suitable() { "$1" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
  for name in python3.13 python3.12 python3.11 python3; do
    if command -v "$name" >/dev/null && suitable "$name"; then command -v "$name"; return; fi
  done
  # the images of TPU VMs have Python 3.10: uv brings a newer one without touching the system
  python3 -m pip install --user --quiet --disable-pip-version-check uv >&2
  python3 -m uv python install --quiet 3.12 >&2
  python3 -m uv python find 3.12
}

install() {
  if [ ! -x .venv/bin/python ]; then
    python=$(find_python) || fail "no Python >= 3.11, and uv could not bring one"
    "$python" -m venv .venv
  fi
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[tpu]'
}

# Ends what an earlier start left behind: after a broken connection it would still hold the TPU.
sweep() {
  if [ -s started/group ]; then
    group=$(cat started/group)
    kill -TERM -- "-$group" 2>/dev/null || true
    for _ in $(seq 100); do
      kill -0 -- "-$group" 2>/dev/null || break
      sleep 0.1
    done
    kill -KILL -- "-$group" 2>/dev/null || true
  fi
  rm -rf started
}

# Runs rqjax apart from the connection, and shows its output until it ends. gcloud repeats a command whose connection
# broke: the second start after one sweep goes on showing what the first one runs.
start() {
  shown=10
  if mkdir started 2>/dev/null; then
    shown=+1
    # shellcheck disable=SC2016  # for the inner shell; `trap :` lets it outlive a SIGTERM, to note how rqjax ended
    setsid bash -c 'trap : TERM; exec > started/log 2>&1; echo $$ > started/group
      .venv/bin/rqjax "$@"; echo $? > started/status' rqjax "$@" < /dev/null &
    until [ -s started/group ]; do sleep 0.1; done
  fi
  tail -n "$shown" -f --pid="$(cat started/group)" started/log | sed -u "s/^/[$(hostname)] /"
  exit "$(cat started/status 2>/dev/null || echo 137)" # no status: killed
}

case ${1:-} in
  install | sweep | start) "$@" ;;
  *) fail "expected install, sweep or start" ;;
esac
