"""What a node pulls from another one: relay/'s pull, over TCP or TLS, with a token that says that it is a node. Made by
edges.py, as nodes.py and worker.py have it.

The other side (rtmp/message_stream.py) takes the token in place of the key, and lets its bearer have the channel
without any limit. Which key players have to give is in the directory, as a digest.
"""

from __future__ import annotations

from attrs import evolve

from rtmp_twisted.cluster.directory import Node
from rtmp_twisted.cluster.edges import EdgePull
from rtmp_twisted.cluster.secret import ClusterSecret
from rtmp_twisted.relay.client import ClientSession
from rtmp_twisted.relay.link import RelayOptions
from rtmp_twisted.relay_rules import Address


class NodePull(EdgePull):
    def __init__(self, secret: ClusterSecret, options: RelayOptions, node: Node, channel: str, key: str | None) -> None:
        self._secret = secret
        self._node_address = node_address(node.address, channel)
        super().__init__(options, node, channel, self._node_address, None)

    async def open(self) -> ClientSession:
        # A new connection may bring the same publish as the one before, and with it the same claim.
        self.epoch = 0
        self._where = evolve(self._node_address, name=f"?token={self._secret.token(self.channel)}")
        return await super().open()


def node_address(address: str, channel: str) -> Address:
    """Where a channel is at a node. Raises Mistake where the node's address is none."""
    return evolve(Address.parse(f"{address}/channel/name"), app=channel, name="")
