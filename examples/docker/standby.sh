#!/bin/sh
# Copies the primary, once, and runs as its standby.
set -eu
# The secret belongs to whoever has made it, and PostgreSQL does not run as root.
passwords=$(dirname "$PGDATA")/pgpass
install -o postgres -m 600 "$PGPASSFILE" "$passwords"
export PGPASSFILE="$passwords"
install -d -o postgres -m 700 "$PGDATA"
[ -s "$PGDATA/PG_VERSION" ] ||
    gosu postgres pg_basebackup --write-recovery-conf --checkpoint fast --dbname "$PRIMARY" --pgdata "$PGDATA"
exec gosu postgres postgres
