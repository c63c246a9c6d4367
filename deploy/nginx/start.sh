#!/bin/sh
# Become nginx, with what only the container or its operator knows put into files that nginx.conf includes.
set -eu
made=${MADE:-/tmp}
# Who knows the gateways' addresses: the container's own name server. The first one in the list: nginx would ask all of
# them in turn, and those after it need not know the containers.
server=$(awk '$1 == "nameserver" { print ($2 ~ /:/) ? "[" $2 "]" : $2; exit }' /etc/resolv.conf)
echo "resolver $server valid=1s;" > "$made/resolver.conf"
# Proxies in front of this one: what they say of clients counts.
for proxy in ${TRUSTED_PROXIES:-}; do echo "set_real_ip_from $proxy;"; done > "$made/proxies.conf"
for proxy in ${TRUSTED_PROXIES:-}; do echo "$proxy 1;"; done > "$made/trusted.conf"
# Gateways end what takes too long, and refuse what is too large, in words; so they must get to. An answer may be silent
# up to its deadline, a WebSocket up to its ping. The values here are the gateways' own defaults.
awk -v deadline="${COROLLA_DEADLINE_S:-300}" -v ping="${COROLLA_PING_S:-25}" 'BEGIN {
    silent = (deadline + 0 > ping + 0 ? deadline : ping) + 60
    printf "proxy_read_timeout %.0fs;\nproxy_send_timeout %.0fs;\n", silent, silent
}' > "$made/waits.conf"
# A file comes in a form.
size() { awk -v bytes="$1" 'BEGIN { printf "client_max_body_size %.0f;\n", 2 * bytes + 1048576 }'; }
size "${COROLLA_MAX_BODY_BYTES:-1048576}" > "$made/body.conf"
size "${COROLLA_MAX_FILE_BYTES:-104857600}" > "$made/file.conf"
exec nginx -c "$(dirname "$0")/nginx.conf" -g "daemon off;"
