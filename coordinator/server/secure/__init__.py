"""Secure rounds of a running coordinator."""
