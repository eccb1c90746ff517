"""Numbers for a person who reads the log."""

from __future__ import annotations

from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IAddress


def duration(seconds: float) -> str:
    """``3.2 s``, ``4m05s`` or ``2h04m05s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m{rest:02}s" if hours else f"{minutes}m{rest:02}s"


def amount(size: float) -> str:
    """Bytes in the decimal unit that fits: ``900 B``, ``12.3 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def address(where: IAddress) -> str:
    """``192.0.2.1:1935``, ``[::]:1935`` or ``unix:/run/rtmp.sock``."""
    if isinstance(where, UNIXAddress):
        return f"unix:{(where.name or b'').decode('utf-8', 'replace')}"
    host, port = getattr(where, "host", "?"), getattr(where, "port", "?")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
