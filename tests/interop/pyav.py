"""A program on PyAV: ``pyav.py publish CLIP URL AUTHORITY`` or ``pyav.py play URL RECORDING AUTHORITY``."""

from __future__ import annotations

import contextlib
import sys
import time

import av


def publish(clip: str, url: str, options: dict[str, str]) -> None:
    with av.open(clip) as source, av.open(url, "w", format="flv", options=options) as sink:
        streams = {stream.index: sink.add_stream_from_template(stream) for stream in source.streams}
        began = time.monotonic()
        for packet in source.demux():
            if packet.dts is None or packet.time_base is None:
                continue
            time.sleep(max(0.0, float(packet.dts * packet.time_base) - (time.monotonic() - began)))
            packet.stream = streams[packet.stream.index]
            sink.mux(packet)


def play(url: str, recording: str, options: dict[str, str]) -> None:
    seen = False
    with av.open(url, options=options) as source, av.open(recording, "w") as sink:
        streams = {stream.index: sink.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is None:
                continue
            if packet.stream.type == "video" and not seen and packet.decode():
                seen = True
                print("picture", flush=True)
            packet.stream = streams[packet.stream.index]
            sink.mux(packet)


if __name__ == "__main__":
    what, one, other, authority = sys.argv[1:]
    with contextlib.suppress(KeyboardInterrupt):
        {"publish": publish, "play": play}[what](
            one, other, {"tls_verify": "1", "ca_file": authority} if authority else {}
        )
