# Sourced by the other scripts: makes .venv beside them, once for each state of pyproject.toml, and activates it.
# Usage: extras=dev; . scripts/venv.sh   (a shell need not pass arguments to a sourced file)
set -eu
cd "$(dirname "$0")/.."
venv="${HEARTHNET_VENV:-.venv}"
stamp="$venv/.installed-${extras:-plain}"
if [ ! -x "$venv/bin/python" ]; then
    "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "error: Python 3.11 or newer is needed (set PYTHON=/path/to/python3)" >&2
        exit 1
    }
    echo "setting up $venv" >&2
    "${PYTHON:-python3}" -m venv "$venv" || {
        echo "error: python3 -m venv failed; on Debian: apt-get install python3-venv" >&2
        exit 1
    }
fi
if [ ! -f "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
    echo "installing hearthnet${extras:+[$extras]} into $venv" >&2
    "$venv/bin/pip" install --quiet --disable-pip-version-check -e ".${extras:+[$extras]}" >&2
    touch "$stamp"
fi
PATH="$PWD/$venv/bin:$PATH"
export PATH
