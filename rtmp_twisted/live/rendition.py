"""A second form of a channel's media, made from its log while somebody reads it. Used by channel.

A `Rendition` reads the channel's log once for all its own readers and appends the same messages to a log of its own, in
another `Format`, with the same groups of pictures and headers. It is made by its first reader, from the cached group of
pictures on, and is gone with its last one. The readers are an `Audience` like those of the channel's own log.
"""

from __future__ import annotations

from collections.abc import Iterator

from rtmp_twisted.live.audience import Audience, FlushScheduler
from rtmp_twisted.live.log import HEADER, Block, MediaLog
from rtmp_twisted.wire import chunks, messages
from rtmp_twisted.wire.messages import Message

TURN_BYTES = 4 * 1024 * 1024
"""Bytes of the channel's log that are taken over in one turn of the reactor, in whole blocks."""


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
        self._decoder = chunks.ChunkDecoder()
        list(self._decoder.feed(chunks.encode(messages.set_chunk_size(chunk_size), 2, chunks.DEFAULT_CHUNK_SIZE)))
        groups = source.log.groups
        self._block = groups[-1] if groups else source.log.head
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
        if self._take(TURN_BYTES):
            self._unfinished = True
            self._turns.add(self._next_turn)
        self.audience.appended(self.log.pending)

    def restart(self) -> None:
        """Nothing that was published so far is kept for joiners."""
        self._take(self._source.log.position)
        self.audience.flush()
        self.log.restart(whole=False)

    def close(self) -> None:
        """Nobody reads it any more."""
        self._source.followers.remove(self.follow)
        self._block = self._source.log.head
        self.audience.close()

    def _next_turn(self) -> bool:
        self._unfinished = self._take(TURN_BYTES)
        self.audience.flush()
        return self._unfinished

    def _take(self, most: int) -> bool:
        """Takes over about ``most`` bytes; returns whether there are more."""
        head = self._source.log.head
        end = self._block.position + most
        while self._block.position < min(head.position, end):
            self._append(self._block)
            assert self._block.following is not None
            self._block = self._block.following
        return self._block.position < head.position

    def _append(self, block: Block) -> None:
        if block.headers is not None:
            self.log.begin_group(block.headers)
        for place, message in enumerate(self._messages(block)):
            if block.tracks is not None and place in block.tracks:
                self.log.note_tracks(*block.tracks[place])
            self.log.append(message.type_id, message.timestamp, message.body, block.types[place] == HEADER)

    def _messages(self, block: Block) -> Iterator[Message]:
        return (message for message in self._decoder.feed(block.data) if message is not None)
