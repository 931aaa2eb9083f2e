"""Several addresses of one broker in settings: a list, and the URL that it is."""

from __future__ import annotations

import re
from collections.abc import Sequence

from edge_sdk.errors import SettingsError

__all__ = ["url_of_list"]

ONE_BROKER = (
    "They are of one broker and differ in host and port only: "
    '["mqtts://a.example:8883", "b.example:8883"].'
)


def url_of_list(given: Sequence[object], where: str = "broker") -> str:
    """The one URL of several addresses that settings name in a list.

    A scheme, a user, or what stands behind the port may be written once or with each.

    Args:
        given: The list.
        where: Of its key, for errors.

    Raises:
        SettingsError: If an entry is no address, or two differ in more than the host.

    Example:
        >>> url_of_list(["mqtts://a.example:8883", "b.example:8884"])
        'mqtts://a.example:8883,b.example:8884'
    """
    hosts: list[str] = []
    schemes: dict[str, int] = {}
    users: dict[str, int] = {}
    behind: dict[str, int] = {}
    for place, one in enumerate(given, 1):
        text = one.strip() if isinstance(one, str) else ""
        scheme, sep, rest = text.rpartition("://")
        netloc = re.split("[/?#]", rest, maxsplit=1)[0]
        user, at, host = netloc.rpartition("@")
        if not host or "," in text:
            raise SettingsError(
                f"{where}: number {place} of its addresses is none",
                remedy=ONE_BROKER,
            )
        hosts.append(host)
        for found, part in (
            (schemes, scheme + sep),
            (users, user + at),
            (behind, rest[len(netloc) :].rstrip("/")),
        ):
            found.update({part: place} if part else {})
    for what, found in (
        ("schemes", schemes),
        ("users or passwords", users),
        ("endings", behind),
    ):
        if len(found) > 1:
            places = " and ".join(str(place) for place in found.values())
            raise SettingsError(
                f"{where}: its addresses {places} have different {what}",
                remedy=ONE_BROKER,
            )
    if not hosts:
        raise SettingsError(f"{where}: the list is empty", remedy=ONE_BROKER)
    return "".join((*schemes, *users, ",".join(hosts), *behind))
