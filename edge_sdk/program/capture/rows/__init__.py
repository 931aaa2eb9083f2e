"""Rows of the capture table, a family in each file."""
