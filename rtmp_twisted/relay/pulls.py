"""Which pulls there are, and when each has to run. Used by relays.

A rule that says ``always`` pulls one channel for as long as the server runs. Any other is for whoever comes: the first
player of a channel begins the pull, and some seconds after the last one it ends. A publish of this server's own has
precedence over both.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count, islice
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from rtmp_twisted.live.player import Player, same_key
from rtmp_twisted.live.publication import Publication
from rtmp_twisted.live.relays import RelayStatus
from rtmp_twisted.relay.link import RelayOptions
from rtmp_twisted.relay.pull import Pull
from rtmp_twisted.relay_rules import Rule
from rtmp_twisted.settings_types import Mistake

KEEP_SECONDS: Final = 10.0
"""How long a pull goes on behind its last player, who may come back."""

MAX_PULLS: Final = 256
"""Pulls that players have begun, at a time."""

MAX_KEYS: Final = 8
"""Those of one channel, with different keys: the first of them that brings media has the channel."""

_log = Logger()


class Pulls:
    """``mine`` says whether a channel is one that this process pulls."""

    def __init__(self, options: RelayOptions, rules: tuple[Rule, ...], mine: Callable[[str], bool]) -> None:
        self._options = options
        self._rules = rules
        self._mine = mine
        self._clock = options.factory.options.clock
        self._of: dict[str, list[Pull]] = {}  # by channel
        self._checks: dict[str, IDelayedCall] = {}
        self._numbers = count(1)
        self._begun = 0  # by players, and not gone yet
        self._running = False

    def start(self) -> None:
        self._running = True
        for rule in self._rules:
            if rule.always and self._mine(rule.channel):
                self._make(rule, rule.channel, "").start()

    def stop(self) -> list[Deferred[None]]:
        self._running = False
        for check in self._checks.values():
            check.cancel()
        self._checks.clear()
        return [pull.stop() for pulls in list(self._of.values()) for pull in list(pulls)]

    def statuses(self, channel: str | None) -> list[RelayStatus]:
        pulls = (
            [pull for pulls in self._of.values() for pull in pulls] if channel is None else self._of.get(channel, ())
        )
        return [pull.status() for pull in pulls]

    def went_on_air(self, publication: Publication) -> None:
        for pull in list(self._of.get(publication.name, ())):
            if pull.publication is not publication:
                self._end(pull)

    def taken(self, channel: str) -> None:
        """Another worker has the channel."""
        for pull in list(self._of.get(channel, ())):
            self._end(pull)

    def went_off_air(self, channel: str) -> None:
        for pull in self._of.get(channel, ()):
            if pull.always:
                pull.start()
        self._look_for_players(channel)
        self.player_left(channel)

    def player_came(self, channel: str, key: str | None) -> None:
        rule = self._rule(channel, key)
        found = None if rule is None else self._options.broker.channel(channel)
        if rule is None or found is None or not self._running:
            return
        on_air = found[1] is not None and found[0].on_air
        pulls = self._of.get(channel, [])
        if on_air or any(key is None or pull.key is None or same_key(pull.key, key) for pull in pulls):
            return
        if len(pulls) >= MAX_KEYS or self._begun >= MAX_PULLS:
            _log.debug("channel {channel!r} is not pulled: there are {count} pulls", channel=channel, count=self._begun)
            return
        try:
            self._make(rule, channel, key or "").start()
        except Mistake as mistake:
            _log.warn("channel {channel!r} is not pulled: {mistake}", channel=channel, mistake=mistake)

    def player_left(self, channel: str) -> None:
        """Ends what nobody waits for any more: later, or at once where there is no connection that could be kept. (Two
        servers that pull from each other would else be each other's viewers in turn.)"""
        if channel in self._of and self._running:
            self._end_unwanted(channel, [pull for pull in self._of[channel] if pull.connection is None])
        if channel in self._of and channel not in self._checks and self._running:
            self._checks[channel] = self._clock.callLater(KEEP_SECONDS, self._check, channel)

    def _check(self, channel: str) -> None:
        del self._checks[channel]
        self._end_unwanted(channel, self._of.get(channel, []))

    def _end_unwanted(self, channel: str, pulls: list[Pull]) -> None:
        players = self._players(channel)
        for pull in list(pulls):
            key = pull.key
            if not pull.always and not any(key is None or player.admitted_by(key) for player in players):
                self._end(pull)

    def _end(self, pull: Pull) -> None:
        """It has to stop. What was begun by a player is forgotten when its connection is gone."""
        pull.stop().addCallback(lambda _: None if pull.always else self._forget(pull))

    def _forget(self, pull: Pull) -> None:
        pulls = self._of.get(pull.channel, [])
        if pull in pulls and not pull.running:
            pulls.remove(pull)
            self._begun -= 1
            if not pulls:
                del self._of[pull.channel]
            self._look_for_players(pull.channel)  # somebody may have come while it was ending

    def _look_for_players(self, channel: str) -> None:
        """Begins what the players that are there wait for."""
        keys = dict.fromkeys(player.key for player in self._players(channel))
        for key in islice(keys, MAX_KEYS):
            self.player_came(channel, key)

    def _make(self, rule: Rule, channel: str, key: str) -> Pull:
        """Raises Mistake where the channel's address is too long."""
        address = rule.address(channel, key)
        taken = key if rule.passes_key else rule.key
        pull = Pull(self._options, f"pull-{next(self._numbers)}", channel, address, taken, rule.passes_key, rule.always)
        pull.on_lost = partial(self._clock.callLater, 0, self.player_left, channel)
        self._of.setdefault(channel, []).append(pull)
        self._begun += not rule.always
        return pull

    def _rule(self, channel: str, key: str | None) -> Rule | None:
        return rule_for(self._rules, channel, key) if self._mine(channel) else None

    def _players(self, channel: str) -> set[Player]:
        found = self._options.broker.channel(channel)
        # Another worker's pull stands for its players.
        return set() if found is None else found[0].players | {push for push in found[0].pushes if push.peer}


def rule_for(rules: tuple[Rule, ...], channel: str, key: str | None) -> Rule | None:
    """The rule by which a player's channel is pulled for it; ``key`` is None where it was let in by other means, and
    has none to pass on."""
    for rule in rules:
        if rule.always or not rule.matches(channel):
            continue
        if not rule.passes_key if key is None else rule.key is None or same_key(rule.key, key):
            return rule
    return None
