#!/bin/sh
# Ends a publish through Redis. For a server that was started with REDIS_USE=yes:
#
#   kill.sh CHANNEL              ends whatever is publishing on the channel
#   kill.sh CHANNEL STREAM_ID    ends it if that is its stream id
#
# redis-cli reads the password, if there is one, from REDISCLI_AUTH.
set -eu
if [ $# -ge 2 ]; then
    message="close-stream>$1|$2"
else
    message="kill-session>$1"
fi
exec redis-cli -h "${REDIS_HOST:-127.0.0.1}" -p "${REDIS_PORT:-6379}" publish "${REDIS_CHANNEL:-rtmp_commands}" "$message"
