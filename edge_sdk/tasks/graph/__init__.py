"""A model as the graph of its layers: how it is traced, which units can be cut."""
