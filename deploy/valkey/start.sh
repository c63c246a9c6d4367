#!/bin/sh
# Become the broker. The users' passwords come from the environment; only their hashes are written, and only to memory.
set -eu
umask 077

hash() { printf %s "$1" | sha256sum | cut -d ' ' -f 1; }

folder=$(dirname "$0")
sed -e '/^#/d' \
    -e "s/#GATEWAY/#$(hash "${GATEWAY_PASSWORD:?}")/" \
    -e "s/#WORKER/#$(hash "${WORKER_PASSWORD:?}")/" \
    "$folder/users.acl" > "${ACL_FILE:=/tmp/users.acl}"
unset GATEWAY_PASSWORD WORKER_PASSWORD
exec valkey-server "$folder/valkey.conf" --aclfile "$ACL_FILE" "$@"
