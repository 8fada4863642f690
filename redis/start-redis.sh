#!/bin/sh
# Starts a Redis server in the role it has now, which need not be the one it had when it stopped: a killed master would
# come back as a second, writable master, and stay one for the 10 seconds that the sentinels take to demote it.
#
# In: NODE_NAME and NODE_PORT, under which the others reach this server; SENTINELS, as "host:port host:port …";
# FIRST_MASTER, as "host port"; REDISCLI_AUTH, the password.
set -eu

# Redis rewrites its configuration when the sentinels change its role, so the file lives in the data volume.
conf=/data/redis.conf

# Prints "epoch host port flags" of the master as the best informed sentinel knows it, nothing when no sentinel answers.
# The epoch counts elections: a sentinel that slept through one has a lower number.
ask_sentinels() {
    for sentinel in $SENTINELS; do
        # Sentinels have no password, and redis-cli would complain about having one. A paused sentinel never answers.
        REDISCLI_AUTH='' timeout 1 redis-cli -h "${sentinel%:*}" -p "${sentinel#*:}" sentinel master mymaster 2>/dev/null |
            awk 'NR % 2 { name = $0; next } { value[name] = $0 }
                 END { if ("ip" in value) print value["config-epoch"], value["ip"], value["port"], value["flags"] }' || true
    done | sort -rn | head -n 1
}

# While the others hold an election about this very server, the answer is still "you": wait for the outcome. Not for ever,
# since no replica may be fit to be elected, and then this server is the one that must serve.
attempts=10
while
    known=$(ask_sentinels)
    case "$known" in
    *" $NODE_NAME $NODE_PORT "*o_down* | *" $NODE_NAME $NODE_PORT "*failover_in_progress*) attempts=$((attempts - 1)) ;;
    *) attempts=0 ;;
    esac
    [ "$attempts" -gt 0 ]
do
    sleep 0.5
done

if [ -n "$known" ]; then
    # shellcheck disable=SC2086 # split into words on purpose
    set -- $known
    master="$2 $3"
elif [ -f "$conf" ]; then
    # The whole cluster starts: everyone resumes the role it had, and the sentinels settle the rest when they are up.
    master=$(sed -n 's/^replicaof //p' "$conf")
else
    master=$FIRST_MASTER
fi

{
    cat "$(dirname "$0")/redis.conf"
    echo "port $NODE_PORT"
    echo "replica-announce-ip $NODE_NAME"
    echo "replica-announce-port $NODE_PORT"
    echo "requirepass $REDISCLI_AUTH"
    # Every server may be the master one day, so all have one password.
    echo "masterauth $REDISCLI_AUTH"
    if [ -n "$master" ] && [ "$master" != "$NODE_NAME $NODE_PORT" ]; then
        echo "replicaof $master"
    fi
} >"$conf.new"
# It holds the password.
chmod 600 "$conf.new"
mv "$conf.new" "$conf"

# The image's entry point gives /data to the user redis and drops root.
exec docker-entrypoint.sh redis-server "$conf"
