"""All settings: the name, type, default and meaning of each.

The fields of `Settings` are the only table of settings. The environment is read by it, ``twistd rtmp --help`` and the
table in docs/settings.md are made from it, and it says which values are secret. tap.py loads the settings and passes
single values to the parts of the server; no other module reads the environment. ``python -m rtmp_twisted.settings``
prints the table for README.md and docs/settings.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import attrs
from attrs import field, frozen

from rtmp_twisted import misspelt
from rtmp_twisted.dotenv import Dotenv
from rtmp_twisted.relay_rules import Rule, mask, mask_rules, parse_pull, parse_push, parse_server
from rtmp_twisted.settings_types import (
    ADDRESS,
    BOOLEAN,
    EVERYONE,
    FILE,
    LONGEST_SHOWN,
    NETWORKS,
    PORT,
    SECRET,
    SECRET_WORD,
    TEXT,
    WORD,
    WORDS,
    WORKERS,
    Kind,
    Mistake,
    Networks,
    SettingsError,
    decimal,
    integer,
    one_of,
    optional,
    url,
)

__all__ = ["Networks", "Settings", "SettingsError", "markdown_table", "option_parameters"]

T = TypeVar("T")

PUSH_RULES = Kind("rules CHANNEL=rtmp://HOST/APP/KEY, separated by blanks", parse_push, mask_rules)
PULL_RULES = Kind("rules CHANNEL/KEY=rtmp://HOST/APP/NAME, separated by blanks", parse_pull, mask_rules)
CLUSTER_ADDRESS = Kind("an address rtmp://HOST:PORT or rtmps://HOST:PORT, without a path", parse_server, mask)
SHORTEST_SECRET: Final = 32
"""Bytes that PLAY_SECRET and CLUSTER_SECRET have at least: as many as HS256 gives (RFC 7518, section 3.2)."""


def setting(kind: Kind[T], default: T | Callable[[Settings], T], meaning: str, default_text: str = "") -> T:
    """Makes a field of `Settings`. The variable is the field's name in capitals, the option its name with dashes.

    ``default`` may be a function of the fields above this one; ``default_text`` then describes it. ``meaning`` is
    Markdown.
    """
    computed = attrs.Factory(cast(Callable[[Any], Any], default), takes_self=True) if callable(default) else default
    metadata = {"kind": kind, "meaning": meaning, "default": default_text or as_text(default) or "empty"}
    return cast(T, field(default=computed, repr=lambda value: repr(kind.mask(as_text(value))), metadata=metadata))


def as_text(value: object) -> str:
    """Returns a setting's value as a person would write it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "YES" if value else "NO"
    if isinstance(value, float):
        return f"{value:g}"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


@frozen(kw_only=True)
class Settings:
    """The settings of one server. `load` makes it; a test may construct one with only the values that it needs."""

    # Where the server listens, and how it names itself.
    rtmp_port: int = setting(PORT, 1935, "RTMP port; also the `rtmp_port` claim in callbacks")
    rtmp_host: str = setting(TEXT, "", "the `rtmp_host` claim in callbacks")
    bind_address: str = setting(ADDRESS, "", "address that RTMP and RTMPS listen on", "all, IPv4 and IPv6")
    listen: tuple[str, ...] = setting(
        WORDS,
        (),
        "Twisted endpoints for RTMP, separated by blanks, such as `tcp:1935`, `unix:/run/rtmp.sock` or"
        " `systemd:domain=INET6:name=rtmp`. They replace RTMP_PORT and BIND_ADDRESS",
    )

    # RTMPS.
    ssl_port: int = setting(PORT, 443, "RTMPS port")
    ssl_cert: str = setting(
        FILE, "", "PEM file of the certificate and its chain. RTMPS is on if this and SSL_KEY are set"
    )
    ssl_key: str = setting(FILE, "", "PEM file of the private key of SSL_CERT")
    ssl_bind_address: str = setting(
        ADDRESS, lambda self: self.bind_address, "address that RTMPS listens on", "the value of BIND_ADDRESS"
    )
    ssl_check_reload_seconds: int = setting(
        integer(0, 31_536_000),
        60,
        "time between two checks whether SSL_CERT and SSL_KEY have changed, in seconds; 0: no checks",
    )

    # Names.
    id_max_length: int = setting(integer(1, 65_535), 128, "longest channel name or key, in characters")
    id_allow_empty: bool = setting(BOOLEAN, False, "allow an empty channel name or key")
    id_allow_special_characters: bool = setting(
        BOOLEAN,
        False,
        "allow all characters except `>`, `|` and line feed in channel names and keys; NO: only `A-Za-z0-9_-`",
    )

    # Who may connect, and limits.
    play_allowed_from: Networks = setting(
        NETWORKS, Networks(), "another name for RTMP_PLAY_WHITELIST. If both are set, this one is ignored"
    )
    rtmp_play_whitelist: Networks = setting(
        NETWORKS,
        lambda self: self.play_allowed_from or EVERYONE,
        "who may play: IPv4 and IPv6 addresses and networks separated by commas, or `*` for everyone",
        "the value of PLAY_ALLOWED_FROM; `*` if that is empty",
    )
    max_ip_concurrent_connections: int = setting(
        integer(1, 1_000_000), 4, "most connections from one address at a time, RTMP and RTMPS together"
    )
    concurrent_limit_whitelist: Networks = setting(
        NETWORKS, Networks(), "addresses and networks without the limit of MAX_IP_CONCURRENT_CONNECTIONS, or `*`"
    )
    max_connections: int = setting(
        integer(0, 1_000_000), 0, "most connections at a time; 0: as many as the open-file limit allows"
    )
    max_publish_kbps: int = setting(
        integer(0, 10_000_000), 0, "highest bit rate of a publisher, in kbit/s (1000 bit/s); 0: no limit"
    )
    proxy_protocol_from: Networks = setting(
        NETWORKS, Networks(), "proxies, as addresses and networks, that must send a PROXY protocol header; empty: none"
    )
    publish_takeover_seconds: int = setting(
        integer(0, 3600),
        3,
        "time without data from a publisher, in seconds, after which another one with the same key may take over its"
        " channel; 0: never",
    )
    publish_return_seconds: int = setting(
        integer(0, 3600),
        5,
        "time that a lost publisher may take to come back, in seconds, before its players and pushes hear of an end",
    )

    # Other servers.
    push: tuple[Rule, ...] = setting(
        PUSH_RULES,
        (),
        "where channels are published to: rules `CHANNEL=rtmp://HOST/APP/KEY` separated by blanks, with `*` in the"
        " channel and `{channel}` in the address",
    )
    pull: tuple[Rule, ...] = setting(
        PULL_RULES,
        (),
        "which channels are what another server plays: rules `CHANNEL/KEY=rtmp://HOST/APP/NAME` separated by blanks."
        " KEY is what players here have to give; `*`: any, and `{key}` in the address passes it on",
    )
    relay_tls_ca: str = setting(
        FILE,
        "",
        "PEM file of the certificate authorities to trust for `rtmps://` in PUSH and PULL; empty: the system's",
    )

    # The callback.
    callback_url: str = setting(
        url("http", "https", query=True), "", "URL that publish events are posted to; empty: every key is accepted"
    )
    jwt_secret: str = setting(SECRET, "", "HS256 secret that signs callbacks")
    custom_jwt_subject: str = setting(TEXT, "rtmp_event", "the `sub` claim in callbacks")

    # Redis.
    redis_use: bool = setting(BOOLEAN, False, "listen for commands on Redis Pub/Sub")
    redis_host: str = setting(WORD, "127.0.0.1", "host name or address of the Redis server")
    redis_port: int = setting(PORT, 6379, "port of the Redis server")
    redis_username: str = setting(TEXT, "", "user name for Redis, if it has ACL users")
    redis_password: str = setting(SECRET, "", "password for Redis")
    redis_channel: str = setting(TEXT, "rtmp_commands", "Redis Pub/Sub channel to listen on")
    redis_tls: bool = setting(BOOLEAN, False, "connect to Redis over TLS and verify its certificate")
    redis_tls_ca: str = setting(
        FILE, "", "PEM file of the certificate authorities to trust for Redis; empty: the system's"
    )

    # Several machines.
    cluster_use: bool = setting(
        BOOLEAN,
        False,
        "be a node of a cluster: channels that are published to any node can be played from any. The nodes find each"
        " other in the Redis that REDIS_HOST and the other REDIS_ settings name",
    )
    cluster_address: str = setting(
        CLUSTER_ADDRESS,
        "",
        "where the other nodes reach this one: `rtmp://HOST:PORT`, or `rtmps://HOST:PORT` with a certificate that"
        " RELAY_TLS_CA or the system trusts; required with CLUSTER_USE",
    )
    cluster_secret: str = setting(
        SECRET,
        "",
        "what the nodes know each other by, and seal with what they keep in Redis, at least 32 bytes; the same on all"
        " nodes; required with CLUSTER_USE",
    )
    cluster_prefix: str = setting(WORD, "rtmp", "what the cluster's keys in Redis begin with; the same on all nodes")

    # The coordinator.
    control_use: bool = setting(BOOLEAN, False, "use a coordinator, which replaces callbacks")
    control_base_url: str = setting(
        url("ws", "wss", query=False),
        "",
        "`ws://` or `wss://` URL of the coordinator, which `/ws/control/rtmp` is resolved against; required with"
        " CONTROL_USE",
    )
    control_secret: str = setting(SECRET, "", "HS256 secret shared with the coordinator")
    external_ip: str = setting(WORD, "", "address under which the other parts of the system reach this server")
    external_port: int | None = setting(
        optional(PORT), None, "port under which the other parts of the system reach this server"
    )
    external_ssl: bool = setting(BOOLEAN, False, "whether the other parts of the system should use RTMPS")

    # Media.
    rtmp_chunk_size: int = setting(integer(128, 16_777_215), 4096, "outgoing chunk size, in bytes")
    gop_cache_size_mb: int = setting(
        integer(0, 1_048_576), 256, "most media that a channel keeps for joining players, in MB; 0 turns the cache off"
    )
    gop_cache_mode: str = setting(
        one_of("gop", "stream"),
        lambda self: "stream" if self.control_use else "gop",
        "what a channel keeps for joining players. `gop`: the media since the last keyframe. `stream`: everything since"
        " the publish began, within GOP_CACHE_SIZE_MB",
        "`gop`; with CONTROL_USE `stream`",
    )
    msg_buffer_size: int = setting(integer(1, 65_536), 65_536, "most messages in one write to a player")
    max_memory_mb: int = setting(
        integer(0, 1_048_576),
        0,
        "most memory, in MB, that channels, their caches and connections hold together; a channel's share is a quarter"
        " of it",
        "half of what the machine or its container has",
    )
    write_merge_ms: int = setting(
        integer(0, 1000),
        350,
        "longest time that media waits so that it reaches many players in fewer writes, in ms; 0: no waiting. More than"
        " 100 are used only where players are so many that they fill a core",
    )

    # HTTP for operators.
    http_port: int = setting(integer(0, 65_535), 0, "port of the HTTP server for operators; 0: off")
    http_bind_address: str = setting(
        ADDRESS, "127.0.0.1", "address of the HTTP server; HTTP_TOKEN is required unless it is a loopback address"
    )
    http_token: str = setting(SECRET_WORD, "", "bearer token that the HTTP server requires")

    # Watching without an RTMP player.
    web_port: int = setting(integer(0, 65_535), 0, "port of the web server for viewers; 0: off")
    web_bind_address: str = setting(ADDRESS, "", "address that the web server listens on", "all, IPv4 and IPv6")
    web_ssl_port: int = setting(
        integer(0, 65_535), 0, "port of the web server over TLS, with the certificate of RTMPS; 0: off"
    )
    web_play: str = setting(
        one_of("key", "token", "anyone"),
        "key",
        "who may watch with a browser. `key`: everyone who has the publisher's key. `token`: everyone who has a token"
        " that is signed with PLAY_SECRET. `anyone`: everyone; addresses then have no key",
    )
    play_secret: str = setting(
        SECRET, "", "HS256 secret of the tokens of viewers, at least 32 bytes. RTMP players may use them as well"
    )
    web_max_per_ip: int = setting(
        integer(1, 1_000_000), 64, "most connections from one address to the web server at a time"
    )
    hls_segment_seconds: float = setting(
        decimal(1, 10),
        2.0,
        "how long HLS segments last, about, in seconds; each begins with a keyframe, so they are as long as the time"
        " between some of these",
    )
    hls_part_seconds: float = setting(
        decimal(0.1, 2),
        0.3,
        "how long the parts of HLS segments last at most, in seconds: players are as late as three",
    )

    # Running it.
    workers: int = setting(
        WORKERS,
        1,
        "processes that serve connections, from 1 to 64; `auto`: one for each core. With more than one, another process"
        " listens and hands connections to them",
    )
    shutdown_grace_seconds: int = setting(
        integer(0, 60), 3, "longest time that a stop waits for the last media and for stop events, in seconds"
    )
    log_error: bool = setting(BOOLEAN, True, "log errors")
    log_warning: bool = setting(BOOLEAN, True, "log warnings")
    log_info: bool = setting(BOOLEAN, True, "log what the server does")
    log_requests: bool = setting(BOOLEAN, True, "log what each connection does; needs LOG_INFO")
    log_debug: bool = setting(BOOLEAN, False, "log details")
    log_trace: bool = setting(BOOLEAN, lambda self: self.log_debug, "log each RTMP message", "the value of LOG_DEBUG")

    given: frozenset[str] = field(default=frozenset(), repr=False)
    """The fields that were set, as opposed to those left at their defaults."""

    load_warnings: tuple[str, ...] = field(default=(), repr=False)
    """The warnings that `load` found where the values came from."""

    @classmethod
    def load(
        cls, environ: Mapping[str, str], options: Mapping[str, object] | None = None, dotenv: Path | None = None
    ) -> Settings:
        """Reads all settings. An option wins over the environment, and the environment over the ``dotenv`` file.

        ``options`` are the values of an ``Options`` made with `option_parameters`, None for an option not given. An
        empty value counts as not given, because compose files write ``NAME=``. Raises SettingsError with all mistakes.
        """
        file = Dotenv() if dotenv is None else Dotenv.read(dotenv, environ)
        mistakes = list(file.mistakes)
        values: dict[str, Any] = {}
        failed: set[str] = set()
        for one in _table():
            for where, text in _sources(one.name, environ, options or {}, file.values):
                kind: Kind[Any] = one.metadata["kind"]
                try:
                    values[one.name] = kind.parse(text)
                except ValueError as error:
                    why = f": {error}" if isinstance(error, Mistake) else ""
                    mistakes.append(f"{where}: {_wrong(kind, text)} cannot be used{why}; it takes {kind.accepts}")
                    failed.add(one.name)
        names = [one.name.upper() for one in _table()]
        warnings = (
            *file.warnings,
            *misspelt.in_dotenv(file.values, file.referenced, names),
            *misspelt.in_environment(environ, names),
        )
        settings = cls(**values, given=frozenset(values), load_warnings=warnings)
        mistakes += [line for fields, line in settings._contradictions() if failed.isdisjoint(fields)]
        if mistakes:
            raise SettingsError(mistakes)
        return settings

    def _contradictions(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Values that are valid alone but not together: the fields in question, and one line about them."""
        for one, other in ("ssl_cert", "ssl_key"), ("ssl_key", "ssl_cert"):
            if getattr(self, one) and not getattr(self, other):
                yield (one, other), f"{one.upper()}: {other.upper()} is needed with it"
        if self.control_use and not self.control_base_url:
            line = "CONTROL_USE: CONTROL_BASE_URL is needed with it: the coordinator's ws:// or wss:// URL"
            yield ("control_use", "control_base_url"), line
        if self.http_port and not self.http_token and not ip_address(self.http_bind_address).is_loopback:
            line = f"HTTP_BIND_ADDRESS: '{self.http_bind_address}' is not loopback: HTTP_TOKEN is needed with it"
            yield ("http_port", "http_bind_address", "http_token"), line
        if self.rtmps and self.ssl_port == self.rtmp_port and self.ssl_bind_address == self.bind_address:
            yield ("ssl_port", "rtmp_port"), f"SSL_PORT: {self.ssl_port} is already the RTMP port"
        yield from self._cluster_contradictions()
        yield from self._web_contradictions()

    def _cluster_contradictions(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """The same for a cluster."""
        if self.cluster_secret and len(self.cluster_secret.encode()) < SHORTEST_SECRET:
            line = f"CLUSTER_SECRET: it takes at least {SHORTEST_SECRET} bytes (RFC 7518, section 3.2)"
            yield ("cluster_secret",), line
        if not self.cluster_use:
            return
        for name, what in ("cluster_address", "where the other nodes reach this one"), ("cluster_secret", "a secret"):
            if not getattr(self, name):
                yield ("cluster_use", name), f"CLUSTER_USE: {name.upper()} is needed with it: {what}"
        if self.cluster_address.startswith("rtmps:") and not self.rtmps:
            line = "CLUSTER_ADDRESS: SSL_CERT and SSL_KEY are needed with rtmps://"
            yield ("cluster_address", "ssl_cert", "ssl_key"), line

    def _web_contradictions(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """The same for the web server."""
        if self.web_ssl_port and not self.rtmps:
            line = "WEB_SSL_PORT: SSL_CERT and SSL_KEY are needed with it"
            yield ("web_ssl_port", "ssl_cert", "ssl_key"), line
        if self.play_secret and len(self.play_secret.encode()) < SHORTEST_SECRET:
            yield ("play_secret",), f"PLAY_SECRET: it takes at least {SHORTEST_SECRET} bytes (RFC 7518, section 3.2)"
        if self.web_ssl_port and self.web_ssl_port == self.web_port:
            yield ("web_ssl_port", "web_port"), f"WEB_SSL_PORT: {self.web_ssl_port} is already the value of WEB_PORT"
        if not self.web:
            return
        if self.web_play == "token" and not self.play_secret:
            yield ("web_play", "play_secret"), "WEB_PLAY: PLAY_SECRET is needed with 'token'"
        for name in "id_allow_special_characters", "id_allow_empty":
            if self.web_play == "anyone" and getattr(self, name):
                line = f"WEB_PLAY: 'anyone' cannot be used with {name.upper()}: its addresses would be ambiguous"
                yield ("web_play", name), line

    @property
    def rtmps(self) -> bool:
        """Whether RTMPS is on."""
        return bool(self.ssl_cert and self.ssl_key)

    @property
    def web(self) -> bool:
        """Whether the web server for viewers is on."""
        return bool(self.web_port or self.web_ssl_port)

    def warnings(self) -> list[str]:
        """Returns one line for each thing that can be used, but was perhaps not intended."""
        return [*(line for applies, line in self._possible_warnings() if applies), *self.load_warnings]

    def _possible_warnings(self) -> Iterator[tuple[bool, str]]:
        called = bool(self.callback_url) and not self.control_use
        yield called and not self.jwt_secret, "JWT_SECRET is empty: anybody can forge callbacks"
        yield self.control_use and not self.control_secret, "CONTROL_SECRET is empty: anybody can pose as this server"
        yield self.control_use and bool(self.callback_url), "CALLBACK_URL has no effect: CONTROL_USE replaces callbacks"
        line = "GOP_CACHE_SIZE_MB is 0: the coordinator's encoder will miss the beginning of each stream"
        yield self.control_use and not self.gop_cache_size_mb, line
        yield self.web_play != "key" and not self.web, "WEB_PLAY has no effect: WEB_PORT and WEB_SSL_PORT are not set"
        alone = bool(self.cluster_address or self.cluster_secret) and not self.cluster_use
        yield alone, "CLUSTER_ADDRESS and CLUSTER_SECRET have no effect: CLUSTER_USE is not set"
        both = bool(self.play_allowed_from) and self.rtmp_play_whitelist != self.play_allowed_from
        yield both, "PLAY_ALLOWED_FROM has no effect: RTMP_PLAY_WHITELIST is set as well"

    def non_default(self) -> list[tuple[str, str]]:
        """Returns variable and value of each setting that is not at its default. Secrets are masked."""
        found = []
        for one in _table():
            value = getattr(self, one.name)
            default: Any = one.default
            if isinstance(default, attrs.Factory):  # type: ignore[arg-type]  # a class, whatever its stub says
                default = default.factory(self)
            if value != default:
                found.append((one.name.upper(), one.metadata["kind"].mask(as_text(value))))
        return found


def _table() -> list[attrs.Attribute[Any]]:
    return [one for one in attrs.fields(Settings) if "kind" in one.metadata]


def _sources(
    name: str, environ: Mapping[str, str], options: Mapping[str, object], in_file: Mapping[str, tuple[str, int]]
) -> Iterator[tuple[str, str]]:
    """The text that counts for one setting, if there is any, after the name for it in an error line."""
    variable, option = name.upper(), _option(name)
    from_file, line_number = in_file.get(variable, ("", 0))
    secret = getattr(attrs.fields(Settings), name).metadata["kind"].secret
    for where, text in (
        (f"{variable} (option --{option})", options.get(option)),
        (variable, environ.get(variable)),
        (f"{variable} (.env, line {line_number})", from_file),
    ):
        stripped = text if secret else str(text or "").strip()
        if stripped and not (where == variable and misspelt.is_link(variable, str(stripped), environ)):
            yield where, str(stripped)
            return


def _wrong(kind: Kind[Any], text: str) -> str:
    """Returns a value that cannot be used in a form that is safe to print on a terminal."""
    if kind.secret:
        return "its value (not shown)"
    masked = kind.mask(text)
    return ascii(masked if len(masked) <= LONGEST_SHOWN else masked[:LONGEST_SHOWN] + "…")


def option_parameters() -> list[list[str | None]]:
    """Returns ``optParameters`` for a twistd plugin's ``Options``: one option for each setting, None by default."""
    rows: list[list[str | None]] = []
    for one in _table():
        text = f"{one.metadata['meaning']} [{one.name.upper()}, default: {one.metadata['default']}]"
        rows.append([_option(one.name), None, None, text.replace("`", "")])
    return rows


def markdown_table() -> str:
    """Returns the table for README.md and docs/settings.md."""
    lines = ["| variable | option | default | meaning |", "|---|---|---|---|"]
    for one in _table():
        default, meaning = (one.metadata[key].replace("|", "\\|") for key in ("default", "meaning"))
        lines.append(f"| `{one.name.upper()}` | `--{_option(one.name)}` | {default} | {meaning} |")
    return "\n".join(lines) + "\n"


def _option(name: str) -> str:
    return name.replace("_", "-")


if __name__ == "__main__":
    print(markdown_table(), end="")
