"""Local training on the device: engines, the loop, the warm-up."""
