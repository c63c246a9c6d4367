#!/bin/sh
# Become nginx, which asks for the gateways' addresses where everything else in the container does.
set -eu
servers=$(awk '$1 == "nameserver" { print ($2 ~ /:/) ? "[" $2 "]" : $2 }' /etc/resolv.conf | tr '\n' ' ')
echo "resolver $servers valid=1s;" > /tmp/resolver.conf
exec nginx -c "$(dirname "$0")/nginx.conf" -g "daemon off;"
