"""What is on air: broker, channel, log, player. Knows wire/, and a player's "write"; nothing of sockets or commands."""
