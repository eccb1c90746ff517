"""The summary of the settings: which features are on and off, in lines for a person.

process.py logs it at the start, and tap.py prints it for ``--check``. It shows no secret, and does no I/O.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from attrs import frozen

from rtmp_twisted.settings import Settings
from rtmp_twisted.settings_types import mask_url


@frozen
class Feature:
    """Something that is on or off, or that can be done in several ways."""

    name: str
    on: bool
    detail: str = ""
    """Shown if the feature is on."""

    enabled_by: str = ""
    """Shown if the feature is off: the settings that turn it on, or the one that turned it off."""

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}" if self.on else f"{self.name} ({self.enabled_by})"


def features(settings: Settings) -> Iterator[Feature]:
    """Yields all features, on and off."""
    one = settings
    yield Feature("RTMP", True, " ".join(one.listen) or _where(one.bind_address, one.rtmp_port))
    yield Feature("RTMPS", one.rtmps, _where(one.ssl_bind_address, one.ssl_port), "SSL_CERT and SSL_KEY")
    yield Feature("who may publish", True, _publishers(one))
    everyone = one.rtmp_play_whitelist.everyone
    yield Feature(
        "who may play", True, "anyone with the key" + ("" if everyone else f", from {one.rtmp_play_whitelist}")
    )
    yield Feature("pushes to other servers", bool(one.push), " ".join(map(str, one.push)), "PUSH")
    yield Feature("pulls from other servers", bool(one.pull), " ".join(map(str, one.pull)), "PULL")
    node = f"this node is {one.cluster_address}, and Redis is {one.redis_host}:{one.redis_port}"
    yield Feature("cluster", one.cluster_use, node, "CLUSTER_USE")
    yield Feature("commands from Redis", one.redis_use, f"{one.redis_host}:{one.redis_port}", "REDIS_USE")
    where = _where(one.http_bind_address, one.http_port) + (", with a token" if one.http_token else "")
    yield Feature("HTTP for operators", bool(one.http_port), where, "HTTP_PORT")
    yield Feature("watching in a browser", one.web, _web(one), "WEB_PORT")
    limit = f"{one.max_ip_concurrent_connections} from one address (MAX_IP_CONCURRENT_CONNECTIONS)"
    if one.concurrent_limit_whitelist:
        limit += f", except for {one.concurrent_limit_whitelist}"
    everyone = one.concurrent_limit_whitelist.everyone
    yield Feature("limit of connections", not everyone, limit, "CONCURRENT_LIMIT_WHITELIST is *")
    bit_rate = f"{one.max_publish_kbps} kbit/s"
    yield Feature("limit of a publisher's bit rate", bool(one.max_publish_kbps), bit_rate, "MAX_PUBLISH_KBPS")
    proxies = f"from {one.proxy_protocol_from}"
    yield Feature("PROXY protocol", bool(one.proxy_protocol_from), proxies, "PROXY_PROTOCOL_FROM")
    kept = "one group of pictures" if one.gop_cache_mode == "gop" else "the whole stream"
    cache = f"{kept}, at most {one.gop_cache_size_mb} MB for each channel"
    yield Feature("cache for joining players", bool(one.gop_cache_size_mb), cache, "GOP_CACHE_SIZE_MB is 0")
    yield Feature("workers", one.workers > 1, f"{one.workers} processes beside the one that listens", "WORKERS")
    yield Feature("compiled", _is_compiled(), "yes", "RTMP_TWISTED_COMPILE=1 at the installation")


def lines(settings: Settings) -> list[str]:
    """Returns the summary: one line for each feature that is on, one line for all features that are off, and one line
    for each setting that is not at its default."""
    found = list(features(settings))
    off = ", ".join(str(feature) for feature in found if not feature.on)
    return [
        *(str(feature) for feature in found if feature.on),
        *([f"off: {off}"] if off else []),
        *(f"{variable} is {value}" for variable, value in settings.non_default()),
    ]


def _is_compiled() -> bool:
    """Whether any module of this package that is imported is compiled. pyproject.toml lists those that can be."""
    ours = [module for name, module in list(sys.modules.items()) if name.startswith("rtmp_twisted.")]
    return any(str(getattr(module, "__file__", "")).endswith(".so") for module in ours)


def _where(address: str, port: int) -> str:
    host = f"[{address}]" if ":" in address else address
    return f"port {port} of {host}" if host else f"port {port}"


def _web(settings: Settings) -> str:
    """The addresses of the watch page."""
    one = settings
    host = f"[{one.web_bind_address}]" if ":" in one.web_bind_address else one.web_bind_address or "HOST"
    path = {"key": "CHANNEL/KEY", "token": "CHANNEL/TOKEN", "anyone": "CHANNEL"}[one.web_play]
    ports = ("http", one.web_port), ("https", one.web_ssl_port)
    return ", ".join(f"{scheme}://{host}:{port}/{path}" for scheme, port in ports if port)


def _publishers(settings: Settings) -> str:
    if settings.control_use:
        return f"whoever the coordinator lets, {mask_url(settings.control_base_url)}"
    if settings.callback_url:
        return f"whoever the callback lets, {mask_url(settings.callback_url)}"
    return "anyone (set CALLBACK_URL or CONTROL_USE to change that)"
