"""Which pushes there are, and when each has to run. Used by relays.

Those that a rule of PUSH makes exist while their channel is on air, those made by API until they are removed.
"""

from __future__ import annotations

from functools import partial
from itertools import count
from typing import Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from rtmp_twisted.live.relays import RelayStatus
from rtmp_twisted.relay.link import RelayOptions
from rtmp_twisted.relay.push import Push
from rtmp_twisted.relay_rules import Address, Rule
from rtmp_twisted.rtmp.names import BadName

MAX_PUSHES: Final = 1000
"""Pushes that operators may have made by API, of all channels together."""

_log = Logger()


class Pushes:
    def __init__(self, options: RelayOptions, rules: tuple[Rule, ...]) -> None:
        self._options = options
        self._rules = rules
        self._of: dict[str, dict[str, Push]] = {}  # by channel and id
        self._numbers = count(1)
        self._made = 0

    def went_on_air(self, channel: str) -> None:
        for push in self._missing(channel):
            self._of.setdefault(channel, {})[push.id] = push
        for push in self._of.get(channel, {}).values():
            push.start()

    def went_off_air(self, channel: str) -> None:
        for push in list(self._of.get(channel, {}).values()):
            push.finish()

    def stop(self) -> list[Deferred[None]]:
        return [push.stop() for pushes in list(self._of.values()) for push in list(pushes.values())]

    def statuses(self, channel: str | None) -> list[RelayStatus]:
        if channel is None:
            return [push.status() for pushes in self._of.values() for push in pushes.values()]
        found = {push.id: push for push in self._missing(channel)} | self._of.get(channel, {})
        return [push.status() for push in found.values()]

    def add(self, channel: str, url: str, id: str = "") -> RelayStatus:
        """``id`` is a new number by default. Raises ValueError, with what is wrong."""
        try:
            if self._options.factory.options.names.app(channel).channel != channel:
                raise BadName("it is more than a name")
        except BadName as error:
            raise ValueError(f"bad channel: {error}") from None
        address = Address.parse(url)
        if self._made >= MAX_PUSHES:
            raise ValueError(f"there are {MAX_PUSHES} pushes already")
        self._made += 1
        push = Push(self._options, id or str(next(self._numbers)), channel, address, "API")
        self._of.setdefault(channel, {})[push.id] = push
        found = self._options.broker.channel(channel)
        if found is not None and found[0].on_air and not (found[1] is not None and found[1].edge):
            push.start()
        _log.info("push of channel {channel!r} to {address} was added", channel=channel, address=address)
        return push.status()

    def remove(self, channel: str, id: str) -> bool:
        push = self._of.get(channel, {}).get(id)
        if push is None:
            return False
        self._made -= push.made_by == "API"
        self._forget(push)
        push.stop()
        _log.info("push of channel {channel!r} to {address} was removed", channel=channel, address=push.address)
        return True

    def _missing(self, channel: str) -> list[Push]:
        """What the rules say of a channel, and is not there."""
        made = []
        for number, rule in enumerate(self._rules, 1):
            id = f"rule-{number}"
            if rule.matches(channel) and id not in self._of.get(channel, {}):
                push = Push(self._options, id, channel, rule.address(channel), "PUSH")
                push.on_idle = partial(self._forget, push)
                made.append(push)
        return made

    def _forget(self, push: Push) -> None:
        pushes = self._of.get(push.channel, {})
        if pushes.get(push.id) is push:
            del pushes[push.id]
            if not pushes:
                del self._of[push.channel]
