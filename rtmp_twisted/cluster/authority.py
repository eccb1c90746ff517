"""What a worker asks the supervisor in place of the callback, the coordinator and the limits of guessing.

The supervisor's side is starts.py, and the one `GuessingLimits` of the server.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from rtmp_twisted.cluster.control import Control, Failed, Gone
from rtmp_twisted.live.authority import IPublishAuthority, Refused
from rtmp_twisted.rtmp.guessing import GuessingLimits, source_of


@implementer(IPublishAuthority)
class SupervisorAuthority:
    """Asks the supervisor. Each start that it has accepted has a number, with which it is told its end."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._numbers: dict[tuple[str, str, str], list[int]] = {}

    def start(self, channel: str, key: str, client_ip: str) -> Deferred[str]:
        def answered(answer: dict[str, Any]) -> str:
            if "refused" in answer:
                raise Refused(answer["refused"])
            stream_id: str = answer["stream_id"]
            self._numbers.setdefault((channel, key, stream_id), []).append(answer["number"])
            return stream_id

        asked = self._control.call("start", channel=channel, key=key, client_ip=client_ip)
        return asked.addCallbacks(answered, _unavailable)

    def end(self, channel: str, key: str, stream_id: str, client_ip: str) -> Deferred[None]:
        numbers = self._numbers[channel, key, stream_id]
        number = numbers.pop(0)
        if not numbers:
            del self._numbers[channel, key, stream_id]
        return self._control.call("end", number=number).addBoth(lambda _: None)


class SupervisorGuessing(GuessingLimits):
    """Knows who has failed lately, and asks the supervisor about their attempts only."""

    def __init__(self, clock: IReactorTime, control: Control) -> None:
        super().__init__(clock)
        self._control = control
        self._suspects: set[str] = set()
        self.failures: Counter[str] = Counter()

    def note(self, come: list[str], gone: list[str]) -> None:
        """Who is suspected from now on, and who is not any more."""
        self._suspects.update(come)
        self._suspects.difference_update(gone)

    def attempt(
        self, address: str, channel: str, key: str, then: Callable[[bool], None], bug: Callable[[], None]
    ) -> IDelayedCall | None:
        if not self.suspects(address):
            then(False)
            return None
        asked = self._control.call("attempt", address=address, channel=channel, key=key)
        return _Attempt(asked, then, bug)  # type: ignore[return-value]  # of which nobody wants more than that

    def suspects(self, address: str) -> bool:
        return bool(self._suspects) and source_of(address) in self._suspects

    def fail(self, command: str, address: str, channel: str, key: str) -> None:
        self._control.tell("fail", command=command, address=address, channel=channel, key=key)

    def forget(self) -> None:
        """The supervisor does that."""


class _Attempt:
    """An attempt that the supervisor is asked about."""

    def __init__(self, asked: Deferred[dict[str, Any]], then: Callable[[bool], None], bug: Callable[[], None]) -> None:
        self._cancelled = False
        self._then = then
        self._bug = bug
        asked.addCallbacks(lambda answer: self._judged(answer["refused"]), lambda _: self._judged(True))

    def active(self) -> bool:
        return not self._cancelled

    def cancel(self) -> None:
        self._cancelled = True

    def _judged(self, refused: bool) -> None:
        if self._cancelled:
            return
        self._cancelled = True
        try:
            self._then(refused)
        except Exception:
            self._bug()


def _unavailable(failure: Failure) -> str:
    failure.trap(Gone, Failed)
    raise Refused("the supervisor does not answer")
