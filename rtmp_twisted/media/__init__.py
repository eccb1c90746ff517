"""What a message holds, and the containers it can be put into: tags, codecs. Pure functions, no I/O."""
