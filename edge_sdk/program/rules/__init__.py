"""Rows of the table of operations, a family in each file."""
