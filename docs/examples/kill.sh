#!/bin/sh
# Ends a publish with a Redis command. The server must run with REDIS_USE=yes.
#
#   kill.sh CHANNEL              ends any publish on the channel
#   kill.sh CHANNEL STREAM_ID    ends the publish if it has this stream id
#
# If Redis needs a password, set REDISCLI_AUTH.
set -eu
if [ $# -ge 2 ]; then
    message="close-stream>$1|$2"
else
    message="kill-session>$1"
fi
exec redis-cli -h "${REDIS_HOST:-127.0.0.1}" -p "${REDIS_PORT:-6379}" publish "${REDIS_CHANNEL:-rtmp_commands}" "$message"
