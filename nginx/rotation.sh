#!/bin/sh
# Takes a node out of nginx' rotation and puts it back, without a failed request:
#
#   docker compose exec nginx /docker-entrypoint.d/80-rotation.sh out app1     (upgrade the node now)
#   docker compose exec nginx /docker-entrypoint.d/80-rotation.sh in app1
#
# Both return when no worker of nginx is left that knows the rotation as it was. Without arguments, as at the start of the
# container, all nodes are in. A node that is out is marked `down` in each upstream that names it; so nginx runs on a copy of
# nginx.conf.
set -eu

source=/etc/nginx/cluster.conf
running=/etc/nginx/nginx.conf
# A line for each node that is out.
out=/etc/nginx/out-of-rotation

write() {
    marks=$(awk '{ printf "s/^( *server %s:[^;]*);/\\1 down;/\n", $1 }' "$out")
    sed -E "$marks" "$source" >"$running.new"
    # Workers read it as root, before they give that up.
    cat "$running.new" >"$running"
    rm "$running.new"
}

# The workers of nginx, those that are ending included.
workers() {
    for process in /proc/[0-9]*; do
        case "$(tr '\0' ' ' 2>/dev/null <"$process/cmdline")" in
        "nginx: worker"*) echo "${process#/proc/}" ;;
        esac
    done
}

# Reloads, and waits for the workers that there were: they finish what they have begun.
reload() {
    nginx -t -q
    old=$(workers)
    nginx -s reload
    # They may take as long as the slowest answer (`proxy_read_timeout`).
    tries=400
    while [ -n "$(workers | grep -Fx "$old")" ]; do
        tries=$((tries - 1))
        if [ "$tries" -eq 0 ]; then
            echo "workers of nginx do not end: $(workers | grep -Fx "$old" | tr '\n' ' ')" >&2
            return 1
        fi
        sleep 0.1
    done
}

# Waits until nginx' name for the node has the address that the node has now; follow-names.sh sees to that each second.
follow() {
    tries=100
    until grep -qFx "$(getent -s dns ahostsv4 "$1" | awk 'NR == 1 { print $1 }') $1" /etc/hosts; do
        tries=$((tries - 1))
        if [ "$tries" -eq 0 ]; then
            echo "nginx does not know the address of $1" >&2
            return 1
        fi
        sleep 0.1
    done
}

nodes=$(sed -nE 's/^ *server (app[0-9]+):.*/\1/p' "$source" | sort -u)

case "${1:-}" in
'')
    : >"$out"
    write
    exit
    ;;
in | out) ;;
*)
    echo "usage: $0 [out NODE | in NODE]" >&2
    exit 2
    ;;
esac
if ! echo "$nodes" | grep -qFx "${2:-}"; then
    echo "there is no node ${2:-}, but there are: $nodes" >&2
    exit 2
fi
if [ "$1" = in ]; then
    follow "$2"
    sed -i "/^$2\$/d" "$out"
elif echo "$nodes" | grep -vFx "$2" | grep -qvFx -f "$out"; then
    grep -qFx "$2" "$out" || echo "$2" >>"$out"
else
    echo "$2 is the last node in rotation, and stays" >&2
    exit 1
fi
write
reload
