"""When and how hard a device may train: what its owner allows, kept to."""
