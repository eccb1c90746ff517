"""What is measured: numbers of players and channels, and bit rates."""

from __future__ import annotations

from dataclasses import dataclass

from .http import FORMATS


@dataclass(frozen=True)
class Scenario:
    """``kbps`` kilobit a second on each of ``channels``; ``publisher_chunk`` is the chunk size publishers use;
    ``format`` is what viewers get over HTTP (or HTTPS: ``secure``), nothing for RTMP players.

    The first channel is published to ``pushes`` channels of a second server. With ``edge``, everything is published to
    a second server, and the one that is measured pulls it from there.
    """

    name: str
    players: int
    channels: int = 1
    kbps: int = 2500
    publisher_chunk: int = 4096
    pushes: int = 0
    edge: bool = False
    format: str = ""
    secure: bool = False

    @property
    def needs_another(self) -> bool:
        """Whether a second server takes part."""
        return bool(self.pushes or self.edge)

    @property
    def apps(self) -> list[str]:
        return [app_name(channel) for channel in range(self.channels)]


def app_name(channel: int) -> str:
    return f"bench{channel}"


def audience(players: int, format: str = "", secure: bool = False) -> Scenario:
    """That many players of one channel, which are the scenarios on the plot; or viewers over HTTP of a format."""
    name = f"{players}-{format}-viewers{'-https' if secure else ''}" if format else f"{players}-players"
    return Scenario(name, players, format=format, secure=secure)


SCENARIOS = [
    audience(10),
    audience(100),
    audience(500),
    audience(1000),
    Scenario("300-players-10-mbit", 300, kbps=10_000),
    Scenario("100-channels", 100, channels=100),
    Scenario("100-channels-small-chunks", 100, channels=100, publisher_chunk=128),
    Scenario("2000-players-20-channels", 2000, channels=20),
    Scenario("edge-500-players", 500, edge=True),
    Scenario("10-players-20-pushes", 10, kbps=6000, pushes=20),
    *(audience(1000, format, secure) for secure in (False, True) for format in FORMATS),
]

FOR_WORKERS = ["1000-players", "2000-players-20-channels", "100-channels"]
QUICK = ["10-players", "100-players"]
MOST_CHANNELS = max(scenario.channels for scenario in SCENARIOS)
MOST_CONNECTIONS = max(scenario.players + scenario.channels for scenario in SCENARIOS)
