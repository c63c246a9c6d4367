#!/bin/sh
# Become nginx, which asks the container's own name server for the gateways' addresses. The first one in the list: nginx
# would ask all of them in turn, and those after it need not know the containers.
set -eu
server=$(awk '$1 == "nameserver" { print ($2 ~ /:/) ? "[" $2 "]" : $2; exit }' /etc/resolv.conf)
echo "resolver $server valid=1s;" > /tmp/resolver.conf
# Proxies in front of this one: what they say of clients counts.
for proxy in ${TRUSTED_PROXIES:-}; do echo "set_real_ip_from $proxy;"; done > /tmp/proxies.conf
for proxy in ${TRUSTED_PROXIES:-}; do echo "$proxy 1;"; done > /tmp/trusted.conf
exec nginx -c "$(dirname "$0")/nginx.conf" -g "daemon off;"
