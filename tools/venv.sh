# Sourced by the other tools and .ci/run: the virtual environment .venv in the checkout's root, and the compiled package.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

# install_debian PACKAGE...: as root or with sudo. Where that is impossible it fails, and says what to do.
install_debian() {
    local as_root=()
    if ! command -v apt-get >/dev/null; then
        say "please install: $* (there is no apt-get here to do it with)"
        return 1
    fi
    say "installing Debian packages: $*"
    if [ "$(id -u)" -ne 0 ]; then
        as_root=(sudo)
        # Without a terminal nobody can type a password.
        [ -t 0 ] || as_root+=(-n)
        if ! "${as_root[@]}" true; then
            say "please run, as root: apt-get install $*"
            return 1
        fi
    fi
    "${as_root[@]}" apt-get -qq update </dev/null >&2
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq install --no-install-recommends -y "$@" </dev/null >/dev/null # its messages go to stderr
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

# make_venv: makes $venv, unless it is there and works.
make_venv() {
    local python
    # The scripts in it do not work after the checkout was moved or copied, or its Python was removed.
    if [ "$(cat "$venv/.root" 2>/dev/null)" = "$root" ] && "$venv/bin/python" -c '' 2>/dev/null; then
        return
    fi
    python=$(find_python) || { install_debian python3 python3-venv && python=$(find_python); } || {
        say "Python 3.11 or later is needed; set PYTHON to one if it is not on the PATH"
        return 1
    }
    "$python" -c 'import ensurepip, venv' 2>/dev/null || install_debian python3-venv
    say "making $venv with $("$python" -V)"
    "$python" -m venv --clear "$venv"
    printf '%s\n' "$root" >"$venv/.root"
}

# ensure_venv [EXTRA]: the virtual environment with this checkout and its dependencies in it. It needs no network if
# setup.cfg and pyproject.toml have not changed since it last ran for EXTRA. Every EXTRA includes what no EXTRA installs.
ensure_venv() {
    local extra=${1:-} wanted
    make_venv
    wanted=$(cat "$root/setup.cfg" "$root/pyproject.toml" | cksum)
    if ! grep -qsxF "$wanted" "$venv/.installed-$extra"*; then
        say "installing dependencies into $venv${extra:+ (for $extra)}"
        # Never compiled, so that it runs the source files of the checkout.
        env -u RTMP_TWISTED_COMPILE \
            "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$root${extra:+[$extra]}" \
            </dev/null >&2
        printf '%s\n' "$wanted" >"$venv/.installed-$extra"
    fi
}

# ensure_compiled: with RTMP_TWISTED_COMPILE=1, the package is compiled and installed into build/compiled, and that is put in
# front of Python's search path. Otherwise nothing.
ensure_compiled() {
    local compiled=$root/build/compiled wanted headers missing=()
    [ "${RTMP_TWISTED_COMPILE:-}" = 1 ] || return 0
    export PYTHONPATH=$compiled
    wanted=$(cd "$root" && find setup.* pyproject.toml rtmp_twisted twisted -name '*.py' -o -name '*.cfg' -o -name '*.toml' |
        LC_ALL=C sort | xargs cat | cksum; "$venv/bin/python" -V)
    [ "$(cat "$compiled/.made-of" 2>/dev/null)" != "$wanted" ] || return 0
    command -v gcc >/dev/null || missing+=(gcc libc6-dev)
    headers=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    [ -e "$headers/Python.h" ] || missing+=(python3-dev)
    [ ${#missing[@]} -eq 0 ] || install_debian "${missing[@]}"
    say "compiling into $compiled"
    rm -rf "$compiled"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$compiled" "$root" \
        </dev/null >&2
    printf '%s\n' "$wanted" >"$compiled/.made-of"
}
