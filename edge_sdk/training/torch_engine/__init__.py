"""torch's engines of the training loop: sessions, dense models, the choice of one."""

__all__: list[str] = []
