"""Steps of torch that a program is compared with, and what is watched in them."""

__all__: list[str] = []
