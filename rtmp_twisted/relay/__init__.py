"""RTMP as a client: channels are pushed to other servers, and pulled from them. Imported only where that is on.

A push is a reader of a channel's log over a connection in the client's role; a pull is a publication that such a
connection feeds. relays is the service that tap.py makes. pushes and pulls know which ones there are, push and pull are
one each. link keeps its connection, client is that connection's handler, and tls checks certificates.
"""
