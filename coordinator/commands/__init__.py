"""The commands of `flash-coordinator`: each parses, calls a function, prints."""
