"""What a channel's players, and the pushes and pulls, are told of its publishes. Used by the broker only.

Players are told in later turns of the reactor (live/turns.py): there may be many. An RTMP player is told of begin and
end by messages in its stream; those here are for who watches a single publish, and for players that have to go.
"""

from __future__ import annotations

from collections.abc import Iterable

from rtmp_twisted.live.channel import Channel
from rtmp_twisted.live.player import Player
from rtmp_twisted.live.publication import Publication
from rtmp_twisted.live.relays import ChannelObserver
from rtmp_twisted.live.turns import Turns


class Notices:
    """``observers`` are who else hears of channels: where there are pushes, pulls or other workers."""

    def __init__(self, turns: Turns) -> None:
        self.observers: list[ChannelObserver] = []
        self._turns = turns

    # To players

    def publish_began(self, channel: Channel) -> None:
        """A publish is on air."""
        self._turns.for_each(channel.watched(started=False), lambda player: _tell_begin(channel, player))

    def publish_ended(self, channel: Channel) -> None:
        """A publish has ended, and does not go on, unless another one is faster."""
        self._turns.for_each(channel.watched(started=True), lambda player: _tell_end(channel, player))

    def refused(self, players: Iterable[Player], reason: str) -> None:
        """Players that have left their channel because of their key."""
        self._turns.for_each(players, lambda player: player.owner.play_refused(player, reason))

    def dismissed(self, players: Iterable[Player]) -> None:
        """Players that have left their channel with the publish."""
        self._turns.for_each(players, lambda player: player.owner.play_ended(player, "the publish has ended"))

    # To pushes and pulls

    def went_on_air(self, publication: Publication) -> None:
        for observer in self.observers:
            observer.went_on_air(publication)

    def went_off_air(self, channel: str) -> None:
        for observer in self.observers:
            observer.went_off_air(channel)

    def player_came(self, player: Player) -> None:
        if player.peer or not player.push:
            for observer in self.observers:
                observer.player_came(player.channel_name, player.key)

    def player_left(self, channel: str) -> None:
        for observer in self.observers:
            observer.player_left(channel)


def _tell_begin(channel: Channel, player: Player) -> None:
    if channel.on_air and player in channel.players and not player.started and player.watcher is not None:
        player.watcher.publish_began(player)


def _tell_end(channel: Channel, player: Player) -> None:
    if not channel.on_air and player in channel.players and player.watcher is not None:
        player.watcher.publish_ended(player)
