#!/usr/bin/env bash
# The way in on a bare machine: makes .venv from constraints.txt when they changed, then runs.
#   bash launch/local.sh quickstart --out runs/quickstart      any word of rqjax and its flags
#   bash launch/local.sh test [PYTEST ARGUMENTS]               formatting, types and tests
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

[ $# -gt 0 ] || { sed -n '2,5p' "$0" | cut -c3-; exit 2; }
install
case $1 in
  test)
    shift
    .venv/bin/ruff format --check .
    .venv/bin/ruff check .
    .venv/bin/pyrefly check
    exec .venv/bin/python -m pytest -q -n 2 "$@"
    ;;
  *) exec .venv/bin/rqjax "$@" ;;
esac
