"""What an audio or video message is, read from its first bytes: a frame, a header, of which codec, of which track.

Sources: FLV 10.1, sections E.4.2 and E.4.3; Enhanced RTMP v2, "Enhanced Audio" and "Enhanced Video". Nothing here
raises: a message that cannot be understood is `OTHER`, and is relayed as it is.

`classify_video` and `classify_audio` are called for each message of each publisher. They return plain numbers, and look
at one or two bytes of most messages. Only messages with ModEx prefixes or several tracks are taken apart (`parse`), and
only frames without a frame type are looked into (`keyframes`).
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

from rtmp_twisted.media.keyframes import WITH_COMPOSITION_TIME, is_keyframe
from rtmp_twisted.wire.messages import AUDIO, VIDEO

FRAME: Final = 0
"""An audio frame, or a video frame that is no keyframe."""

KEYFRAME: Final = 1
"""A video frame at which decoding can begin."""

HEADER: Final = 2
"""What a joining player needs before its first frame: a codec configuration, HDR metadata, or a channel layout."""

OTHER: Final = 3
"""Relayed, never kept: commands, ends of sequences, empty messages, and whatever is unknown or truncated."""

MAX_MODEX: Final = 16
"""ModEx prefixes of one message. A message with more is `OTHER`."""

MAX_TRACKS: Final = 256
"""Tracks in one message: a track id has 8 bits. A message with more is `OTHER`."""

Slot: TypeAlias = tuple[str, int, str]
"""Under what a header is kept: "audio" or "video", the track id, and "sequence", "metadata" or "channels"."""

# VideoPacketType and AudioPacketType. The first three are common to both; Multitrack is not.
SEQUENCE_START: Final = 0
CODED_FRAMES: Final = 1
SEQUENCE_END: Final = 2
CODED_FRAMES_X: Final = 3
METADATA: Final = 4
MPEG2_TS_SEQUENCE_START: Final = 5
VIDEO_MULTITRACK: Final = 6
MULTICHANNEL_CONFIG: Final = 4
AUDIO_MULTITRACK: Final = 5
MODEX: Final = 7

# AvMultitrackType.
ONE_TRACK: Final = 0
MANY_TRACKS: Final = 1
MANY_TRACKS_MANY_CODECS: Final = 2

# SoundFormat.
EX_HEADER: Final = 9
AAC: Final = 10

_BY_FRAME_TYPE: Final = (OTHER, KEYFRAME, FRAME, FRAME, KEYFRAME, OTHER, OTHER, OTHER)
"""What a coded frame is, by VideoFrameType: bits 4 to 6 of the first byte."""

_COMMAND_FRAME: Final = 5
"""The VideoFrameType of commands."""

_CODED: Final = frozenset((CODED_FRAMES, CODED_FRAMES_X))

_MARKED: Final = {
    0x80 | frame_type << 4 | packet_type: _BY_FRAME_TYPE[frame_type]
    for frame_type in range(1, 8)
    for packet_type in _CODED
}
"""What an Enhanced RTMP video message is, by its first byte: coded frames that have a frame type."""

_WITH_PACKET_TYPE: Final = frozenset((7, 9, 12, 13, 14))
"""Codec ids whose second byte is an AVCPacketType: 7 is AVC, and encoders treat others in the same way. 9 is MPEG-4 as
ffmpeg writes it, 12 is the widespread HEVC before Enhanced RTMP, 13 and 14 are AV1 and VVC of some CDNs."""

_VIDEO_HEADERS: Final = {
    SEQUENCE_START: "sequence",
    MPEG2_TS_SEQUENCE_START: "sequence",  # It takes the place of a SequenceStart: the two are mutually exclusive.
    METADATA: "metadata",
}
_AUDIO_HEADERS: Final = {SEQUENCE_START: "sequence", MULTICHANNEL_CONFIG: "channels"}

_VIDEO_CODECS: Final = {
    2: "H.263",
    3: "Screen Video",
    4: "VP6",
    5: "VP6 with alpha",
    6: "Screen Video 2",
    7: "H.264",
    9: "MPEG-4",
    12: "HEVC",
    13: "AV1",
    14: "VVC",
}
_SOUND_FORMATS: Final = {
    0: "PCM",
    1: "ADPCM",
    2: "MP3",
    3: "PCM",
    4: "Nellymoser",
    5: "Nellymoser",
    6: "Nellymoser",
    7: "G.711 A-law",
    8: "G.711 mu-law",
    10: "AAC",
    11: "Speex",
    14: "MP3",
}
LEGACY_FOURCCS: Final = {7: b"avc1", 12: b"hvc1", 13: b"av01", 14: b"vvc1"}
"""The FourCC that Enhanced RTMP gives to the codec of a codec id."""

CODEC_NAMES: Final = {
    b"avc1": "H.264",
    b"hvc1": "HEVC",
    b"vvc1": "VVC",
    b"av01": "AV1",
    b"vp08": "VP8",
    b"vp09": "VP9",
    b"mp4a": "AAC",
    b"Opus": "Opus",
    b"fLaC": "FLAC",
    b"ac-3": "AC-3",
    b"ec-3": "E-AC-3",
    b".mp3": "MP3",
}
"""The names that `codec_name` returns, by FourCC."""


def classify_video(body: bytes) -> int:
    """Returns `FRAME`, `KEYFRAME`, `HEADER` or `OTHER`. Never raises.

    In a multitrack message the frame type counts for all tracks. Where an Enhanced RTMP frame has frame type 0, the
    frame itself is looked at (``keyframes``), in a multitrack message the first track's. Of an unknown codec, such a
    frame is a `FRAME`; in all else, an unknown codec is treated as a known one.
    """
    if len(body) < 6:
        # Too short for any frame, but not for the empty SequenceStart of a codec that needs no configuration.
        return HEADER if len(body) == 5 and body[0] & 0x8F == 0x80 and body[0] != 0xD0 else OTHER
    first = body[0]
    if first & 0x80:
        marked = _MARKED.get(first)
        return marked if marked is not None else _classify_rare(VIDEO, body)
    frame = _BY_FRAME_TYPE[first >> 4]
    if first & 0x0F not in _WITH_PACKET_TYPE or frame == OTHER:
        return frame
    avc_packet_type = body[1]
    if avc_packet_type == 1:
        return frame
    return HEADER if avc_packet_type == 0 else OTHER


def classify_audio(body: bytes) -> int:
    """Returns `FRAME`, `HEADER` or `OTHER`. Never raises."""
    if len(body) < 2:
        return OTHER
    first = body[0]
    sound_format = first >> 4
    if sound_format == AAC:
        packet_type = body[1]
        if packet_type == 1:
            return FRAME
        # Encoders that have no configuration yet send an empty header, which is of no use to a player.
        return HEADER if packet_type == 0 and len(body) > 2 else OTHER
    if sound_format != EX_HEADER:
        return FRAME
    if first & 0x0F == CODED_FRAMES and len(body) > 5:
        return FRAME
    return _classify_rare(AUDIO, body)


def header_slots(type_id: int, body: bytes) -> tuple[Slot, ...]:
    """Returns the slots in which a header is to be kept: one for each track that it configures.

    A message that is no header has none. A later header for the same slot replaces the one before. ``type_id`` is the
    type of the message.
    """
    if (classify_video if type_id == VIDEO else classify_audio)(body) != HEADER:
        return ()
    media = "video" if type_id == VIDEO else "audio"
    packet = parse(type_id, body)
    if packet is None:
        return ((media, 0, "sequence"),)
    kind = _header_kinds(type_id)[packet.packet_type]
    return tuple((media, track_id, kind) for track_id in _distinct(packet))


class TrackCodecs:
    """Which codec each track of a publish has, so that it can be told which kept headers are no longer in force.

    The end of a sequence ends all headers of its track. A configuration of another codec than the track had ends the
    track's other headers: metadata and channels belong to the codec that they came with.
    """

    __slots__ = ("_codecs",)

    def __init__(self) -> None:
        self._codecs: dict[tuple[str, int], bytes] = {}

    def ended_slots(self, type_id: int, body: bytes) -> tuple[Slot, ...]:
        """Returns the slots whose headers a message ends, often none; what is kept in them is to be dropped.

        Has to be called for each message that is classified as `HEADER` or `OTHER`, before its own header is kept.
        """
        media, other = ("video", "metadata") if type_id == VIDEO else ("audio", "channels")
        begins, found = _sequence(type_id, body)
        ended: list[Slot] = []
        for track_id, codec in found:
            if not begins:
                self._codecs.pop((media, track_id), None)
                ended += ((media, track_id, "sequence"), (media, track_id, other))
            elif self._codecs.setdefault((media, track_id), codec) != codec:
                self._codecs[media, track_id] = codec
                ended.append((media, track_id, other))
        return tuple(ended)


def _sequence(type_id: int, body: bytes) -> tuple[bool, list[tuple[int, bytes]]]:
    """Whether a message begins sequences or ends them, and their tracks and codecs: none where it does neither."""
    packet = parse(type_id, body)
    if packet is not None:
        begins = _header_kinds(type_id).get(packet.packet_type) == "sequence"
        if not begins and packet.packet_type != SEQUENCE_END:
            return False, []
        return begins, [(track.track_id, track.fourcc) for track in packet.tracks]
    begins = bool(header_slots(type_id, body))
    if type_id != VIDEO:
        return begins, [(0, b"mp4a")] if begins else []
    if not begins and not _ends_avc_sequence(body):
        return False, []
    codec_id = body[0] & 0x0F
    return begins, [(0, LEGACY_FOURCCS.get(codec_id, bytes((codec_id,))))]


def _ends_avc_sequence(body: bytes) -> bool:
    """Whether a message before Enhanced RTMP has AVCPacketType 2 (FLV 10.1, section E.4.3.1)."""
    if len(body) < 2 or body[0] & 0x0F not in _WITH_PACKET_TYPE or body[0] & 0x80:
        return False
    return body[1] == 2 and _BY_FRAME_TYPE[body[0] >> 4] != OTHER


def may_be_multitrack(body: bytes) -> bool:
    """Whether a video message, which must not be empty, may be of another track than 0. `tracks` tells for sure."""
    return body[0] & 0x8E == 0x86  # Multitrack or ModEx


def tracks(type_id: int, body: bytes) -> tuple[int, ...]:
    """Returns the ids (0 to 255) of the tracks that a media message carries, each once.

    A message that is not multitrack is of track 0. One that is and cannot be understood carries none.
    """
    if not body or not _is_enhanced(type_id, body) or body[0] & 0x0F < AUDIO_MULTITRACK:
        return (0,)
    packet = parse(type_id, body)
    return _distinct(packet) if packet else ()


def track_0(type_id: int, body: bytes) -> bytes | None:
    """Returns an audio or video message as one that knows no other track than 0: the message itself, what it has of
    track 0 (without ModEx prefixes), or None for one of other tracks."""
    if not body or not _is_enhanced(type_id, body) or body[0] & 0x0F < AUDIO_MULTITRACK:
        return body
    packet = parse(type_id, body)
    if packet is None or (len(packet.tracks) == 1 and not _is_multitrack(type_id, body)):
        return body  # nobody knows better than the player
    for track in packet.tracks:
        if track.track_id == 0:
            first = bytes((body[0] & 0xF0 | packet.packet_type,))
            return first + track.fourcc + body[track.start : track.stop]
    return None


def codec_name(type_id: int, body: bytes) -> str:
    """Returns the name of the codec of a media message (of its first track), for people, or "unknown"."""
    if not body:
        return "unknown"
    if not _is_enhanced(type_id, body):
        if type_id == VIDEO:
            return _VIDEO_CODECS.get(body[0] & 0x0F, "unknown")
        return _SOUND_FORMATS.get(body[0] >> 4, "unknown")
    packet = parse(type_id, body)
    return CODEC_NAMES.get(packet.tracks[0].fourcc, "unknown") if packet else "unknown"


class Track(NamedTuple):
    """One track in an Enhanced RTMP message. Its payload is ``body[start:stop]``."""

    track_id: int
    fourcc: bytes
    start: int
    stop: int


class Packet(NamedTuple):
    """What an Enhanced RTMP message has behind its ModEx prefixes: at least one track."""

    packet_type: int
    tracks: tuple[Track, ...]


def parse(type_id: int, body: bytes) -> Packet | None:
    """Takes an Enhanced RTMP message apart. Returns None for other messages, commands, and what is malformed.

    It takes at most `MAX_MODEX` and `MAX_TRACKS` steps, and copies nothing but the FourCCs.
    """
    try:
        return _parse(type_id, body)
    except IndexError:
        return None


def _parse(type_id: int, body: bytes) -> Packet | None:
    """Raises IndexError where the body is too short."""
    if not _is_enhanced(type_id, body):
        return None
    packet_type = body[0] & 0x0F
    offset = 1
    if packet_type == MODEX:
        packet_type, offset = _skip_modex(body)
    if type_id == VIDEO and body[0] >> 4 & 7 == _COMMAND_FRAME and packet_type != METADATA:
        return None
    multitrack = VIDEO_MULTITRACK if type_id == VIDEO else AUDIO_MULTITRACK
    if packet_type == multitrack:
        return _parse_multitrack(body, offset, multitrack)
    fourcc = _fourcc(body, offset)
    return Packet(packet_type, (Track(0, fourcc, offset + 4, len(body)),))


def _skip_modex(body: bytes) -> tuple[int, int]:
    """Returns the packet type behind the ModEx prefixes and the offset behind it; `MODEX` where there are too many."""
    offset = 1
    for _ in range(MAX_MODEX):
        size = body[offset] + 1
        offset += 1
        if size == 256:
            size = (body[offset] << 8 | body[offset + 1]) + 1
            offset += 2
        offset += size
        packet_type = body[offset] & 0x0F
        offset += 1
        if packet_type != MODEX:
            return packet_type, offset
    return MODEX, offset


def _parse_multitrack(body: bytes, offset: int, multitrack: int) -> Packet | None:
    kind = body[offset] >> 4
    packet_type = body[offset] & 0x0F
    offset += 1
    if kind > MANY_TRACKS_MANY_CODECS or packet_type in (multitrack, MODEX):
        return None
    fourcc = b""
    if kind != MANY_TRACKS_MANY_CODECS:
        fourcc = _fourcc(body, offset)
        offset += 4
    if kind == ONE_TRACK:
        return Packet(packet_type, (Track(body[offset], fourcc, offset + 1, len(body)),))
    found: list[Track] = []
    while offset < len(body):
        if len(found) == MAX_TRACKS:
            return None
        if kind == MANY_TRACKS_MANY_CODECS:
            fourcc = _fourcc(body, offset)
            offset += 4
        start = offset + 4
        stop = start + (body[offset + 1] << 16 | body[offset + 2] << 8 | body[offset + 3])
        if stop > len(body):
            return None
        found.append(Track(body[offset], fourcc, start, stop))
        offset = stop
    return Packet(packet_type, tuple(found)) if found else None


def _fourcc(body: bytes, offset: int) -> bytes:
    fourcc = body[offset : offset + 4]
    if len(fourcc) < 4:
        raise IndexError
    return fourcc


def _classify_rare(type_id: int, body: bytes) -> int:
    packet = parse(type_id, body)
    if packet is None:
        return OTHER
    if packet.packet_type in _header_kinds(type_id):
        return HEADER
    if type_id == AUDIO:
        return FRAME if packet.packet_type == CODED_FRAMES else OTHER
    if packet.packet_type not in _CODED:
        return OTHER
    frame_type = body[0] >> 4 & 7
    return _BY_FRAME_TYPE[frame_type] if frame_type else _classify_unmarked(packet, body)


def _classify_unmarked(packet: Packet, body: bytes) -> int:
    """`KEYFRAME` or `FRAME` for coded frames with frame type 0, by what the first track's frame is."""
    track = packet.tracks[0]
    start = track.start
    if packet.packet_type == CODED_FRAMES and track.fourcc in WITH_COMPOSITION_TIME:
        start += 3
    return KEYFRAME if is_keyframe(track.fourcc, body, start, track.stop) else FRAME


def _header_kinds(type_id: int) -> dict[int, str]:
    return _VIDEO_HEADERS if type_id == VIDEO else _AUDIO_HEADERS


def _is_enhanced(type_id: int, body: bytes) -> bool:
    return bool(body[0] & 0x80) if type_id == VIDEO else body[0] >> 4 == EX_HEADER


def _is_multitrack(type_id: int, body: bytes) -> bool:
    """Whether an Enhanced RTMP message that can be parsed says which tracks it has."""
    packet_type = body[0] & 0x0F
    if packet_type == MODEX:
        packet_type, _ = _skip_modex(body)
    return packet_type == (VIDEO_MULTITRACK if type_id == VIDEO else AUDIO_MULTITRACK)


def _distinct(packet: Packet) -> tuple[int, ...]:
    return tuple(dict.fromkeys(track.track_id for track in packet.tracks))
