"""Identity of a device and of its coordinator: keys, tokens, certificates."""
