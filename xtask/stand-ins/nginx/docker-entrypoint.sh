#!/bin/sh
# The rules of the official image: before nginx starts, templates are filled in from the environment, and the executable
# scripts in /docker-entrypoint.d run in order (*.envsh are read into this shell).
set -e

if [ "$1" = nginx ]; then
    for template in /etc/nginx/templates/*.template; do
        [ -f "$template" ] || continue
        names=$(env | sed -n 's/^\([A-Za-z_][A-Za-z0-9_]*\)=.*/${\1}/p' | tr '\n' ' ')
        envsubst "$names" <"$template" >"/etc/nginx/conf.d/$(basename "$template" .template)"
    done
    for script in /docker-entrypoint.d/*; do
        case "$script" in
        *.envsh) [ -x "$script" ] && . "$script" ;;
        *.sh) if [ -x "$script" ]; then "$script"; fi ;;
        esac
    done
fi

exec "$@"
