"""Every setting, once: its name, default, meaning and check.

The fields of `Settings` are the one table that reading the environment, ``twistd rtmp --help``, docs/settings.md and
the masking of secrets are made from. tap.py loads it and hands single values to what needs them; no other module
reads the environment. ``python -m rtmp_twisted.settings`` prints the table for docs/settings.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar, cast

import attrs
from attrs import field, frozen

from rtmp_twisted.settings_types import (
    ADDRESS,
    EVERYONE,
    FILE,
    LONGEST_SHOWN,
    NETWORKS,
    PORT,
    SECRET,
    SECRET_WORD,
    SWITCH,
    TEXT,
    WORD,
    WORDS,
    Kind,
    Networks,
    SettingsError,
    number,
    one_of,
    optional,
    read_dotenv,
    url,
)

__all__ = ["Networks", "Settings", "SettingsError", "markdown_table", "option_parameters"]

T = TypeVar("T")


def setting(kind: Kind[T], default: T | Callable[[Settings], T], meaning: str, shown: str = "") -> T:
    """A field of `Settings`; the variable is its name in capitals, the option its name with dashes.

    ``default`` may be a function of the fields above this one. ``shown`` says it in words. ``meaning`` is Markdown.
    """
    computed = attrs.Factory(cast(Callable[[Any], Any], default), takes_self=True) if callable(default) else default
    metadata = {"kind": kind, "meaning": meaning, "default": shown or as_text(default) or "empty"}
    return cast(T, field(default=computed, repr=lambda value: repr(kind.mask(as_text(value))), metadata=metadata))


def as_text(value: object) -> str:
    """A setting's value as somebody would write it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "YES" if value else "NO"
    return " ".join(value) if isinstance(value, tuple) else str(value)


@frozen(kw_only=True)
class Settings:
    """What one server runs with. `load` makes it; a test may make one with the few values that it is about."""

    # Where the server listens, and what it calls itself.
    rtmp_port: int = setting(PORT, 1935, "RTMP port; also the `rtmp_port` claim in callbacks")
    rtmp_host: str = setting(TEXT, "", "the `rtmp_host` claim in callbacks")
    bind_address: str = setting(ADDRESS, "", "address for RTMP and RTMPS", "all, IPv4 and IPv6")
    listen: tuple[str, ...] = setting(
        WORDS,
        (),
        "Twisted endpoints to accept RTMP on in place of RTMP_PORT and BIND_ADDRESS, such as `tcp:1935`,"
        " `unix:/run/rtmp.sock` or `systemd:domain=INET6:name=rtmp`, with blanks between them",
    )

    # RTMPS.
    ssl_port: int = setting(PORT, 443, "RTMPS port")
    ssl_cert: str = setting(FILE, "", "PEM file of the certificate and its chain. With SSL_KEY, RTMPS is on")
    ssl_key: str = setting(FILE, "", "PEM file of the private key that belongs to SSL_CERT")
    ssl_bind_address: str = setting(
        ADDRESS, lambda self: self.bind_address, "address for RTMPS alone", "the value of BIND_ADDRESS"
    )
    ssl_check_reload_seconds: int = setting(
        number(0, 31_536_000), 60, "how often, in seconds, SSL_CERT and SSL_KEY are checked for change; 0 never"
    )

    # Names.
    id_max_length: int = setting(number(1, 65_535), 128, "longest channel or key, in characters")
    id_allow_empty: bool = setting(SWITCH, False, "allow an empty channel or key")
    id_allow_special_characters: bool = setting(
        SWITCH, False, "allow any character but `>`, `|` and line feed in a channel or key, not only `A-Za-z0-9_-`"
    )

    # Who may come in, and how much of it.
    play_allowed_from: Networks = setting(
        NETWORKS, Networks(), "another name for RTMP_PLAY_WHITELIST, which counts where both are set"
    )
    rtmp_play_whitelist: Networks = setting(
        NETWORKS,
        lambda self: self.play_allowed_from or EVERYONE,
        "who may play: addresses and networks with commas between them, IPv4 and IPv6, or `*`",
        "the value of PLAY_ALLOWED_FROM; anyone where that is empty",
    )
    max_ip_concurrent_connections: int = setting(
        number(1, 1_000_000), 4, "connections from one address at a time, RTMP and RTMPS together"
    )
    concurrent_limit_whitelist: Networks = setting(
        NETWORKS, Networks(), "addresses and networks that MAX_IP_CONCURRENT_CONNECTIONS does not apply to, or `*`"
    )
    max_connections: int = setting(
        number(0, 1_000_000), 0, "connections at a time in all; 0: as many as the process's file limit lets be"
    )
    max_publish_kbps: int = setting(
        number(0, 10_000_000), 0, "highest bit rate of a publisher, in 1000 bit/s; 0: no limit"
    )
    proxy_protocol_from: Networks = setting(
        NETWORKS, Networks(), "addresses and networks whose PROXY protocol header is believed; empty: it is off"
    )
    publish_takeover_seconds: int = setting(
        number(0, 3600),
        3,
        "how long, in seconds, a publisher must have sent nothing before another with the right key may take its"
        " channel over; 0 never",
    )

    # The callback.
    callback_url: str = setting(
        url("http", "https", query=True), "", "where publish events are posted; empty: every key is accepted"
    )
    jwt_secret: str = setting(SECRET, "", "HS256 secret that signs the callbacks")
    custom_jwt_subject: str = setting(TEXT, "rtmp_event", "the `sub` claim in callbacks")

    # Redis.
    redis_use: bool = setting(SWITCH, False, "listen for commands on Redis Pub/Sub")
    redis_host: str = setting(WORD, "127.0.0.1", "host of the Redis server")
    redis_port: int = setting(PORT, 6379, "port of the Redis server")
    redis_username: str = setting(TEXT, "", "user name for Redis, where it has ACL users")
    redis_password: str = setting(SECRET, "", "password for Redis")
    redis_channel: str = setting(TEXT, "rtmp_commands", "Redis Pub/Sub channel to listen on")
    redis_tls: bool = setting(SWITCH, False, "connect to Redis over TLS; its certificate is verified")
    redis_tls_ca: str = setting(FILE, "", "PEM file of the authorities that vouch for Redis; empty: the system's")

    # The coordinator.
    control_use: bool = setting(SWITCH, False, "use a coordinator; it replaces callbacks")
    control_base_url: str = setting(
        url("ws", "wss", query=False),
        "",
        "`ws://` or `wss://` URL that `/ws/control/rtmp` is resolved against; required with CONTROL_USE",
    )
    control_secret: str = setting(SECRET, "", "HS256 secret shared with the coordinator")
    external_ip: str = setting(WORD, "", "address at which the other parts of the system reach this server")
    external_port: int | None = setting(
        optional(PORT), None, "port at which the other parts of the system reach this server"
    )
    external_ssl: bool = setting(SWITCH, False, "whether the other parts of the system are to use RTMPS")

    # Media.
    rtmp_chunk_size: int = setting(number(128, 65_536), 4096, "outgoing chunk size, in bytes")
    gop_cache_size_mb: int = setting(
        number(0, 1_048_576), 256, "most media a channel keeps for joining players, in MB; 0 turns the cache off"
    )
    gop_cache_mode: str = setting(
        one_of("gop", "stream"),
        lambda self: "stream" if self.control_use else "gop",
        "what a channel keeps: `gop`, the media since the last keyframe; `stream`, all since the publish began, as far"
        " as GOP_CACHE_SIZE_MB goes",
        "`stream` with CONTROL_USE, `gop` without",
    )
    msg_buffer_size: int = setting(number(1, 65_536), 8, "most messages gathered into one write to a player")
    write_merge_ms: int = setting(
        number(0, 1000),
        100,
        "longest time, in ms, that media is held back to be written to many players at once; 0: always at once",
    )

    # Running it.
    http_port: int = setting(number(0, 65_535), 0, "port of the HTTP server for operators; 0: off")
    http_bind_address: str = setting(
        ADDRESS, "127.0.0.1", "address of the HTTP server; beyond loopback HTTP_TOKEN is required"
    )
    http_token: str = setting(SECRET_WORD, "", "bearer token that the HTTP server asks for")
    shutdown_grace_seconds: int = setting(
        number(0, 60), 3, "how long, in seconds, a stop waits for what is under way: last media, stop events"
    )
    log_error: bool = setting(SWITCH, True, "log errors")
    log_warning: bool = setting(SWITCH, True, "log warnings")
    log_info: bool = setting(SWITCH, True, "log what the server does, once per event")
    log_requests: bool = setting(SWITCH, True, "log what each connection does (with LOG_INFO)")
    log_debug: bool = setting(SWITCH, False, "log details")
    log_trace: bool = setting(SWITCH, lambda self: self.log_debug, "log each message", "the value of LOG_DEBUG")

    given: frozenset[str] = field(default=frozenset(), repr=False)
    """The fields that somebody set, as opposed to those left at their defaults."""

    @classmethod
    def load(
        cls, environ: Mapping[str, str], options: Mapping[str, object] | None = None, dotenv: Path | None = None
    ) -> Settings:
        """Reads all settings: an option wins over the environment, and that over the ``dotenv`` file.

        ``options`` is what `option_parameters` gave an ``Options``, None for an option not given. What is empty
        counts as not given, since compose files write ``NAME=``. Raises SettingsError with every mistake there is.
        """
        mistakes: list[str] = []
        in_file = {} if dotenv is None else read_dotenv(dotenv, mistakes)
        values: dict[str, Any] = {}
        failed: set[str] = set()
        for one in _table():
            for where, text in _sources(one.name, environ, options or {}, in_file):
                kind: Kind[Any] = one.metadata["kind"]
                try:
                    values[one.name] = kind.parse(text)
                except ValueError:
                    mistakes.append(f"{where}: {_wrong(kind, text)} cannot be used; it takes {kind.accepts}")
                    failed.add(one.name)
        settings = cls(**values, given=frozenset(values))
        mistakes += [line for names, line in settings._contradictions() if failed.isdisjoint(names)]
        if mistakes:
            raise SettingsError(mistakes)
        return settings

    def _contradictions(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """What does not go together: the fields in question, and a line for whoever set them."""
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
            yield ("ssl_port", "rtmp_port"), f"SSL_PORT: {self.ssl_port} is the RTMP port already"

    @property
    def rtmps(self) -> bool:
        """Whether RTMPS is on."""
        return bool(self.ssl_cert and self.ssl_key)

    def warnings(self) -> list[str]:
        """What can be used, but is perhaps not what was meant: a line for each."""
        return [line for wrong, line in self._doubts() if wrong]

    def _doubts(self) -> Iterator[tuple[bool, str]]:
        called = bool(self.callback_url) and not self.control_use
        yield called and not self.jwt_secret, "JWT_SECRET is empty: anybody can forge callbacks"
        yield self.control_use and not self.control_secret, "CONTROL_SECRET is empty: anybody can pose as this server"
        yield self.control_use and bool(self.callback_url), "CALLBACK_URL has no effect: CONTROL_USE replaces callbacks"
        line = "GOP_CACHE_SIZE_MB is 0: the coordinator's encoder will miss the beginning of each stream"
        yield self.control_use and not self.gop_cache_size_mb, line
        both = bool(self.play_allowed_from) and self.rtmp_play_whitelist != self.play_allowed_from
        yield both, "PLAY_ALLOWED_FROM has no effect: RTMP_PLAY_WHITELIST is set as well"

    def non_default(self) -> list[tuple[str, str]]:
        """The variable and value of each setting that is not at its default, with secrets masked."""
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
    """The text that counts for one setting, if there is any, behind the name that a mistake's line gives it."""
    variable, option = name.upper(), _option(name)
    from_file, line_number = in_file.get(variable, ("", 0))
    secret = getattr(attrs.fields(Settings), name).metadata["kind"].secret
    for where, text in (
        (f"{variable} (option --{option})", options.get(option)),
        (variable, environ.get(variable)),
        (f"{variable} (.env, line {line_number})", from_file),
    ):
        stripped = text if secret else str(text or "").strip()
        if stripped:
            yield where, str(stripped)
            return


def _wrong(kind: Kind[Any], text: str) -> str:
    """A value that cannot be used, in a form fit for a terminal."""
    if kind.secret:
        return "its value (not shown)"
    masked = kind.mask(text)
    return ascii(masked if len(masked) <= LONGEST_SHOWN else masked[:LONGEST_SHOWN] + "…")


def option_parameters() -> list[list[str | None]]:
    """``optParameters`` for a twistd plugin's ``Options``: an option for each setting, None where it is not given."""
    rows: list[list[str | None]] = []
    for one in _table():
        text = f"{one.metadata['meaning']} [{one.name.upper()}, default: {one.metadata['default']}]"
        rows.append([_option(one.name), None, None, text.replace("`", "")])
    return rows


def markdown_table() -> str:
    """The table of docs/settings.md."""
    lines = ["| variable | option | default | meaning |", "|---|---|---|---|"]
    for one in _table():
        default, meaning = (one.metadata[key].replace("|", "\\|") for key in ("default", "meaning"))
        lines.append(f"| `{one.name.upper()}` | `--{_option(one.name)}` | {default} | {meaning} |")
    return "\n".join(lines) + "\n"


def _option(name: str) -> str:
    return name.replace("_", "-")


if __name__ == "__main__":
    print(markdown_table(), end="")
