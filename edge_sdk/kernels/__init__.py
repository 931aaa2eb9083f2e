"""The native sparse kernels: their sources, how they are built, found and called."""
