#!/bin/sh
# Builds eventctl, receives events into a fresh SQLite file, sends those of events.json, shows what was stored, and
# stops cleanly. Exits non-zero if anything goes wrong. Given the path of an eventctl, it builds none.
set -eu

eventctl=${1:+$(realpath "$1")}
cd "$(dirname "$0")/.."
if [ -z "$eventctl" ]; then
    echo "== building eventctl: a debug build, which takes some minutes the first time; cargo test reuses it"
    # Cargo knows where it puts the program: CARGO_TARGET_DIR or build.target-dir may name another folder.
    eventctl=$(cargo build --locked --bin eventctl --message-format=json-render-diagnostics |
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

echo "== eventctl consume: receives on a free port, and stores in a temporary folder"
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
echo "== eventctl propagate: sends every event of events.json once, ten a second"
# One event of the file is invalid on purpose, to show that it is refused: exit status 3 says so.
status=0
"$eventctl" propagate --endpoint "$url/event" --health "$url/ready" --file events.json \
    --order sequential --count 8 --period 100ms || status=$?
[ "$status" -eq 3 ] || { echo "propagate: exit status $status, expected 3" >&2; exit 1; }

echo
echo "== eventctl tail: shows what is stored"
"$eventctl" tail --db "$directory/events.db"
stored=$("$eventctl" tail --db "$directory/events.db" -n all -o json | wc -l)
[ "$stored" -eq 7 ] || { echo "$stored events are stored, expected 7" >&2; exit 1; }

echo
echo "== SIGTERM: consume finishes what is in flight, and stops"
kill "$consume"
wait "$consume" || { echo "consume: exit status $?, expected 0" >&2; exit 1; }
consume=
echo "7 events sent and stored, the invalid one refused"

program=${eventctl#"$PWD"/}
echo
echo "next: $program consume      and open http://127.0.0.1:8000/ for the live page"
echo "next: $program propagate    in another terminal, sends an event every five seconds"
echo "next: $program tail -f      in a third one, shows them as they are stored"
echo "next: README.md explains the rest"
