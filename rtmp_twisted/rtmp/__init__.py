"""Who connects: one connection's bytes, commands, limits and end. Knows wire/ and live/; nothing of outside/."""
