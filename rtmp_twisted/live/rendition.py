"""A second form of a channel's media, made from its log while somebody reads it. Used by channel.

A `Rendition` reads the channel's log once for all its own readers and appends the same messages to a log of its own, in
another `Format`, with the same groups of pictures and headers. It is made by its first reader, from the cached group of
pictures on, and is gone with its last one. The readers are an `Audience` like those of the channel's own log.
"""

from __future__ import annotations

from collections.abc import Iterator

from twisted.logger import Logger

from rtmp_twisted.live.audience import Audience, FlushScheduler
from rtmp_twisted.live.log import HEADER, Block, MediaLog
from rtmp_twisted.wire import chunks, messages
from rtmp_twisted.wire.messages import Message

TURN_MESSAGES = 256
"""Messages of the channel's log that are taken over in one turn of the reactor."""

TURN_BYTES = 4 * 1024 * 1024
"""Bytes of them, and one message more."""

_log = Logger(__name__)


class Rendition:
    """``log`` is the empty log that is written; ``source`` is the audience of a log of RTMP chunks that are
    ``chunk_size`` bytes long."""

    def __init__(
        self, log: MediaLog, source: Audience, chunk_size: int, scheduler: FlushScheduler, merge_messages: int
    ) -> None:
        self.log = log
        self.audience = Audience(self.log, scheduler, merge_messages)
        self._source = source
        self._turns = scheduler.turns
        self._chunk_size = chunk_size
        groups = source.log.groups
        self._stand_at(groups[-1] if groups else source.log.head)
        self._unfinished = False
        source.followers.append(self.follow)
        self.follow()
        self.audience.flush()

    def held(self) -> int:
        """Bytes of memory that it takes."""
        return self.audience.held()

    def follow(self) -> None:
        """Takes over what is new in the channel's log; in the next turns as well, if it is much."""
        if self._unfinished:
            return
        if self._take():
            self._unfinished = True
            self._turns.add(self._next_turn)
        self.audience.appended(self.log.pending)

    def restart(self) -> None:
        """Nothing that was published so far is kept for joiners."""
        if self._take():  # it was made a moment ago, from a cache of very many messages
            left_out = self._source.log.head.number - self._block.number
            _log.info("up to {count} messages came too late for viewers of another form", count=left_out)
            self._stand_at(self._source.log.head)
        self.audience.flush()
        self.log.restart(whole=False)

    def close(self) -> None:
        """Nobody reads it any more."""
        self._source.followers.remove(self.follow)
        self._stand_at(self._source.log.head)
        self.audience.close()

    def _stand_at(self, block: Block) -> None:
        """What is taken over next begins there."""
        self._block = block
        self._begun: Iterator[int] | None = None  # the messages of it that are not taken over yet
        self._decoder = chunks.ChunkDecoder()
        list(self._decoder.feed(chunks.encode(messages.set_chunk_size(self._chunk_size), 2, chunks.DEFAULT_CHUNK_SIZE)))

    def _next_turn(self) -> bool:
        self._unfinished = self._take()
        self.audience.flush()
        return self._unfinished

    def _take(self) -> bool:
        """Takes over what one turn may; returns whether there may be more."""
        messages, size = 0, 0
        head = self._source.log.head
        while self._block is not head:
            if self._begun is None:
                self._begun = self._append(self._block)
            for length in self._begun:
                messages += 1
                size += length
                if messages >= TURN_MESSAGES or size >= TURN_BYTES:
                    return True
            self._begun = None
            assert self._block.following is not None
            self._block = self._block.following
        return False

    def _append(self, block: Block) -> Iterator[int]:
        """Takes over the messages of a block, and yields the length of each."""
        if block.headers is not None:
            self.log.begin_group(block.headers)
        for place, message in enumerate(self._messages(block)):
            if block.tracks is not None and place in block.tracks:
                self.log.note_tracks(*block.tracks[place])
            self.log.append(message.type_id, message.timestamp, message.body, block.types[place] == HEADER)
            yield len(message.body)

    def _messages(self, block: Block) -> Iterator[Message]:
        return (message for message in self._decoder.feed(block.data) if message is not None)
