"""Where the server listens: endpoints made of the settings. Used by tap.py only.

If one cannot listen, the error is one line that begins with the setting to change.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any, Final, NoReturn

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint, serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.python.failure import Failure
from zope.interface import implementer

from rtmp_twisted.settings import Settings
from rtmp_twisted.settings_types import SettingsError

BACKLOG: Final = 4096
"""Connections that wait in the kernel to be taken, so that a health check is not lost among a flood of them (it would
be repeated after a second); no more than net.core.somaxconn says."""


class ListenError(Exception):
    """The text is one line, which begins with a setting."""


@implementer(IStreamServerEndpoint)
@frozen
class SettingEndpoint:
    """An endpoint of TCP from two settings, the names of which are ``address_setting`` and ``port_setting``."""

    endpoint: IStreamServerEndpoint
    address: str
    port: int
    address_setting: str
    port_setting: str

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Fails with a `ListenError`."""
        return self.endpoint.listen(protocolFactory).addErrback(self._explain)

    def _explain(self, failure: Failure) -> NoReturn:
        error: Any = failure.value.socketError if isinstance(failure.value, CannotListenError) else failure.value
        code = getattr(error, "errno", None)
        where = f"port {self.port}" + (f" of {self.address}" if self.address else "")
        if code == errno.EADDRINUSE:
            raise ListenError(f"{self.port_setting}: {where} is already in use by another program")
        if code == errno.EACCES:
            raise ListenError(f"{self.port_setting}: this user may not listen on {where}")
        setting = self.address_setting if self.address and code == errno.EADDRNOTAVAIL else self.port_setting
        raise ListenError(f"{setting}: cannot listen on {where}: {getattr(error, 'strerror', None) or error}")


@implementer(IStreamServerEndpoint)
@frozen
class DescribedEndpoint:
    """One of the endpoints of LISTEN."""

    endpoint: IStreamServerEndpoint
    description: str

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Fails with a `ListenError`."""
        return self.endpoint.listen(protocolFactory).addErrback(self._explain)

    def _explain(self, failure: Failure) -> NoReturn:
        raise ListenError(f"LISTEN: {self.description!r} cannot be used: {failure.getErrorMessage()}")


def rtmp_endpoints(settings: Settings, reactor: Any) -> list[IStreamServerEndpoint]:
    """Returns where RTMP is accepted: the endpoints of LISTEN, or, if there are none, RTMP_PORT. Raises
    SettingsError."""
    if not settings.listen:
        return [endpoint(reactor, settings, "bind_address", "rtmp_port")]
    found: list[IStreamServerEndpoint] = []
    mistakes: list[str] = []
    for description in settings.listen:
        try:
            found.append(DescribedEndpoint(serverFromString(reactor, description), description))
        except LookupError:
            mistakes.append(f"LISTEN: {description!r} cannot be used: no such socket was passed to this process")
        except Exception as error:  # whatever the endpoint's plugin says of its arguments
            mistakes.append(f"LISTEN: {description!r} cannot be used: {error}")
    if mistakes:
        raise SettingsError(mistakes)
    return found


def endpoint(reactor: Any, settings: Settings, address_setting: str, port_setting: str) -> SettingEndpoint:
    """Returns the endpoint of TCP that two settings describe, which are given by their names (``rtmp_port``).

    An empty address is all addresses, IPv4 and IPv6 (IPv4 alone where the machine has no IPv6).
    """
    address, port = getattr(settings, address_setting), getattr(settings, port_setting)
    made: IStreamServerEndpoint
    if ":" in address or (not address and Path("/proc/net/if_inet6").exists()):
        made = TCP6ServerEndpoint(reactor, port, interface=address or "::", backlog=BACKLOG)
    else:
        made = TCP4ServerEndpoint(reactor, port, interface=address, backlog=BACKLOG)
    return SettingEndpoint(made, address, port, address_setting.upper(), port_setting.upper())
