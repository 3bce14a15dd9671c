#!/bin/sh
# Makes what compose.yaml needs: random passwords in the folder secrets, and .env, which says whose they are.
# What is there already stays: a database keeps the passwords that it was made with.
set -eu
umask 077
cd "$(dirname "$0")"

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

mkdir -p secrets
for name in owner_password db_password password; do
    [ -s "secrets/$name" ] || random > "secrets/$name"
done
# As PostgreSQL's clients read them: host:port:database:user:password.
printf '*:*:*:owner:%s\n' "$(cat secrets/owner_password)" > secrets/owner_pgpass
printf '*:*:*:eventctl:%s\n' "$(cat secrets/db_password)" > secrets/db_pgpass
# Containers see these files as they are here, and only who owns them may read them: whoever runs this, or, so that no
# container runs as root, the user of the image. (Where Docker itself runs without root: EVENTCTL_USER=0:0, which is you.)
user=$(id -u):$(id -g)
if [ "$(id -u)" -eq 0 ]; then
    user=10001:10001
    chown -R "$user" secrets
fi
[ -e .env ] || echo "EVENTCTL_USER=$user" > .env
echo "passwords are in $PWD/secrets; next: docker compose up --build --wait"
