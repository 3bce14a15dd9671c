#!/bin/sh
# PostgreSQL's image runs this once, when it has made the database: standbys may connect, and from the next start on every
# commit waits for one of them.
set -eu
echo 'host replication all all scram-sha-256' >> "$PGDATA/pg_hba.conf"
psql --no-psqlrc --quiet --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" \
    --command "ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (*)'"
