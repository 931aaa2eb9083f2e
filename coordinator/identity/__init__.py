"""Identity of devices: the federation's authority, tokens, certificates, keys."""
