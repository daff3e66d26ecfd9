#!/bin/sh
# Makes .venv and installs the locked set into it. Takes a Python 3.11+ and nothing else; says everything on stderr.
# A machine without a GPU must not download CUDA packages: a folder of wheels that pip is configured with is passed on
# to uv, and where none is configured uv is asked for the CPU build.
set -eu
exec 1>&2
cd "$(dirname "$0")"
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "weft: needs Python 3.11 or newer, and $python is $("$python" -V). Set PYTHON=/path/to/python3.11."; exit 1; }
[ -x .venv/bin/python ] || "$python" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check uv
links=$(.venv/bin/python -m pip config list 2>/dev/null | sed -n "s/^.*find-links='\(.*\)'$/\1/p" | head -n 1)
if [ -n "$links" ]; then
    UV_FIND_LINKS=$(printf '%s' "$links" | sed 's/\\n/,/g; s/ /,/g')
    export UV_FIND_LINKS
elif ! command -v nvidia-smi >/dev/null 2>&1; then
    export UV_TORCH_BACKEND=cpu
fi
install() { .venv/bin/uv pip install --quiet --python .venv/bin/python "$@"; }
install -r requirements.lock || {
    # The CPU index may be out of reach; the lock then installs what the configured index has.
    [ -n "${UV_TORCH_BACKEND:-}" ] || exit 1
    echo "weft: the CPU build of torch is out of reach, taking the index's own."
    unset UV_TORCH_BACKEND
    install -r requirements.lock; }
install --no-deps -e .
# libp2p brings trio-typing, whose outdated stubs would hide trio's own types from mypy.
rm -rf .venv/lib/python3*/site-packages/trio-stubs
# Every daemon, worker and command is a process of its own: byte code made once halves the time that each needs to start.
.venv/bin/python -m compileall -q -j 0 -x '/(transformers|sympy|networkx|huggingface_hub|pip|mypy)/' \
    .venv/lib/python3*/site-packages >/dev/null || true
