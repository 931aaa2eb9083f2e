"""A run's figures, round by round, to where people compare runs."""

from coordinator.views.track.follow import track
from coordinator.views.track.points import Point, points

__all__ = ["Point", "points", "track"]
