#!/bin/bash
# Exit 0 when the server of this container answers GET /healthz with 200. Needs bash alone.
set -eu
exec 3<>"/dev/tcp/127.0.0.1/${TALLOW_PORT:-7860}"
printf 'GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n' >&3
IFS= read -r status <&3
[[ $status == "HTTP/1.1 200"* ]]
