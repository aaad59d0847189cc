# Sourced by ./quickstart and ./test: `environment [EXTRAS]` makes or reuses .venv, `say` prints a heading.
# An interrupted installation is finished by the next call: the stamp is written last.

say() { printf '\n== %s\n' "$*"; }

environment() {
    local extras=${1:-} python=${PYTHON:-python3} stamp want
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
        echo "Polyfield needs python3 >= 3.10; found: $("$python" --version 2>&1 || echo none). Set PYTHON to another one." >&2
        exit 2
    fi
    if ! [ -x .venv/bin/python ] || ! .venv/bin/python -c '' 2>/dev/null; then
        rm -rf .venv
        if ! "$python" -m venv .venv; then
            rm -rf .venv
            echo "Could not create .venv; on Debian or Ubuntu: apt-get install python3-venv python3-pip" >&2
            exit 2
        fi
    fi
    want="$(cat pyproject.toml constraints.txt | cksum) $extras $PWD"
    stamp=.venv/polyfield-stamp${extras:+-$extras}
    if [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then
        return
    fi
    say "installing into .venv (once)"
    rm -f "$stamp"
    # torch first and pinned: the pinned version has a small CPU build.
    .venv/bin/python -m pip install --quiet --disable-pip-version-check "$(grep '^torch==' constraints.txt)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".${extras:+[$extras]}"
    printf '%s' "$want" > "$stamp"
}
