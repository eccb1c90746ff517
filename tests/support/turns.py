"""A clock that tells the reactor's turns apart."""

from __future__ import annotations

from twisted.internet.task import Clock


class TurnClock(Clock):
    """``advance`` goes on until nothing is due; `turn` does what one turn of a reactor does."""

    def turn(self) -> None:
        """Calls what is due now, but not what that schedules."""
        for call in [call for call in self.calls if call.getTime() <= self.seconds()]:
            if call.active():
                self.calls.remove(call)
                call.called = 1
                call.func(*call.args, **call.kw)
