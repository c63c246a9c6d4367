#!/usr/bin/env bash
# Try what docker-compose.yml promises: whatever is killed, restarted or added, no client loses a token, over WebSockets,
# by server-sent events, HTTP calls or in batches. Where clients are not to notice it at all, none of them may have to
# make a call again: they may where a gateway or the broker is killed, or where it is the one balancer that is away.
#
#   deploy/trial.sh            needs docker with compose, bash and curl; a quarter of an hour on two cores
#   ENGINE=podman COMPOSE=podman-compose deploy/trial.sh
#   BUILD=no deploy/trial.sh   with the images that there are
#
# It runs a stack of its own on COROLLA_PORT (8123), with two workers and one gateway, later three, and removes it
# afterwards.
set -euo pipefail
cd "$(dirname "$0")/.."

ENGINE=${ENGINE:-docker}
read -ra COMPOSE <<< "${COMPOSE:-docker compose}"
PROJECT=corolla-trial
CLIENT=$PROJECT-client
READERS=22 # 20 streams, one that calls and one that sends batches
broken=0
export COROLLA_PORT=${COROLLA_PORT:-8123} COMPOSE_PROFILES=demo,spare COROLLA_GATEWAYS=1 COROLLA_WORKERS=2
URL=http://127.0.0.1:$COROLLA_PORT

say() { printf '%4d s  %s\n' "$SECONDS" "$*"; }
quietly() { "$@" > /dev/null 2>&1; }
compose() { "${COMPOSE[@]}" -p "$PROJECT" "$@"; }
containers() { # SERVICE
    "$ENGINE" ps -aq --filter "label=com.docker.compose.project=$PROJECT" --filter "label=com.docker.compose.service=$1"
}

until_true() { # WHAT COMMAND...
    local what=$1 end=$((SECONDS + 300))
    shift
    until quietly "$@"; do
        ((SECONDS < end)) || { say "no $what within 300 s"; exit 1; }
        sleep 0.5
    done
}

answers() { curl -fsS -m 60 "$URL/api/v1/generate" -d "inputs=hi" -d "max_new_tokens=3" | grep -q '"ok":true'; }
healthy() { # SERVICE CONTAINER
    case $1 in
        worker) "$ENGINE" exec "$2" python -m worker.health ;;
        gateway) "$ENGINE" exec "$2" python -c \
            "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health/ready')" ;;
        swarm-*) "$ENGINE" logs --since "$since" "$2" 2>&1 | grep '"Started"' ;;
        *) answers ;;
    esac
}

balancer() { # its address: neither the engine's name server nor its way in from outside is what is tried
    "$ENGINE" inspect -f "{{(index .NetworkSettings.Networks \"${PROJECT}_front\").IPAddress}}" "$(containers nginx)"
}

begin() { # NAME ADDRESS [OPTION]
    local name=$1 address=$2
    shift 2
    quietly "$ENGINE" rm -f "$CLIENT" || true
    quietly "$ENGINE" run -d --name "$CLIENT" --network "${PROJECT}_front" -v "$PWD/deploy/streams.py:/streams.py:ro,z" \
        corolla-gateway python /streams.py "$address:8080" --readers "$READERS" "$@"
    until_true "readers" bash -c "$ENGINE logs $CLIENT 2>&1 | grep 'readers begin'"
    say "$READERS readers, $name"
}

end() {
    quietly "$ENGINE" kill -s INT "$CLIENT"
    local status
    status=$("$ENGINE" wait "$CLIENT")
    say "  they saw: $("$ENGINE" logs "$CLIENT" 2>&1 | tail -n 1)"
    ((status == 0)) || { say "  that is not what was promised"; broken=1; }
}

back() { # SERVICE CONTAINER
    until_true "healthy $1" healthy "$1" "$2"
    until_true "answer" answers
    say "  $3 $1: answers again"
}

kill_one() { # SERVICE
    local id
    id=$(containers "$1")
    id=${id%%$'\n'*}
    since=$(date +%s)
    quietly "$ENGINE" kill "$id"
    sleep 1
    quietly "$ENGINE" start "$id"
    back "$1" "$id" killed
}

restart_all() { # SERVICE
    local id
    for id in $(containers "$1"); do
        since=$(date +%s)
        quietly "$ENGINE" restart -t 30 "$id"
        back "$1" "$id" restarted
    done
}

asked() { # HOW-MANY: so many gateways answered since then
    "$ENGINE" logs --since "$since" "$(containers nginx)" 2>&1 | grep -o '"gateway": "[0-9.:]*"' | sort -u | wc -l |
        grep -qx "$1"
}

add_gateways() { # HOW-MANY
    since=$(date +%s)
    compose up -d --no-recreate --scale "gateway=$1" >> var/log/trial-up.log 2>&1
    export COROLLA_GATEWAYS=$1
    until_true "answers of $1 gateways" asked "$1"
    say "  $1 gateways: each of them answers"
}

finish() {
    local status=$?
    if ((status)); then
        for service in valkey worker gateway batches nginx swarm-0 swarm-1 swarm-2 swarm-3; do
            for id in $(containers "$service"); do "$ENGINE" logs "$id" > "var/log/trial-$service-$id.log" 2>&1; done
        done
        say "failed; logs are in var/log/trial-*"
    fi
    quietly "$ENGINE" rm -f "$CLIENT" || true
    quietly compose down -v --remove-orphans || true
}
trap finish EXIT
set -E
trap 'say "line $LINENO: $BASH_COMMAND"' ERR

mkdir -p var/log
if [[ ${BUILD:-yes} != no ]]; then
    say "building"
    compose build > var/log/trial-build.log 2>&1
fi
say "starting"
compose up -d > var/log/trial-up.log 2>&1
until_true "answer" answers
for id in $(containers worker); do until_true "healthy worker" healthy worker "$id"; done
say "everything runs: $(curl -fsS "$URL/health/ready")"

begin "one gateway becomes three" "$(balancer)" --no-repeats
add_gateways 3
end
for service in swarm-0 swarm-1 worker batches; do
    begin "one $service is killed" "$(balancer)" --no-repeats
    kill_one "$service"
    end
done
for service in valkey gateway; do
    begin "one $service is killed" "$(balancer)"
    kill_one "$service"
    end
done
begin "every container but the balancer is restarted, one at a time" "$(balancer)" --no-repeats
for service in swarm-0 swarm-1 swarm-2 swarm-3 valkey worker gateway batches; do restart_all "$service"; done
end
begin "the balancer reads its configuration again" "$(balancer)" --no-repeats
quietly "$ENGINE" kill -s HUP "$(containers nginx)"
back nginx "$(containers nginx)" reloaded
end
# It may have another address afterwards.
begin "the balancer is killed" nginx
kill_one nginx
end
begin "the balancer is restarted" nginx
restart_all nginx
end

((broken == 0)) || exit 1
say "no token was lost"
