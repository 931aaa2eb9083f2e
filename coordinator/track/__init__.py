"""A run's figures, round by round, to where people compare runs."""

from coordinator.track.follow import track
from coordinator.track.points import Point, points

__all__ = ["Point", "points", "track"]
