"""What is told about a channel's tracks."""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from rtmp_twisted.web.serializers import MAX_METADATA, MAX_TRACKS, tracks
from rtmp_twisted.wire import amf0, messages
from rtmp_twisted.wire.messages import AUDIO, VIDEO, Message
from tests.support.rtmp_client import AAC_HEADER
from tests.web.case import AVC_HEADER

WITHOUT_SIZE = Message(VIDEO, 1, 0, b"\x17\x00\0\0\0\x01\x64\x00\x28\xff\xe0")
"""An H.264 header without a parameter set, so that nothing is known of the picture."""


class TracksTests(SynchronousTestCase):
    def test_metadata_fills_gaps(self) -> None:
        for values, wanted in (
            ({"width": 640.0, "height": 360.0, "framerate": 29.97}, {"width": 640, "height": 360, "frame_rate": 29.97}),
            ({"width": -1.0, "height": float("nan"), "framerate": float("inf")}, {}),
            ({"width": "640", "height": True, "framerate": None}, {}),
            ({"width": 65_536.0, "height": 65_537.0, "framerate": 1000.0}, {"width": 65_536, "frame_rate": 1000}),
            ({"width": 0.0, "framerate": 1000.5}, {}),
        ):
            metadata = messages.data(0, "onMetaData", amf0.ECMAArray(**values))
            [found] = tracks((metadata, WITHOUT_SIZE))
            self.assertEqual({name: found[name] for name in ("width", "height", "frame_rate") if name in found}, wanted)
            json.dumps(found, allow_nan=False)

    def test_headers_win(self) -> None:
        metadata = messages.data(0, "onMetaData", {"width": 1.0, "framerate": 1.0})
        [found] = tracks((metadata, AVC_HEADER))
        self.assertEqual((found["width"], found["frame_rate"]), (1920, 25))

    def test_metadata_is_about_video(self) -> None:
        metadata = messages.data(0, "onMetaData", {"width": 1.0})
        [found] = tracks((metadata, AAC_HEADER))
        self.assertEqual((found["kind"], "width" in found), ("audio", False))

    def test_number_is_bounded(self) -> None:
        """A publisher may send hundreds of headers."""
        found = tracks((AVC_HEADER,) * (MAX_TRACKS + 1) + (AAC_HEADER,) * (MAX_TRACKS + 1))
        self.assertEqual([track["kind"] for track in found], ["video"] * MAX_TRACKS + ["audio"] * MAX_TRACKS)

    def test_what_is_not_understood(self) -> None:
        for metadata in (
            messages.data(0, "onMetaData"),
            messages.data(0, "onMetaData", "text"),
            messages.data(0, "onMetaData", {"width": 5.0, "x": "y" * MAX_METADATA}),
            messages.data(0, "onTextData", {"width": 5.0}),
            Message(messages.DATA_AMF0, 0, 0, b"\x02\x00\x0aonMetaData\x03\xff\xff"),
            Message(messages.DATA_AMF3, 0, 0, b"\x11\xff"),
        ):
            self.assertEqual(tracks((metadata,)), [])
            self.assertEqual(tracks((metadata, WITHOUT_SIZE)), tracks((WITHOUT_SIZE,)))
        self.assertEqual(tracks((Message(AUDIO, 1, 0, b""), Message(VIDEO, 1, 0, b"\x17"))), [])
