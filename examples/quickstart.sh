#!/bin/sh
# Builds eventctl, receives events on a fresh SQLite file, sends some from events.json, shows what was
# stored, and stops cleanly. Exits non-zero if anything goes wrong. With the path of an eventctl it builds none.
set -eu

eventctl=${1:+$(realpath "$1")}
cd "$(dirname "$0")/.."
if [ -z "$eventctl" ]; then
    echo "== cargo build (the first one takes some minutes; cargo test uses the same dependencies again)"
    # Cargo knows where it puts the program: CARGO_TARGET_DIR or a configuration may name another folder.
    eventctl=$(cargo build --bin eventctl --message-format=json-render-diagnostics |
        sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')
    [ -x "$eventctl" ] || { echo "cargo has not built eventctl" >&2; exit 1; }
    echo
fi

directory=$(mktemp -d)
consume=
finish() {
    [ -z "$consume" ] || kill "$consume" 2>/dev/null || true
    rm -rf "$directory"
}
trap finish EXIT
trap 'exit 1' INT TERM

echo "== eventctl consume, on a free port and a fresh store"
"$eventctl" consume --port 0 --db "$directory/events.db" 2>"$directory/consume.log" &
consume=$!
url=
for _ in $(seq 100); do
    url=$(sed -n 's/.*listening on \([^" ]*\).*/\1/p' "$directory/consume.log")
    [ -z "$url" ] || break
    kill -0 "$consume" || { cat "$directory/consume.log" >&2; exit 1; }
    sleep 0.1
done
[ -n "$url" ] || { echo "consume does not listen" >&2; exit 1; }
echo "listening on $url"

echo
echo "== eventctl propagate, every event of events.json once, ten a second"
# One event of the file is invalid on purpose, to show that it is refused: exit status 3 says so.
status=0
"$eventctl" propagate --endpoint "$url/event" --health "$url/ready" --file events.json \
    --order sequential --count 8 --period 100ms || status=$?
[ "$status" -eq 3 ] || { echo "propagate: exit status $status, expected 3" >&2; exit 1; }

echo
echo "== eventctl tail"
"$eventctl" tail --db "$directory/events.db"
stored=$("$eventctl" tail --db "$directory/events.db" -n all -o json | wc -l)
[ "$stored" -eq 7 ] || { echo "$stored events are stored, expected 7" >&2; exit 1; }

echo
echo "== stopping"
kill "$consume"
wait "$consume" || { echo "consume: exit status $?, expected 0" >&2; exit 1; }
consume=
echo "consume has drained and stopped: 7 events sent and stored, the invalid one refused"
