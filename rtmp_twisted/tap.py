"""The composition root: what ``twistd rtmp`` runs, made of the settings. The only place that knows all the rooms."""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Sequence
from functools import cache
from getopt import GetoptError
from pathlib import Path
from random import SystemRandom
from typing import Any

from twisted.application.service import IService, Service
from twisted.internet.endpoints import HostnameEndpoint
from twisted.logger import Logger
from twisted.python.usage import Options as UsageOptions
from twisted.python.usage import UsageError

from rtmp_twisted import misspelt
from rtmp_twisted._version import __version__
from rtmp_twisted.endpoints import endpoint, rtmp_endpoints
from rtmp_twisted.live.audience import FlushScheduler
from rtmp_twisted.live.authority import AcceptAll
from rtmp_twisted.live.broker import Broker
from rtmp_twisted.live.channel import ChannelOptions
from rtmp_twisted.live.memory import Memory
from rtmp_twisted.live.turns import Turns
from rtmp_twisted.logs import LoggedService
from rtmp_twisted.process import GarbageService, ProcessService, available_memory, use_monotonic_clock
from rtmp_twisted.rtmp.factory import RTMPFactory, RTMPService
from rtmp_twisted.rtmp.guessing import GuessingLimits
from rtmp_twisted.rtmp.limits import ConnectionLimits, most_connections
from rtmp_twisted.rtmp.listener import Listener
from rtmp_twisted.rtmp.message_stream import SessionOptions
from rtmp_twisted.rtmp.names import NameRules
from rtmp_twisted.rtmp.poller import PublisherPoller
from rtmp_twisted.services import SequentialService
from rtmp_twisted.settings import Settings, option_parameters
from rtmp_twisted.settings_types import SettingsError
from rtmp_twisted.summary import lines

_log = Logger()

MEBIBYTE = 1024 * 1024


class Options(UsageOptions):
    """``twistd rtmp``'s options: one for each setting. Ends the process with a line for each mistake in them."""

    longdesc = "An RTMP and RTMPS server for live broadcasting. Each option is also an environment variable."
    optFlags = [["check", None, "say what would run with these settings, or what is wrong with them, and end"]]
    optParameters = option_parameters()

    def getSynopsis(self) -> str:
        return "Usage: rtmp-twisted serve [options]\n   or: twistd [options of twistd] rtmp [options]"

    def opt_version(self) -> None:
        """say which version this is, and end"""
        print(f"rtmp-twisted {__version__}")
        raise SystemExit(0)

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        try:
            super().parseOptions(options)
        except UsageError as error:
            raise SystemExit(self._mistake(error)) from None

    def parseArgs(self, *words: str) -> None:
        if words:
            raise UsageError(f"{words[0]}: an option begins with --; --help lists all")

    def _mistake(self, error: UsageError) -> str:
        """Returns one line about an option that there is not, or that lacks its value."""
        cause = error.__context__
        if not isinstance(cause, GetoptError):
            return str(error)
        if cause.msg.endswith("argument"):
            return f"--{cause.opt}: it takes {'a' if 'requires' in cause.msg else 'no'} value"
        known = [name.removesuffix("=") for name in self.longOpt]
        name = cause.opt.replace("_", "-").lower()
        nearest = misspelt.nearest(name, known)
        likely = [nearest] if nearest else [one for one in known if len(name) > 2 and name in one]
        hint = f"did you mean {' or '.join(f'--{one}' for one in likely)}?" if likely else "--help lists all options"
        return f"{'--' if len(name) > 1 else '-'}{cause.opt}: there is no such option; {hint}"

    def postOptions(self) -> None:
        try:
            self.settings = Settings.load(os.environ, self, Path(".env"))
            if self["check"]:
                from twisted.internet import reactor

                assemble(self.settings, reactor)
        except SettingsError as error:
            raise SystemExit("\n".join(error.lines)) from None
        if self["check"]:
            for line in lines(self.settings):
                print(line)
            for line in self.settings.warnings():
                print(f"warning: {line}")
            sys.exit()


def makeService(options: Options) -> IService:
    """The whole server."""
    from twisted.internet import reactor

    use_monotonic_clock(reactor)
    settings = options.settings
    root = LoggedService(settings, reactor, options.parent)
    try:
        parts = assemble(settings, reactor)
    except SettingsError as error:
        raise SystemExit("\n".join(error.lines)) from None
    ProcessService(settings, reactor, lambda: reload(parts)).setServiceParent(root)
    sequence = SequentialService()
    for part in parts:
        part.setServiceParent(sequence)
    sequence.setServiceParent(root)
    GarbageService(reactor).setServiceParent(root)
    return root


def reload(parts: list[Service]) -> None:
    """Has every part read again what it has read from files."""
    reloads = [part.reload for part in parts if hasattr(part, "reload")]
    if not reloads:
        _log.info("there are no certificates to read again")
    for one in reloads:
        one()


def assemble(settings: Settings, reactor: Any) -> list[Service]:
    """Returns the services, in the order in which they start; each stops when the one behind it has stopped."""
    authority = publish_authority(settings, reactor)
    timed = timed_authority(settings, reactor, authority)
    turns = Turns(reactor)
    scheduler = FlushScheduler(reactor, settings.write_merge_ms / 1000, time.thread_time, turns)
    poller = PublisherPoller(reactor, reactor, scheduler.flush_pending)
    turns.before = poller.poll_if_due
    broker = Broker(
        reactor,
        timed or authority,
        scheduler,
        ChannelOptions(
            chunk_size=settings.rtmp_chunk_size,
            cache_bytes=settings.gop_cache_size_mb * MEBIBYTE,
            whole_stream=settings.gop_cache_mode == "stream",
            merge_messages=settings.msg_buffer_size,
        ),
        settings.publish_takeover_seconds,
        end_players=settings.control_use,  # each publish is another stream, for which the coordinator has an encoder
        memory=Memory(settings.max_memory_mb * MEBIBYTE or available_memory() // 2, turns),
        return_seconds=settings.publish_return_seconds,
        server_id=os.urandom(8).hex(),
    )
    limits = ConnectionLimits(
        most_connections(settings.max_connections),
        settings.max_ip_concurrent_connections,
        settings.concurrent_limit_whitelist,
    )
    options = SessionOptions(
        broker=broker,
        clock=reactor,
        names=NameRules(settings.id_max_length, settings.id_allow_empty, settings.id_allow_special_characters),
        chunk_size=settings.rtmp_chunk_size,
        players=settings.rtmp_play_whitelist,
        max_publish_rate=settings.max_publish_kbps * 1000 / 8,
        guessing=GuessingLimits(reactor),
        tokens=play_tokens(settings),
    )
    factory = RTMPFactory(
        options,
        limits,
        poller,
        debug=settings.log_debug,
        trace=settings.log_trace,
    )
    listener = Listener(limits, factory, settings.proxy_protocol_from, reactor)
    endpoints: list[Any] = [("RTMP", one, listener) for one in rtmp_endpoints(settings, reactor)]
    services: list[Service] = [broker]
    certificates = None
    if settings.rtmps:
        from rtmp_twisted.rtmp.tls import SecuredFactory

        certificates = rtmps_certificates(settings, reactor)
        secured = SecuredFactory(certificates, False, factory, reactor)
        where = endpoint(reactor, settings, "ssl_bind_address", "ssl_port")
        endpoints.append(("RTMPS", where, Listener(limits, secured, settings.proxy_protocol_from, reactor)))
        services.append(certificates)
    web = None
    if settings.web:
        web = web_server(settings, reactor, options, limits, certificates)
        services.append(web)
    services.append(RTMPService(factory, endpoints, settings.shutdown_grace_seconds, lambda line: fail(reactor, line)))
    relays = None
    if settings.push or settings.pull or settings.http_port:
        relays = relay_service(settings, reactor, broker, factory)
        services.append(relays)
    if isinstance(authority, Service):
        services.insert(0, authority)
    if settings.control_use:
        authority.target = broker
    links = {"coordinator": authority} if settings.control_use else {}
    if settings.redis_use:
        from rtmp_twisted.integrations.redis import RedisCommands

        try:
            redis = RedisCommands(reactor, broker, SystemRandom(), redis_address(settings), settings.redis_channel)
        except ValueError as error:
            raise SettingsError([f"REDIS_TLS_CA: {error}"]) from None
        services.insert(0, redis)
        links["redis"] = redis
    if timed is not None:
        services.append(operator_http(settings, reactor, broker, factory, timed, links, web, relays))
    return services


def redis_address(settings: Settings) -> Any:
    from rtmp_twisted.redis_connection import RedisAddress

    one = settings
    return RedisAddress(
        one.redis_host, one.redis_port, one.redis_username, one.redis_password, one.redis_tls, one.redis_tls_ca
    )


def fail(reactor: Any, line: str) -> None:
    """Ends the running server in good order, with a line in the log and exit status 1."""
    _log.error("{line}; the server is stopping", line=line)
    atexit.register(os._exit, 1)  # twistd knows no other way to end with a status, once its reactor runs
    reactor.stop()


def rtmps_certificates(settings: Settings, reactor: Any) -> Any:
    from rtmp_twisted.rtmp.tls import Certificates

    try:
        return Certificates(reactor, settings.ssl_cert, settings.ssl_key, settings.ssl_check_reload_seconds)
    except ValueError as error:
        raise SettingsError([str(error)]) from None


def timed_authority(settings: Settings, reactor: Any, authority: Any) -> Any:
    """The authority as the broker is to ask it where somebody may want to know how it does, or None."""
    if not settings.http_port:
        return None
    from rtmp_twisted.web.metrics import TimedAuthority

    return TimedAuthority(authority, reactor)


def play_tokens(settings: Settings) -> Any:
    """Reads the tokens of viewers (an `IPlayTokens`); None where there are none."""
    if not settings.play_secret:
        return None
    from rtmp_twisted.integrations.play_tokens import PlayTokens

    return PlayTokens(settings.play_secret)


def web_server(
    settings: Settings, reactor: Any, options: SessionOptions, others: ConnectionLimits, certificates: Any
) -> Any:
    """The public web server (a `WatchHTTP`), which serves whom ``options`` let play."""
    from rtmp_twisted.ports import Ports
    from rtmp_twisted.web.access import Access
    from rtmp_twisted.web.hls import HLS
    from rtmp_twisted.web.viewer import Viewers
    from rtmp_twisted.web.watch import WatchHTTP, watch_site

    access = Access(reactor, options.names, options.guessing, settings.web_play, options.tokens, options.players)
    hls = HLS(reactor, options.broker, settings.hls_segment_seconds, settings.hls_part_seconds)
    viewers = Viewers(reactor, options.broker, access, settings.log_debug, hls)
    exempt = settings.concurrent_limit_whitelist
    limits = ConnectionLimits(0, settings.web_max_per_ip, exempt, "WEB_MAX_PER_IP", beside=others)
    site = watch_site(viewers, limits)
    endpoints: list[Any] = []
    factories: list[Any] = [("web server", "web_port", site)]
    if settings.web_ssl_port:
        from rtmp_twisted.rtmp.tls import SecuredFactory

        secured = SecuredFactory(certificates, False, site, reactor)
        factories.append(("web server over TLS", "web_ssl_port", secured))
    for name, port, factory in factories:
        if getattr(settings, port):
            where = endpoint(reactor, settings, "web_bind_address", port)
            endpoints.append((name, where, Listener(limits, factory, settings.proxy_protocol_from, reactor)))
    ports = Ports(endpoints, lambda line: fail(reactor, line))
    return WatchHTTP(viewers, site, limits, ports, settings.shutdown_grace_seconds)


def operator_http(
    settings: Settings,
    reactor: Any,
    broker: Broker,
    factory: RTMPFactory,
    timed: Any,
    links: dict[str, Any],
    web: Any,
    relays: Any,
) -> Service:
    from rtmp_twisted.web.metrics import Metrics
    from rtmp_twisted.web.operators import OperatorHTTP
    from rtmp_twisted.web.status import WebStatus

    status = None if web is None else WebStatus(web.viewers, web.site, web.limits)
    metrics = Metrics(reactor, broker, factory, timed, links, status, relays)
    where = endpoint(reactor, settings, "http_bind_address", "http_port")
    return OperatorHTTP(
        reactor,
        where,
        broker,
        metrics.sampler,
        metrics.text,
        settings.http_token,
        lambda line: fail(reactor, line),
        relays,
    )


def relay_service(settings: Settings, reactor: Any, broker: Broker, factory: RTMPFactory) -> Service:
    from rtmp_twisted.relay.link import CONNECT_SECONDS, RelayOptions
    from rtmp_twisted.relay.relays import RelayService
    from rtmp_twisted.relay.tls import client_context

    @cache
    def context(insecure: bool) -> Any:
        return client_context(settings.relay_tls_ca, insecure)

    if settings.relay_tls_ca:
        try:
            context(False)
        except ValueError as error:
            raise SettingsError([f"RELAY_TLS_CA: {error}"]) from None

    def reach(host: str, port: int) -> HostnameEndpoint:
        return HostnameEndpoint(reactor, host, port, timeout=CONNECT_SECONDS)

    options = RelayOptions(reactor, reach, broker, factory, SystemRandom(), context, settings.rtmp_chunk_size)
    return RelayService(options, settings.push, settings.pull)


def publish_authority(settings: Settings, reactor: Any) -> Any:
    """Who decides: the coordinator, the callback, or nobody (an `IPublishAuthority`; imports only what it needs)."""
    if settings.control_use:
        from rtmp_twisted.integrations.coordinator import CoordinatorAuthority

        try:
            return CoordinatorAuthority(
                reactor,
                SystemRandom(),
                base_url=settings.control_base_url,
                secret=settings.control_secret,
                external_ip=settings.external_ip,
                external_port=settings.external_port,
                external_ssl=settings.external_ssl,
                shutdown_timeout=settings.shutdown_grace_seconds,
            )
        except ValueError as error:
            raise SettingsError([f"CONTROL_BASE_URL: {error}"]) from None
    if settings.callback_url:
        from rtmp_twisted.integrations.callback import CallbackAuthority

        return CallbackAuthority(
            reactor,
            url=settings.callback_url,
            secret=settings.jwt_secret,
            subject=settings.custom_jwt_subject,
            rtmp_host=settings.rtmp_host,
            rtmp_port=settings.rtmp_port,
            shutdown_timeout=settings.shutdown_grace_seconds,
        )
    return AcceptAll()
