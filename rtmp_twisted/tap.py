"""The composition root: what ``twistd rtmp`` runs, made of the settings. The only place that knows all the rooms."""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
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
from rtmp_twisted.live.directory import IDirectory
from rtmp_twisted.live.memory import Memory
from rtmp_twisted.live.turns import Turns
from rtmp_twisted.logs import LoggedService
from rtmp_twisted.ports import Ports, PortsService
from rtmp_twisted.process import (
    GarbageService,
    ProcessService,
    available_memory,
    give_back_memory,
    use_monotonic_clock,
)
from rtmp_twisted.rtmp.connection import Connection
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


def media_factory(
    settings: Settings,
    reactor: Any,
    authority: Any,
    limits: ConnectionLimits,
    guessing: GuessingLimits,
    directory: IDirectory | None = None,
    steer: Callable[[Connection, str], bool] | None = None,
    clock: Any = None,
    nodes: Callable[[str, str], bool] | None = None,
) -> RTMPFactory:
    """What makes RTMP connections, with the broker and all that is on air behind them. ``directory`` and ``steer`` are
    for one of several workers, which has its part of the memory; ``directory``, ``clock`` and ``nodes`` for a node of
    a cluster."""
    turns = Turns(reactor)
    scheduler = FlushScheduler(reactor, settings.write_merge_ms / 1000, time.thread_time, turns, settings.workers)
    # As of all workers together: they read no more often than one process would.
    used = time.thread_time if settings.workers == 1 else lambda: time.thread_time() * settings.workers
    poller = PublisherPoller(reactor, reactor, scheduler.flush_pending, used)
    turns.before = poller.poll_if_due
    broker = Broker(
        reactor,
        authority,
        scheduler,
        ChannelOptions(
            chunk_size=settings.rtmp_chunk_size,
            cache_bytes=settings.gop_cache_size_mb * MEBIBYTE,
            whole_stream=settings.gop_cache_mode == "stream",
            merge_messages=settings.msg_buffer_size,
        ),
        settings.publish_takeover_seconds,
        directory,
        end_players=settings.control_use,  # each publish is another stream, for which the coordinator has an encoder
        memory=Memory(
            (settings.max_memory_mb * MEBIBYTE or available_memory() // 2) // settings.workers, turns, give_back_memory
        ),
        return_seconds=settings.publish_return_seconds,
        server_id=os.urandom(8).hex(),
    )
    options = SessionOptions(
        broker=broker,
        clock=clock or reactor,
        names=NameRules(settings.id_max_length, settings.id_allow_empty, settings.id_allow_special_characters),
        chunk_size=settings.rtmp_chunk_size,
        players=settings.rtmp_play_whitelist,
        max_publish_rate=settings.max_publish_kbps * 1000 / 8,
        guessing=guessing,
        tokens=play_tokens(settings),
        steer=steer,
        nodes=nodes,
    )
    movable = steer is not None
    return RTMPFactory(options, limits, poller, debug=settings.log_debug, trace=settings.log_trace, movable=movable)


def rtmp_limits(settings: Settings) -> ConnectionLimits:
    return ConnectionLimits(
        most_connections(settings.max_connections),
        settings.max_ip_concurrent_connections,
        settings.concurrent_limit_whitelist,
    )


def rtmp_ports(
    settings: Settings, reactor: Any, limits: ConnectionLimits, factory: Any, secured: Any = None
) -> list[Any]:
    """Where RTMP and, with ``secured``, RTMPS connections come in, for these factories."""
    listener = Listener(limits, factory, settings.proxy_protocol_from, reactor)
    endpoints: list[Any] = [("RTMP", one, listener) for one in rtmp_endpoints(settings, reactor)]
    if secured is not None:
        where = endpoint(reactor, settings, "ssl_bind_address", "ssl_port")
        endpoints.append(("RTMPS", where, Listener(limits, secured, settings.proxy_protocol_from, reactor)))
    return endpoints


def assemble(settings: Settings, reactor: Any) -> list[Service]:
    """Returns the services, in the order in which they start; each stops when the one behind it has stopped."""
    authority = publish_authority(settings, reactor)
    if settings.workers > 1:
        return assemble_supervisor(settings, reactor, authority)
    timed = timed_authority(settings, reactor, authority)
    limits = rtmp_limits(settings)
    node = cluster_node(settings, reactor, timed or authority) if settings.cluster_use else None
    factory = media_factory(
        settings,
        reactor,
        timed or authority if node is None else node.authority,
        limits,
        GuessingLimits(reactor),
        None if node is None else node.directory,
        clock=None if node is None else node.clock,
        nodes=None if node is None else node.directory.secret.signed,
    )
    broker = factory.options.broker
    services: list[Service] = [broker]
    certificates = secured = None
    if settings.rtmps:
        from rtmp_twisted.rtmp.tls import SecuredFactory

        certificates = rtmps_certificates(settings, reactor)
        secured = SecuredFactory(certificates, False, factory, reactor)
        services.append(certificates)
    web = None
    if settings.web:
        web = web_server(settings, reactor, factory.options, limits, certificates)
        services.append(web)
    endpoints = rtmp_ports(settings, reactor, limits, factory, secured)
    services.append(RTMPService(factory, endpoints, settings.shutdown_grace_seconds, lambda line: fail(reactor, line)))
    relays = None
    if settings.push or settings.pull or settings.http_port:
        mine = (lambda channel: True) if node is None else node.mine
        relays = relay_service(settings, reactor, factory, mine)
        services.append(relays)
    if node is not None:
        services = node.join(relay_options(settings, reactor, factory), services)
    links = parties(settings, reactor, authority, broker, services)
    if node is not None:
        links["cluster"] = node.directory.store
    if timed is not None:
        nodes = None if node is None else node.nodes
        services.append(operator_http(settings, reactor, broker, factory, timed, links, web, relays, nodes))
    return services


def cluster_node(settings: Settings, reactor: Any, authority: Any) -> Any:
    """This server as one of several machines (a `ClusterNode`)."""
    from rtmp_twisted.cluster.nodes import ClusterNode

    try:
        return ClusterNode(
            reactor,
            SystemRandom(),
            redis_address(settings),
            authority,
            address=settings.cluster_address,
            secret=settings.cluster_secret,
            prefix=settings.cluster_prefix,
            # A coordinator ends a lost node's streams itself, and where nobody is asked, nobody is told.
            recorded=bool(settings.callback_url) and not settings.control_use,
            takeover_seconds=settings.publish_takeover_seconds,
            grace=settings.shutdown_grace_seconds,
        )
    except ValueError as error:
        raise SettingsError([f"REDIS_TLS_CA: {error}"]) from None


def assemble_supervisor(settings: Settings, reactor: Any, authority: Any) -> list[Service]:
    """The same for a server of several processes: what the one that listens does. What the others do is worker.py."""
    from rtmp_twisted.cluster.fleet import Fleet
    from rtmp_twisted.cluster.handover import RTMP, RTMPS, WEB, WEBS, HandOverFactory
    from rtmp_twisted.cluster.supervisor import Supervisor

    limits = rtmp_limits(settings)
    viewers = web_limits(settings, limits)
    of_kinds = {RTMP: limits, RTMPS: limits, WEB: viewers, WEBS: viewers}
    services: list[Service] = []
    timed = timed_authority(settings, reactor, authority)
    about: dict[str, Any] = {"settings": settings, "server_id": os.urandom(8).hex()}
    node = cluster_node(settings, reactor, timed or authority) if settings.cluster_use else None
    supervisor = Supervisor(
        reactor,
        settings.workers,
        lambda: about,
        of_kinds,
        GuessingLimits(reactor),
        timed or authority if node is None else node.authority,
        settings.shutdown_grace_seconds,
        lambda line: fail(reactor, line),
    )

    def factory(kind: str) -> HandOverFactory:
        return HandOverFactory(reactor, of_kinds[kind], partial(supervisor.take, kind))

    if settings.rtmps:
        certificates = rtmps_certificates(settings, reactor)

        def changed(certificate: bytes, key: bytes) -> None:
            about["pem"] = certificate, key
            supervisor.tell_all("certificate", certificate=certificate.decode("latin-1"), key=key.decode("latin-1"))

        about["pem"] = certificates.pem
        certificates.changed = changed
        services.append(certificates)
    endpoints = rtmp_ports(settings, reactor, limits, factory(RTMP), factory(RTMPS) if settings.rtmps else None)
    if settings.web:
        endpoints += web_ports(settings, reactor, viewers, factory(WEB), factory(WEBS))
    services.append(supervisor)
    services.append(PortsService(Ports(endpoints, lambda line: fail(reactor, line))))
    fleet = Fleet(supervisor)
    if node is not None:
        from rtmp_twisted.cluster.node_of_workers import NodeOfWorkers

        NodeOfWorkers(node, supervisor)
        services = [*node.services, *services]
    links = parties(settings, reactor, authority, fleet, services)
    if node is not None:
        links["cluster"] = node.directory.store
    if timed is not None:
        from rtmp_twisted.cluster.operations import FleetOperations
        from rtmp_twisted.web.totals import Totals

        of_web = viewers if settings.web else None
        totals = Totals(limits, of_web, supervisor.guessing, timed, links, lambda: supervisor.replaced)
        nodes = None if node is None else node.nodes
        operations = FleetOperations(supervisor, fleet, reactor, totals.text, nodes)
        services.append(operators_site(settings, reactor, operations))
    return services


def parties(settings: Settings, reactor: Any, authority: Any, target: Any, services: list[Service]) -> dict[str, Any]:
    """Puts the services that decide and command before the others, for the ``target`` of their commands; returns those
    that the server keeps connections to, by name."""
    if isinstance(authority, Service):
        services.insert(0, authority)
    if settings.control_use:
        authority.target = target
    links = {"coordinator": authority} if settings.control_use else {}
    if settings.redis_use:
        from rtmp_twisted.integrations.redis import RedisCommands

        try:
            redis = RedisCommands(reactor, target, SystemRandom(), redis_address(settings), settings.redis_channel)
        except ValueError as error:
            raise SettingsError([f"REDIS_TLS_CA: {error}"]) from None
        services.insert(0, redis)
        links["redis"] = redis
    return links


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
    from rtmp_twisted.web.watch import WatchHTTP

    limits = web_limits(settings, others)
    viewers, site = web_site(settings, reactor, options, limits)
    secured = None
    if settings.web_ssl_port:
        from rtmp_twisted.rtmp.tls import SecuredFactory

        secured = SecuredFactory(certificates, False, site, reactor)
    endpoints = web_ports(settings, reactor, limits, site, secured)
    ports = Ports(endpoints, lambda line: fail(reactor, line))
    return WatchHTTP(viewers, site, limits, ports, settings.shutdown_grace_seconds)


def web_limits(settings: Settings, others: ConnectionLimits) -> ConnectionLimits:
    """The limits of connections to the public web server, beside those of the others."""
    exempt = settings.concurrent_limit_whitelist
    return ConnectionLimits(0, settings.web_max_per_ip, exempt, "WEB_MAX_PER_IP", beside=others)


def web_ports(settings: Settings, reactor: Any, limits: ConnectionLimits, factory: Any, secured: Any) -> list[Any]:
    """Where connections to the public web server come in."""
    endpoints: list[Any] = []
    for name, port, one in (("web server", "web_port", factory), ("web server over TLS", "web_ssl_port", secured)):
        if getattr(settings, port):
            where = endpoint(reactor, settings, "web_bind_address", port)
            endpoints.append((name, where, Listener(limits, one, settings.proxy_protocol_from, reactor)))
    return endpoints


def web_site(settings: Settings, reactor: Any, options: SessionOptions, limits: ConnectionLimits) -> tuple[Any, Any]:
    """All viewers (`Viewers`), and the site that serves them."""
    from rtmp_twisted.web.access import Access
    from rtmp_twisted.web.hls import HLS
    from rtmp_twisted.web.viewer import Viewers
    from rtmp_twisted.web.watch import watch_site

    access = Access(reactor, options.names, options.guessing, settings.web_play, options.tokens, options.players)
    hls = HLS(reactor, options.broker, settings.hls_segment_seconds, settings.hls_part_seconds)
    viewers = Viewers(reactor, options.broker, access, settings.log_debug, hls)
    return viewers, watch_site(viewers, limits)


def operator_http(
    settings: Settings,
    reactor: Any,
    broker: Broker,
    factory: RTMPFactory,
    timed: Any,
    links: dict[str, Any],
    web: Any,
    relays: Any,
    nodes: Any,
) -> Service:
    from rtmp_twisted.web.metrics import Metrics
    from rtmp_twisted.web.operations import LocalOperations
    from rtmp_twisted.web.status import WebStatus

    status = None if web is None else WebStatus(web.viewers, web.site, web.limits)
    metrics = Metrics(reactor, broker, factory, timed, links, status, relays)
    operations = LocalOperations(reactor, broker, metrics.sampler, metrics.text, relays, nodes)
    operations.away.clients += [factory.clients, *([] if web is None else [web.viewers.clients])]
    return operators_site(settings, reactor, operations, broker.scheduler.turns)


def operators_site(settings: Settings, reactor: Any, operations: Any, turns: Turns | None = None) -> Service:
    """The operators' HTTP (an `OperatorHTTP`), for these `Operations`."""
    from rtmp_twisted.web.operators import OperatorHTTP

    where = endpoint(reactor, settings, "http_bind_address", "http_port")
    failed = partial(fail, reactor)
    return OperatorHTTP(reactor, where, operations, settings.http_token, failed, turns or Turns(reactor))


def relay_service(settings: Settings, reactor: Any, factory: RTMPFactory, mine: Callable[[str], bool]) -> Service:
    """Pushes and pulls; ``mine`` says whether a channel is one that this process pulls."""
    from rtmp_twisted.relay.relays import RelayService

    return RelayService(relay_options(settings, reactor, factory), settings.push, settings.pull, mine)


def relay_options(settings: Settings, reactor: Any, factory: RTMPFactory) -> Any:
    """What all pushes and pulls have in common (a `RelayOptions`)."""
    from rtmp_twisted.relay.link import CONNECT_SECONDS, RelayOptions
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

    broker = factory.options.broker
    return RelayOptions(reactor, reach, broker, factory, SystemRandom(), context, settings.rtmp_chunk_size)


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
