"""The wire: messages, their bytes, their topics. No sockets, no clock."""
