"""Who reads a log, and when new media is handed to them. Used by channel, rendition and publication.

An `Audience` is all readers of one log. Those that keep up get one call each with the same bytes; the others advance on
their own (cursor.py). It knows nothing of what the log holds, an RTMP stream or anything else.

The `FlushScheduler` is one for the process: it decides when audiences are flushed. System calls are what a live
server's time goes to, one for each reader and write. The fewer writes, the less it costs and the later a frame arrives.
While a round over all readers of the process is cheap, each frame is written at once. When it is not, the interval
between two rounds is chosen so that their calls take a fixed share of the core. The calls count and not the bytes,
which have to be sent anyway.

Pushes to other servers have rounds of their own, in other turns of the reactor, so that viewers never wait for them. A
push gets some frames at a time, in one write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from rtmp_twisted.live.cursor import CAUGHT_UP, UNFINISHED, Cursor
from rtmp_twisted.live.headers import Headers
from rtmp_twisted.live.log import Block, MediaLog
from rtmp_twisted.live.turns import Turns

FEW_READERS: Final = 3
"""A log with no more readers than this is flushed at once: writing to them costs what receiving a frame costs."""

FREE_SECONDS: Final = 0.00003
"""What writing to so few readers costs; only what a round costs beyond that counts."""

CHEAP_SECONDS: Final = 0.001
"""While the rounds of all logs together cost less, everything is written at once."""

SHARE: Final = 0.075
"""The part of one core that the calls of a round may take, beyond what is cheap."""

USUAL_SECONDS: Final = 0.1
"""The longest interval, unless the core fills up."""

FULL_SHARE: Final = 0.2
"""The part of one core from which on the calls of rounds at that interval fill it up: the interval grows then, up to
WRITE_MERGE_MS, so that they take no more."""

HALF_COUNTS_BYTES: Final = 100_000
"""Of the cost of a call that sends so many bytes, half counts. A call costs about what sending 16,000 bytes costs, on
any machine, since both are the kernel's work. Some of the bytes count as well, or high bit rates would be written
needlessly often."""

SMOOTHING: Final = 0.25
"""Weight of the newest cost, so that one round that was interrupted does not decide."""

KEYFRAME_SECONDS: Final = 10.0
"""A reader that waits for a keyframe gets everything after so long: some sources mark none."""

PUSH_SECONDS: Final = 0.05
"""How long media is held back for pushes, so that writes are merged: the other server does not notice it."""

READERS_PER_TURN: Final = 64
"""Readers that are behind and go on in one turn of the reactor when new media comes; the others follow in the next."""

_log = Logger(__name__)


class FlushScheduler:
    """``longest``: the most seconds that media is held back so that writes can be merged; 0: never.
    ``stopwatch`` gives the seconds of CPU time that rounds are measured with. ``processes`` share what may be used
    among them: several workers do not write more often than one process would."""

    def __init__(
        self,
        clock: IReactorTime,
        longest: float,
        stopwatch: Callable[[], float],
        turns: Turns,
        processes: int = 1,
    ) -> None:
        self.clock = clock
        self.stopwatch = stopwatch
        self.turns = turns
        self._longest = longest
        self._processes = processes
        self._round = 0.0
        self._pending: dict[Audience, None] = {}
        self._timer: IDelayedCall | None = None

    @property
    def interval(self) -> float:
        """Seconds from one write to the next, for a log with more than `FEW_READERS`."""
        cost = self._round * self._processes  # as one process would have it
        if cost < CHEAP_SECONDS:
            return 0.0
        return min(self._longest, (cost - CHEAP_SECONDS) / SHARE, max(USUAL_SECONDS, self._round / FULL_SHARE))

    def add(self, audience: Audience) -> None:
        """The audience's log has something new, which `flush_pending` is to hand over."""
        self._pending[audience] = None

    def remove(self, audience: Audience) -> None:
        """The audience has been flushed, or is gone. Safe to call again."""
        self._pending.pop(audience, None)

    def flush_pending(self) -> None:
        """Flushes what is due. Called when everything that publishers have sent at the moment has been read, and by
        the timer. Never raises."""
        if not self._pending:
            return
        interval = self.interval
        now = self.clock.seconds() if interval else 0.0
        later = 0.0
        seen: set[Audience] = set()
        while pending := [audience for audience in self._pending if audience not in seen]:
            for audience in pending:  # one that is flushed may have followers, which are pending then
                seen.add(audience)
                wait = audience.due - now if interval and len(audience) > FEW_READERS else 0.0
                if wait > 0.0:
                    later = min(later or wait, wait)
                    continue
                try:
                    audience.flush()
                except Exception:
                    _log.failure("a bug, while media was handed over")
                    self.remove(audience)
        if later and self._timer is None:
            self._timer = self.clock.callLater(min(later, interval), self._timed)

    def charge(self, before: float, seconds: float, size: int) -> float:
        """A round of one log, whose smoothed cost was ``before`` (seconds), took ``seconds`` for ``size`` bytes to
        each reader. Returns the new cost."""
        calls = seconds * HALF_COUNTS_BYTES / (HALF_COUNTS_BYTES + size)
        after = before + (max(0.0, calls - FREE_SECONDS) - before) * SMOOTHING
        self._round += after - before
        return after

    def refund(self, cost: float) -> None:
        """A log whose smoothed cost was ``cost`` costs nothing any more."""
        self._round = max(0.0, self._round - cost)

    def _timed(self) -> None:
        self._timer = None
        self.flush_pending()


class Audience:
    """The readers of ``log``. ``merge_messages``: most messages that one write gathers."""

    def __init__(self, log: MediaLog, scheduler: FlushScheduler, merge_messages: int) -> None:
        self.log = log
        self.due = 0.0
        """The clock's time from which on the log may be flushed again."""
        self.skips = 0
        """How often readers that have left were too slow and lost a part of the stream."""
        self.skipped_bytes = 0
        self.followers: list[Callable[[], None]] = []
        """Called behind each flush: what makes other logs out of this one."""
        self._scheduler = scheduler
        self._merge_messages = merge_messages
        self._cost = 0.0
        self._cursors: set[Cursor] = set()
        self._keeping_up: dict[Cursor, Callable[[bytes], int]] = {}
        self._behind: dict[Cursor, None] = {}
        self._unfinished: set[Cursor] = set()  # of those behind: they go on in the next turn
        self._waiting: dict[Cursor, float] = {}  # of those behind: for a keyframe, since when
        self._pushes: set[Cursor] = set()  # of all: other servers; always behind
        self._push_timer: IDelayedCall | None = None  # for what they have not been handed
        self._held: dict[Cursor, None] | None = None  # who came while the publisher was lost; None: it is not

    def __len__(self) -> int:
        """How many viewers there are."""
        return len(self._cursors) - len(self._pushes)

    def __iter__(self) -> Iterator[Cursor]:
        return iter(self._cursors)

    # The publisher's side

    def appended(self, pending: int) -> None:
        """Something has been appended to the log, which has ``pending`` messages that are not sealed."""
        if pending >= self._merge_messages:
            self.flush()
        elif pending:
            self._scheduler.add(self)

    def flush(self) -> None:
        """Hands all that is new to the viewers, and soon to the pushes."""
        scheduler = self._scheduler
        scheduler.remove(self)
        if len(self) <= FEW_READERS:
            self._deliver()
            if self._cost:
                scheduler.refund(self._cost)
                self._cost = 0.0
        else:
            began = scheduler.stopwatch()
            size = self._deliver()
            self._cost = scheduler.charge(self._cost, scheduler.stopwatch() - began, size)
            interval = scheduler.interval
            if interval:
                self.due = scheduler.clock.seconds() + interval
        if self._pushes and self._push_timer is None:
            self._push_timer = scheduler.clock.callLater(PUSH_SECONDS, self._push_round)
        for follow in self.followers:
            follow()

    def flush_pushes(self) -> None:
        """Hands the pushes, now, what they can take of what the viewers have been handed."""
        for cursor in list(self._pushes):
            self._advance_push(cursor)

    def hold(self) -> None:
        """The publisher was lost, and may come back: readers that join now wait for it."""
        if self._held is None:
            self._held = {}

    def release(self) -> None:
        """The publisher is back, or does not come back: starts those who came in the meantime."""
        held, self._held = self._held, None
        for cursor in held or ():
            self._place_next(cursor, sound=True)
        self._advance_all(held or ())

    def held(self) -> int:
        """Bytes of memory that the log takes, from the oldest block that the cache or a reader still needs."""
        log = self.log
        cost = oldest = log.tail.cost
        if log.groups:
            oldest = log.groups[0].cost
        rests = 0
        for cursor in self._behind:
            oldest = cursor.oldest_cost(oldest)
            rests += cursor.rest_size()
        return cost - oldest + rests

    def shrink(self) -> None:
        """Keeps nothing for joiners, and has all readers that are behind skip to what comes next."""
        self.flush_pushes()
        self.log.seal()
        self.log.forget()
        late = [cursor for cursor in self._behind if cursor.position() < self.log.head.position]
        for cursor in late:
            cursor.skip()
            self._put(cursor, None, sound=False)
        self._advance_all(late)

    def close(self) -> None:
        """Nobody uses the log any more."""
        self.log.restart(whole=False)
        self._scheduler.remove(self)
        self._scheduler.refund(self._cost)

    # The readers' side

    def start(self, cursor: Cursor, group: Block | None, sound: bool = True) -> None:
        """Starts a reader, at first or after a pause: at a group of pictures, or (None) with what comes next, which is
        video from the next keyframe on, and sound at once or (not ``sound``) with it."""
        self._cursors.add(cursor)
        if cursor.push:
            self._pushes.add(cursor)
        self._put(cursor, group, sound)
        if cursor in self._behind:
            self._advance(cursor)

    def stop(self, cursor: Cursor) -> None:
        """The reader gets nothing until `start`."""
        self._remove(cursor)
        cursor.stop()

    def leave(self, cursor: Cursor) -> None:
        """The reader has gone. Safe to call again."""
        if cursor in self._cursors:
            self._remove(cursor)
            self._cursors.discard(cursor)
            self._pushes.discard(cursor)
            if not self._pushes and self._push_timer is not None:
                self._push_timer.cancel()
                self._push_timer = None
            self.skips += cursor.skips
            self.skipped_bytes += cursor.skipped_bytes
            cursor.leave()

    def enable(self, cursor: Cursor, audio: bool | None, video: bool | None) -> None:
        """The reader wants audio or video, or does not want it any more (None: as before)."""
        cursor.enable(audio, video)
        if cursor.waits_for_video:
            self._waiting.setdefault(cursor, self._scheduler.clock.seconds())
        tracks = self.log.video_tracks
        if cursor.waits_for_video and len(tracks) > 1:
            cursor.lack(tracks)
        if cursor in self._keeping_up and not cursor.plain:
            self.blocked(cursor)

    def blocked(self, cursor: Cursor) -> None:
        """The reader's writer is blocked by what somebody else wrote: it does not keep up until `resume`."""
        if self._keeping_up.pop(cursor, None) is not None:
            cursor.fall_behind(self.log.head, 0)
            self._behind[cursor] = None

    def resume(self, cursor: Cursor) -> None:
        """The reader's writer is not blocked any more."""
        if cursor not in self._behind:
            cursor.finish_message()  # others on its connection wait for that
        elif cursor not in self._unfinished:
            self._advance(cursor)

    # Inside

    def _deliver(self) -> int:
        """Returns how many bytes of the log are new."""
        log = self.log
        log.seal()
        first, log.head = log.head, log.tail
        if first is log.tail:
            return 0
        if self._keeping_up:
            self._fan_out(first)
        if self._waiting:
            self._end_waiting()
        if self._behind:
            self._advance_all([cursor for cursor in self._behind if cursor not in self._pushes])
        return log.head.position - first.position

    def _fan_out(self, first: Block) -> None:
        """One call for each reader that keeps up: this loop is where a live server's time goes."""
        if first.following is self.log.tail:
            data = first.data
        else:
            blocks: list[bytes] = []
            block: Block | None = first
            while block is not None:
                blocks.append(block.data)
                block = block.following
            data = b"".join(blocks)
        size = len(data)
        full: list[tuple[Cursor, int]] = []
        for cursor, send in list(self._keeping_up.items()):  # `blocked` may be called while a writer takes it
            try:
                taken = send(data)
            except OSError:  # full, or lost, which its connection will hear of
                taken = 0
            if taken != size:
                full.append((cursor, taken))
        for cursor, taken in full:
            self._keeping_up.pop(cursor, None)
            self._behind[cursor] = None
            cursor.fall_behind(first, taken)
            self._advance(cursor)

    def _end_waiting(self) -> None:
        """Those who have waited for a keyframe for too long get everything."""
        now = self._scheduler.clock.seconds()
        for cursor, since in list(self._waiting.items()):
            if not cursor.waits_for_video:
                del self._waiting[cursor]
            elif now - since >= KEYFRAME_SECONDS:
                del self._waiting[cursor]
                cursor.release()

    def _put(self, cursor: Cursor, group: Block | None, sound: bool) -> None:
        """As `start`, but the reader gets nothing before it advances."""
        self._remove(cursor)
        if self._held is not None:
            self._held[cursor] = None
        elif group is None:
            self._place_next(cursor, sound)
        else:
            assert group.headers is not None
            self._place(cursor, group, group.headers)

    def _place_next(self, cursor: Cursor, sound: bool) -> None:
        """The reader goes on with what comes next, once it advances."""
        log = self.log
        if log.program.has_video:
            cursor.hold(sound)
            self._waiting[cursor] = self._scheduler.clock.seconds()
        log.seal()  # what has not been handed over yet is not for those who come
        self._place(cursor, log.tail, log.program.headers)

    def _place(self, cursor: Cursor, block: Block, headers: Headers) -> None:
        """The reader goes on at ``block``, once it advances."""
        self._behind[cursor] = None
        cursor.start(block, headers)
        tracks = self.log.video_tracks
        if len(tracks) > 1:
            cursor.lack(tracks.difference(block.tracks_of(0)[0]))

    def _advance_all(self, cursors: Iterable[Cursor]) -> None:
        """Lets readers that are behind go on: some now, the others in the next turns."""
        left = READERS_PER_TURN
        for cursor in cursors:
            if cursor in self._unfinished or cursor not in self._behind:
                continue
            if left:
                left -= 1
                self._advance(cursor)
            else:
                self._postpone(cursor)

    def _advance(self, cursor: Cursor) -> None:
        """Lets a reader that is behind go on, in the next turn as well if this turn's budget is used up."""
        result = cursor.advance()
        if result == CAUGHT_UP:
            del self._behind[cursor]
            self._keeping_up[cursor] = cursor.writer.send
        elif cursor.too_slow():
            cursor.skip()
            groups = self.log.groups
            self.start(cursor, groups[-1] if groups else None, sound=False)
        elif result == UNFINISHED:
            self._postpone(cursor)

    def _push_round(self) -> None:
        self._push_timer = None
        self._scheduler.turns.for_each(list(self._pushes), self._advance_push)

    def _advance_push(self, cursor: Cursor) -> None:
        if cursor in self._behind and cursor not in self._unfinished:
            self._advance(cursor)

    def _postpone(self, cursor: Cursor) -> None:
        self._unfinished.add(cursor)
        self._scheduler.turns.add(lambda: self._next_turn(cursor))

    def _next_turn(self, cursor: Cursor) -> bool:
        if cursor in self._unfinished:
            self._unfinished.discard(cursor)
            self._advance(cursor)
        return False

    def _remove(self, cursor: Cursor) -> None:
        self._keeping_up.pop(cursor, None)
        self._behind.pop(cursor, None)
        self._waiting.pop(cursor, None)
        self._unfinished.discard(cursor)
        if self._held is not None:
            self._held.pop(cursor, None)
