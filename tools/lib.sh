# Shell functions that the commands in tools/ share. Source it; it only defines things.
#   need_packages [PROFILE…]   install what bindep.txt lists and dpkg does not have
#   need_venv                  make or refresh .venv
#   step LABEL COMMAND…        run a slow command with its progress visible
#   again COMMAND…             run a command up to three times, until it succeeds

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=$TOP/.cache
VENV=$TOP/.venv
export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export PIP_DISABLE_PIP_VERSION_CHECK=1
export PIP_DEFAULT_TIMEOUT=${PIP_DEFAULT_TIMEOUT:-60}
AGAIN_SECONDS=${AGAIN_SECONDS:-15}

say() { printf '%s\n' "$*"; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; return; fi
    command -v sudo >/dev/null || die "root is needed for: $*. Run this as root, or install sudo."
    sudo "$@"
}

# Output goes to a log; the terminal shows the time that passes, and the log's end on failure.
step() {
    local label=$1 log pid begin=$SECONDS status=0 shown=0
    shift
    mkdir -p "$CACHE"
    log=$CACHE/step-${label//[^a-zA-Z0-9]/-}.log
    "$@" >"$log" 2>&1 </dev/null &
    pid=$!
    while kill -0 "$pid" 2>/dev/null; do
        sleep 0.2
        if [ -t 1 ]; then
            printf '\r\033[K  %s … %ds' "$label" $((SECONDS - begin))
        elif [ $((SECONDS - begin)) -ge $((shown + 10)) ]; then
            shown=$((SECONDS - begin))
            say "  $label … ${shown}s"
        fi
    done
    wait "$pid" || status=$?
    if [ -t 1 ]; then printf '\r\033[K'; fi
    if [ $status = 0 ]; then
        say "  $label: done in $((SECONDS - begin))s"
    else
        say "  $label: failed after $((SECONDS - begin))s, nothing later was started. The end of $log:" >&2
        tail -n 20 "$log" >&2
    fi
    return $status
}

# Archives and package indexes are slow or away at times.
again() {
    local left=2
    until "$@"; do
        [ $left -gt 0 ] || return 1
        say "  trying again in ${AGAIN_SECONDS}s, $left times at most"
        sleep "$AGAIN_SECONDS"
        left=$((left - 1))
    done
}

# One writer at a time: two commands started together must not install twice.
locked() {
    mkdir -p "$CACHE"
    (
        flock -w 1800 9 || die "another command has been installing for 30 minutes; see $CACHE/*.log"
        "$@" 9>&-
    ) 9>"$CACHE/install.lock"
}

# bindep.txt: NAME [PROFILE …]; a line without a profile is always wanted.
listed_packages() {
    awk -v wanted=" $* " '
        { sub(/#.*/, "") } !NF { next }
        NF == 1 { print $1; next }
        { for (i = 2; i <= NF; i++) { gsub(/[][]/, "", $i)
            if (index(wanted, " " $i " ")) { print $1; next } } }' "$TOP/bindep.txt"
}

missing_packages() {
    local names installed
    names=$(listed_packages "$@")
    # shellcheck disable=SC2086 # one word for each package
    installed=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' $names 2>/dev/null |
        awk '$2 == "installed" { print $1 }')
    comm -23 <(sort -u <<<"$names") <(sort -u <<<"$installed")
}

need_packages() {
    command -v dpkg-query >/dev/null ||
        die "this is not a Debian system: install the equivalents of bindep.txt by hand"
    local missing
    missing=$(missing_packages "$@" | tr '\n' ' ')
    [ -n "${missing// /}" ] || return 0
    say "Debian packages to install: $missing"
    # shellcheck disable=SC2086
    locked again install_packages $missing
}

# Another apt may be at work, as a new machine's own does after its boot: it is waited for.
install_packages() {
    local patient="-q -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3"
    # shellcheck disable=SC2086
    step "apt-get update" as_root apt-get $patient update || return
    # shellcheck disable=SC2086
    step "apt-get install" as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get $patient -y --no-install-recommends install "$@"
}

# The first python3 that is new enough: the one on PATH, else a versioned name.
find_python() {
    local name
    for name in python3 python3.13 python3.12 python3.11; do
        if command -v "$name" >/dev/null && "$name" -c \
            'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    die "no Python 3.11 or newer with ensurepip was found. Put one on PATH (Debian 12: python3, python3-venv)."
}

venv_stamp() { cat "$TOP/setup.cfg" "$TOP/pyproject.toml" | sha256sum | cut -d' ' -f1; }

need_venv() {
    if [ -x "$VENV/bin/python" ] && [ "$(cat "$VENV/installed" 2>/dev/null)" = "$(venv_stamp)" ]; then
        return
    fi
    locked install_venv
}

install_venv() {
    local stamp python
    stamp=$(venv_stamp)
    [ "$(cat "$VENV/installed" 2>/dev/null)" != "$stamp" ] || return 0
    if ! "$VENV/bin/python" -c 'import pip' 2>/dev/null; then
        python=$(find_python) || return
        step "python environment in .venv" "$python" -m venv --clear "$VENV" || return
    fi
    again step "pip install" "$VENV/bin/python" -m pip install --progress-bar off \
        -e "${TOP}[test,style,postgresql]" || return
    printf '%s\n' "$stamp" >"$VENV/installed"
}
