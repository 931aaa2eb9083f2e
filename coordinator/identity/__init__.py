"""Who may take part: the federation's authority, its tokens, certificates and keys."""
