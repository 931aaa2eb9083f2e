"""The owner's limits on when and how hard a device trains, and their enforcement."""
