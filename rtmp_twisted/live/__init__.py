"""What is on air: broker, publication, channel, log, cursor, audience, renditions.

This room knows wire/ and media/, and the clock that it is given. It knows no sockets and no commands: a player is a
`cursor.Writer`, and who may publish is asked through the interfaces in authority.py and directory.py.
"""
