"""A small coordinator. It decides who may publish, and can end a publish. It needs autobahn[twisted] and PyJWT.

In a checkout in which ./tools/serve has made .venv:

    export CONTROL_SECRET=change-me-to-something-of-32-bytes
    .venv/bin/python docs/examples/coordinator.py 8081 [ADDRESS]

In another terminal, with the same secret:

    CONTROL_USE=yes CONTROL_BASE_URL=ws://127.0.0.1:8081 ./tools/serve
    ffmpeg -re -f lavfi -i testsrc2 -f flv rtmp://127.0.0.1/tv/tv-key

Type a channel's name to end the publish on it.
"""

import os
import sys
import time

import jwt
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.types import ConnectionDeny
from twisted.internet import reactor, stdio, task
from twisted.protocols.basic import LineOnlyReceiver

SECRET = os.environ["CONTROL_SECRET"]
KEYS = {"tv": "tv-key", "radio": "radio-key"}
servers = set()


class Server(WebSocketServerProtocol):
    """The connection of one RTMP server."""

    def onConnect(self, request):
        try:
            claims = jwt.decode(request.headers.get("x-control-auth-token", ""), SECRET, algorithms=["HS256"])
        except jwt.InvalidTokenError:
            claims = {}
        if request.path != "/ws/control/rtmp" or claims.get("sub") != "rtmp-control":
            raise ConnectionDeny(ConnectionDeny.FORBIDDEN)

    def onOpen(self):
        servers.add(self)
        self.heartbeat = task.LoopingCall(self.say, "HEARTBEAT")
        self.heartbeat.start(20)

    def onMessage(self, payload, is_binary):
        kind, *lines = payload.decode().splitlines()
        values = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        channel = values.get("stream-channel", "")
        if kind == "PUBLISH-REQUEST":
            if KEYS.get(channel) == values["stream-key"]:
                stream_id = f"{channel}-{time.time_ns()}"
                print(f"start of {channel} from {values['user-ip']}: stream {stream_id}", flush=True)
                self.say("PUBLISH-ACCEPT", values["request-id"], channel, f"Stream-ID: {stream_id}")
            else:
                self.say("PUBLISH-DENY", values["request-id"], channel)
        elif kind == "PUBLISH-END":
            print(f"stop of {channel}: stream {values['stream-id']}", flush=True)

    def say(self, kind, request_id=None, channel=None, *more):
        lines = [kind]
        if request_id is not None:
            lines.append(f"Request-ID: {request_id}")
        if channel is not None:
            lines.append(f"Stream-Channel: {channel}")
        self.sendMessage("\n".join([*lines, *more]).encode())

    def onClose(self, was_clean, code, reason):
        if self in servers:
            servers.remove(self)
            self.heartbeat.stop()
            print("a server has disconnected; all its streams have ended", flush=True)


class Keyboard(LineOnlyReceiver):
    delimiter = b"\n"

    def lineReceived(self, line):
        for server in servers:
            server.say("STREAM-KILL", None, line.decode().strip(), "Stream-ID: *")


factory = WebSocketServerFactory()
factory.protocol = Server
address = sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1"
port = reactor.listenTCP(int(sys.argv[1]), factory, interface=address)
print(f"listening on port {port.getHost().port}", flush=True)
stdio.StandardIO(Keyboard())
reactor.run()
