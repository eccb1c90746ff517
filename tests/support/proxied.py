"""PROXY protocol headers as proxies write them."""

from __future__ import annotations

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def version_1(address: str, port: int = 50000) -> bytes:
    family = "TCP6" if ":" in address else "TCP4"
    return f"PROXY {family} {address} {'::1' if ':' in address else '10.0.0.1'} {port} 1935\r\n".encode()


def version_2(family_and_protocol: int, addresses: bytes, command: int = 1) -> bytes:
    return SIGNATURE + bytes((0x20 | command, family_and_protocol)) + len(addresses).to_bytes(2, "big") + addresses
