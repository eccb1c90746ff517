"""One publish: what a source sends, from the request on to its end. Made by the broker; written to by rtmp/.

`Publication.write` is the whole way in: it finds keyframes and headers, puts the message into the channel's log at the
time that players see, and has it handed to them. Where the source sits does not matter to it: an encoder here, or a
server that a channel is pulled from.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final, Protocol

from rtmp_twisted.live.audience import Audience
from rtmp_twisted.live.channel import Channel
from rtmp_twisted.live.directory import Key
from rtmp_twisted.live.headers import KeptHeaders, Program
from rtmp_twisted.live.log import MediaLog
from rtmp_twisted.live.timestamps import Timestamps
from rtmp_twisted.media import tags
from rtmp_twisted.states import Transitions
from rtmp_twisted.wire import messages
from rtmp_twisted.wire.messages import AUDIO, VIDEO, Message

MAX_HELD_BYTES: Final = 1024 * 1024
"""Media held for a publish that has not been accepted yet; from there on its source has to wait (`full`)."""

HELD_OVERHEAD: Final = 200
"""Bytes that a held message counts beside its body."""

LEAD_MILLISECONDS: Final = 60_000
"""After so long without a keyframe of the video track that leads, another one leads."""

KEYFRAME_MILLISECONDS: Final = 10_000
"""Video without any keyframe is dropped for so long, and relayed from there on: some sources mark none."""

_TRACK_0: Final[tuple[int, ...]] = (0,)


class PublishState(enum.Enum):
    """See `PUBLISH_TRANSITIONS`."""

    ASKING = "asking"
    WAITING = "waiting to take over"
    ON_AIR = "on air"
    LOST = "lost"
    ENDED = "ended"


PUBLISH_TRANSITIONS: Final = Transitions(
    {
        PublishState.ASKING: (PublishState.WAITING, PublishState.ON_AIR, PublishState.ENDED),
        PublishState.WAITING: (PublishState.ASKING, PublishState.ENDED),
        PublishState.ON_AIR: (PublishState.LOST, PublishState.ENDED),
        PublishState.LOST: (PublishState.ENDED,),
        PublishState.ENDED: (),
    }
)
"""A publish's life: asking the authority, waiting for a silent publisher's place, on air, lost without a word (its
players are held for the next one), ended."""


class PublicationOwner(Protocol):
    """The source's side of a publish. None of these is called before `Broker.publish` has returned, nor for an end
    that the owner asked for."""

    @property
    def heard_at(self) -> float:
        """When the source sent something last, by the broker's clock."""

    @property
    def bytes_received(self) -> int:
        """What the source has sent so far, of whatever kind."""

    @property
    def agent(self) -> str:
        """What the source calls itself."""

    @property
    def connection_number(self) -> int:
        """The number of its connection in the log."""

    def publish_started(self, publication: Publication) -> None:
        """On air: what `Publication.write` gets goes to the players."""

    def publish_goes_on(self, publication: Publication) -> None:
        """What its source had to wait with is taken again."""

    def publish_refused(self, publication: Publication, reason: str) -> None:
        """It may not start."""

    def publish_ended(self, publication: Publication, reason: str) -> None:
        """It was ended from elsewhere."""


class Publication:
    """``client_ip`` is the source's address; times are the broker's clock's seconds. ``stream_id`` is empty until the
    publish is on air, and may be the key: it is not for the log. ``pulled``: what another server plays, which makes
    room for a publish; ``edge``: what another worker has, which claims no place; ``any_key``: its players may have any
    key; ``path``: the servers that it has passed."""

    def __init__(
        self,
        name: str,
        key: str,
        client_ip: str,
        owner: PublicationOwner,
        pulled: bool = False,
        any_key: bool = False,
        path: tuple[str, ...] = (),
        edge: bool = False,
    ) -> None:
        self.name = name
        self.key = key
        self.client_ip = client_ip
        self.owner = owner
        self.pulled = pulled
        self.edge = edge
        self.play_key: Key | str | None = None if any_key else key
        """What players have to give, None for any key."""
        self.path = path
        self.state = PublishState.ASKING
        self.stream_id = ""
        self.key_accepted = False
        """Whether its key is known to be right: the publisher's that it met, or accepted by the authority."""
        self.on_air_since: float | None = None
        self.received_bytes = 0
        """Bytes of message bodies, while it was on air."""
        self.received_messages = 0
        self.dropped = 0
        """Video messages dropped because no keyframe had come yet."""
        self.keyframe_interval: int | None = None
        """Milliseconds between the last two keyframes, by the source's clock; None until there were two."""
        self.wake: Callable[[], None] | None = None
        """Set while the broker waits for its sake: ends that wait."""
        self._log: MediaLog | None = None  # only while it is on air
        self._audience: Audience | None = None
        self._timestamps: Timestamps | None = None
        self._withheld: tuple[MediaLog | None, Audience | None, Timestamps | None] | None = None
        self._program = Program()
        self._headers = KeptHeaders(name)
        self._video_tracks: set[int] = set()
        self._lead = 0  # the track whose keyframes begin groups of pictures
        self._led_at = 0
        self._first_video_at: int | None = None  # while there has been no keyframe
        self._held: list[Message] = []
        self.held_bytes = 0
        """Bytes of memory that media takes which came before the publish was accepted."""

    @property
    def ended(self) -> bool:
        """Whether its source has nothing to do with the channel any more."""
        return self.state is PublishState.ENDED or self.state is PublishState.LOST

    @property
    def full(self) -> bool:
        """Whether the source has to wait: it has sent as much as is held before the publish is accepted."""
        return self.held_bytes > MAX_HELD_BYTES

    # Called by the broker

    def enter(self, state: PublishState) -> None:
        """Changes its state. Raises IllegalTransition where `PUBLISH_TRANSITIONS` does not list that."""
        self.state = PUBLISH_TRANSITIONS.move(self.state, state)

    def open(self, channel: Channel, now: float) -> None:
        """From now on what is written goes to the channel."""
        self.enter(PublishState.ON_AIR)
        self.on_air_since = now
        self._log = channel.log
        self._audience = channel.audience
        self._timestamps = channel.timestamps
        self._video_tracks = channel.program.video_tracks
        self._program = channel.program
        self._program.kept = self._headers

    def write_held(self) -> None:
        """Writes what came before the publish was accepted."""
        held, self._held, self.held_bytes = self._held, [], 0
        for message in held:
            self.write(message)

    def withhold(self) -> None:
        """What is written from now on waits for `go_on`. Safe to call again."""
        if self._withheld is None:
            self._withheld = self._log, self._audience, self._timestamps
            self._log = self._audience = self._timestamps = None

    def go_on(self) -> bool:
        """Writes what was withheld; returns whether anything was to be."""
        if self._withheld is None:
            return False
        self._log, self._audience, self._timestamps = self._withheld
        self._withheld = None
        self.write_held()
        return True

    def close(self, state: PublishState) -> None:
        """From now on what is written is dropped, and nothing is kept."""
        self.enter(state)
        self._log = self._audience = self._timestamps = self._withheld = None
        self._held, self.held_bytes = [], 0
        self._headers = KeptHeaders(self.name)
        if self.wake is not None:
            self.wake()

    # Called by its source

    def write(self, message: Message) -> None:
        """One audio, video or data message: held until the publish is accepted, dropped once it has ended."""
        log, audience, timestamps = self._log, self._audience, self._timestamps
        if log is None or audience is None or timestamps is None:
            self._hold(message)
            return
        type_id, _, timestamp, body = message
        if type_id != VIDEO and type_id != AUDIO:
            self._write_data(log, audience, timestamps, message)
            return
        self.received_messages += 1
        self.received_bytes += len(body)
        if type_id == AUDIO:
            kind = tags.classify_audio(body)
        else:
            kind = tags.classify_video(body)
            if kind == tags.HEADER:
                self._program.has_video = True
            elif kind != tags.OTHER and not self._begin_frame(log, body, timestamp, kind == tags.KEYFRAME):
                self.dropped += 1
                return
        header = kind == tags.HEADER
        if kind >= tags.HEADER:
            self._headers.take(message, header)
        rebase = timestamps.rebase if kind < tags.HEADER else timestamps.rebase_other
        audience.appended(log.append(type_id, rebase(type_id, timestamp), body, header))

    # Inside

    def _hold(self, message: Message) -> None:
        if not self.ended:
            self._held.append(message)
            self.held_bytes += len(message.body) + HELD_OVERHEAD

    def _write_data(self, log: MediaLog, audience: Audience, timestamps: Timestamps, message: Message) -> None:
        """A data message."""
        name, data = messages.data_name(message)
        self.received_messages += 1
        self.received_bytes += len(data.body)
        if name == "onMetaData":
            self._headers.keep_metadata(data)
            audience.appended(log.append_metadata(data.body))
        else:
            time = timestamps.rebase_other(data.type_id, data.timestamp)
            audience.appended(log.append(data.type_id, time, data.body))

    def _begin_frame(self, log: MediaLog, body: bytes, timestamp: int, keyframe: bool) -> bool:
        """Returns whether a video frame can be of use: its track has had a keyframe, in this publish."""
        multitrack = tags.may_be_multitrack(body)
        found = tags.tracks(VIDEO, body) if multitrack else _TRACK_0
        tracks = self._video_tracks
        leads = keyframe and self._leads(found, timestamp)
        if leads:
            self._program.has_video = True
            log.begin_group(self._program.headers)
        if keyframe:
            tracks.update(found)
        elif tracks.isdisjoint(found) and not self._without_keyframes(timestamp):
            return False
        if multitrack or len(tracks) > 1:
            log.note_tracks(found, keyframe)
        return True

    def _leads(self, found: tuple[int, ...], timestamp: int) -> bool:
        """Returns whether a keyframe begins a group of pictures: one of the track that had the first.

        Where each track comes in messages of its own, the other tracks' keyframes follow that one, in its group.
        """
        tracks = self._video_tracks
        if self._lead not in found:
            if tracks and timestamp - self._led_at < LEAD_MILLISECONDS:
                return False
            self._lead = found[0]
        if tracks:
            self.keyframe_interval = timestamp - self._led_at & 0xFFFFFFFF
        self._led_at = timestamp
        return True

    def _without_keyframes(self, timestamp: int) -> bool:
        """Returns whether the source has had its time for a first keyframe."""
        if self._video_tracks:
            return False  # of another track
        if self._first_video_at is None:
            self._first_video_at = timestamp
        passed = timestamp - self._first_video_at & 0xFFFFFFFF
        return KEYFRAME_MILLISECONDS <= passed < 0x80000000
