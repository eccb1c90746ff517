"""An application that decides who may publish. It answers the server's callbacks, and needs only Python.

    JWT_SECRET=change-me python3 callback_app.py 8080 [ADDRESS]

In another terminal, in the checkout:

    CALLBACK_URL=http://127.0.0.1:8080/ JWT_SECRET=change-me ./tools/serve
    ffmpeg -re -f lavfi -i testsrc2 -f flv rtmp://127.0.0.1/tv/tv-key
"""

import base64
import hashlib
import hmac
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = os.environ.get("JWT_SECRET", "")
KEYS = {"tv": "tv-key", "radio": "radio-key"}


def decode(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def read_event(token: str) -> dict:
    """Returns the claims of a token. Raises ValueError if the RTMP server has not signed it, or it has expired."""
    signed, _, signature = token.rpartition(".")
    expected = hmac.new(SECRET.encode(), signed.encode(), hashlib.sha256).digest()
    if not hmac.compare_digest(decode(signature), expected):
        raise ValueError("bad signature")
    header, claims = (json.loads(decode(part)) for part in signed.split("."))
    if header["alg"] != "HS256" or claims["exp"] < time.time():
        raise ValueError("bad token")
    return claims


class Application(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections open

    def do_POST(self) -> None:
        try:
            event = read_event(self.headers.get("rtmp-event", ""))
        except (ValueError, KeyError):
            return self.answer(401)
        channel = event["channel"]
        if event["event"] == "start":
            if channel not in KEYS or not hmac.compare_digest(KEYS[channel].encode(), event["key"].encode()):
                return self.answer(403)
            stream_id = f"{channel}-{time.time_ns()}"
            print(f"start of {channel} from {event['client_ip']}: stream {stream_id}", flush=True)
            return self.answer(200, stream_id)
        print(f"stop of {channel}: stream {event['stream_id']}", flush=True)
        return self.answer(200)

    def answer(self, status: int, stream_id: str = "") -> None:
        self.send_response(status)
        self.send_header("content-length", "0")
        if stream_id:
            self.send_header("stream-id", stream_id)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Does not log requests: the events are printed above."""


if __name__ == "__main__":
    port, host = int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1"
    server = ThreadingHTTPServer((host, port), Application)
    print(f"listening on port {server.server_port}", flush=True)
    server.serve_forever()
