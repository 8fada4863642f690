#!/bin/sh
# Keeps nginx on the nodes' current addresses. nginx looks a name up once, when it starts or reloads, and does not start at
# all while one of them is unknown; a node's container that is created anew may get another address.
#
# Fixed addresses would need a fixed subnet, and a second cluster on the machine would collide with it. A `resolver` works
# with names in variables only, which know neither round robin nor kept connections; upstream servers with `resolve` need
# nginx 1.27.3. So this script watches, and reloads when, and only when, an address has changed: a node that is stopped
# keeps its place. (To take one out of rotation there is rotation.sh.)
set -eu

nodes="app1 app2"

# A node without an address. Connections to it are refused at once, and the request goes to the other node.
nowhere=127.0.0.1

# Prints the address that Docker's name server has for a container, nothing if there is none.
address() { getent -s dns ahostsv4 "$1" | awk 'NR == 1 { print $1 }'; }

# Prints a line "address name" for each node; one that has no address now keeps the one it had.
look_up() {
    for node in $nodes; do
        found=$(address "$node")
        [ -n "$found" ] || found=$(awk -v node="$node" '$2 == node { print $1 }' /etc/hosts)
        echo "${found:-$nowhere} $node"
    done
}

# nginx reads the names from /etc/hosts. Docker owns the file: it can be written, not replaced.
others=$(grep -vE " ($(echo "$nodes" | tr ' ' '|'))\$" /etc/hosts)
publish() { printf '%s\n%s\n' "$others" "$1" >/etc/hosts; }

current=$(look_up)
publish "$current"

while sleep 1; do
    latest=$(look_up)
    if [ "$latest" != "$current" ]; then
        publish "$latest"
        echo "nodes have moved, reloading: $(echo "$latest" | tr '\n' ' ')"
        # Fails while nginx is still starting; then the next round tries again.
        if nginx -s reload; then current=$latest; fi
    fi
done &
