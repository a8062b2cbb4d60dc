# Sourced by scripts/demo and scripts/test: makes .venv and installs into it what pyproject.toml asks for.
# Quiet about what goes well; the whole log is shown where something does not.

cd "$(dirname "${BASH_SOURCE[0]}")/.."
export OMP_WAIT_POLICY=passive  # spinning threads make steps several times slower on a busy machine

fail() { echo "$1" >&2; exit 1; }

find_python() {
    for name in "${PYTHON:-}" python3.11 python3.12 python3.10 python3; do
        [ -n "$name" ] && command -v "$name" >/dev/null &&
            "$name" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null &&
            { echo "$name"; return; }
    done
    return 1
}

quietly() {  # quietly WHAT COMMAND…: run it; on failure say what, and show its output
    local what=$1 log
    shift
    log=$(mktemp)
    if ! "$@" >"$log" 2>&1; then
        cat "$log" >&2
        rm -f "$log"
        fail "$what failed; its output is above."
    fi
    rm -f "$log"
}

set_up() {  # set_up [EXTRA]: install the package, editable, with the extra's dependencies
    local extra=${1:-} stamp python
    if [ ! -x .venv/bin/python ]; then
        python=$(find_python) || fail "Python 3.10, 3.11 or 3.12 is needed; install one or set PYTHON to its path."
        quietly "Making .venv with $python" "$python" -m venv .venv
    fi
    # The stamp says for which pyproject.toml and which extra the installation was finished.
    stamp=".venv/.installed${extra:+-$extra}"
    if ! cmp -s pyproject.toml "$stamp"; then
        echo "Installing into .venv (about 8 GB with torch; 3 to 10 minutes the first time)…"
        quietly "Installation" .venv/bin/python -m pip install --disable-pip-version-check -q -e ".${extra:+[$extra]}"
        .venv/bin/python -c "from chopgrad_ns.data.open3d_import import lend_libusb; lend_libusb()"
        cp pyproject.toml "$stamp"
    fi
}

set_up_browser() {  # Chromium, for the tests of the report page, where it can be installed without a password
    local as_root=
    if command -v chromedriver && { command -v chromium || command -v google-chrome || command -v chromium-browser; }; then
        return
    fi >/dev/null
    [ "$(id -u)" = 0 ] || as_root="sudo -n"
    echo "Installing Chromium for the tests of the report page…"
    if ! timeout 300 $as_root apt-get -o Acquire::Retries=0 -o Acquire::http::Timeout=20 update ||
            ! timeout 300 $as_root apt-get install -y --no-install-recommends chromium chromium-driver; then
        echo "Chromium cannot be installed here, so the tests of the report page are skipped." >&3
    fi 3>&1 >/dev/null 2>&1
}

set_up_waymo() {  # its pins cannot be met beside a current torch; without them its protos work
    quietly "Installing the Waymo dataset package" .venv/bin/python -m pip install --disable-pip-version-check -q \
        --no-deps waymo-open-dataset-tf-2-12-0==1.6.7
}
