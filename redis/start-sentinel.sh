#!/bin/sh
# Starts a sentinel that remembers what it learned before: who leads, which replicas and sentinels there are, and in which
# election it voted. Its settings come from sentinel.conf every time.
#
# In: NODE_NAME and NODE_PORT, under which the others reach this sentinel; FIRST_MASTER, as "host port";
# REDIS_PASSWORD, the password of the Redis servers.
set -eu

# A sentinel keeps its memory in its own configuration file, so the file lives in the data volume.
conf=/data/sentinel.conf
memory='^sentinel (myid|monitor|current-epoch|config-epoch|leader-epoch|known-replica|known-sentinel) '

{
    cat "$(dirname "$0")/sentinel.conf"
    echo "port $NODE_PORT"
    echo "sentinel announce-ip $NODE_NAME"
    echo "sentinel announce-port $NODE_PORT"
    echo "sentinel auth-pass mymaster $REDIS_PASSWORD"
    grep -s -E "$memory" "$conf" || echo "sentinel monitor mymaster $FIRST_MASTER 2"
} >"$conf.new"
# It holds the password.
chmod 600 "$conf.new"
mv "$conf.new" "$conf"

# In this form the image's entry point gives /data to the user redis and drops root.
exec docker-entrypoint.sh redis-server "$conf" --sentinel
