# Sourced by scripts/test --lowest: makes .venv-lowest with the lowest versions that pyproject.toml allows, and sets the
# arguments to the tests that exercise them, unless some are named.
set -eu
cd "$(dirname "$0")/.."
venv="${HEARTHNET_VENV_LOWEST:-.venv-lowest}"
stamp="$venv/.installed-lowest"
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
if [ ! -f "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
    echo "installing the lowest versions into $venv" >&2
    "$venv/bin/python" scripts/lowest.py >"$venv/lowest.txt"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$venv/lowest.txt" -e '.[node,otel,otlp]' >&2
    "$venv/bin/python" scripts/lowest.py --installed
    touch "$stamp"
fi
PATH="$PWD/$venv/bin:$PATH"
export PATH
case " $* " in
*" tests"*) ;;
*)
    o=tests/observability
    # Beside a line: what it exercises. Event loops that old test clients leave to the garbage collector are no failure.
    set -- -n auto --dist worksteal -W ignore::pytest.PytestUnraisableExceptionWarning \
        tests/test_config.py tests/test_locations.py            `# pydantic, platformdirs, tomli-w` \
        tests/test_queries.py tests/cli                         `# click, rich` \
        tests/identity tests/bus                                `# cryptography, jsonschema` \
        tests/client tests/services tests/transport             `# fastapi, httptools, httpx, uvicorn` \
        $o/test_metrics.py $o/test_instrument*.py $o/test_telemetry_metrics.py `# prometheus_client` \
        $o/test_telemetry.py $o/store/test_writer*.py $o/store/test_rows.py    `# aiosqlite` \
        $o/records/test_ids.py $o/records/test_record.py                      `# python-ulid, orjson` \
        $o/otel                                                               `# opentelemetry-api and -proto` \
        "$@"
    ;;
esac
