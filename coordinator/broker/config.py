"""Configuration of our own broker: mosquitto's path, its config, its port."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_sdk.checkpoint import replace_file
from edge_sdk.errors import BrokerError, CheckpointError

__all__ = [
    "AccessControl",
    "access_list",
    "find_mosquitto",
    "keep_port",
    "kept_port",
    "mosquitto_config",
]

STATE_FILE = "broker.json"

# Debian installs it where an ordinary user's PATH does not look.
SYSTEM_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")

CONFIG = """\
# Written by flash-coordinator at every start; edits are lost.
listener {port} {host}
{access}

# The ledger and the devices' journals hold what must last: a restarted broker starts
# empty, and coordinator and devices publish again what is still wanted.
persistence false

# By default message 1001 for a slow receiver is dropped and still acknowledged. What
# may be under way to a device is one model (128 MiB at most), so bytes are bounded
# instead; nobody's queue can take all the memory.
max_queued_messages 0
max_queued_bytes 268435456
max_inflight_messages 64

# A chunk is 256 KiB at most and its envelope some hundred bytes; what is larger is
# refused before it takes memory. A device may write three topics, so that is all that
# it can have retained.
max_packet_size 282624

# Nobody here keeps a session over its links, nor speaks QoS 2: what a client asks for
# beyond that would be held in memory for its sake.
persistent_client_expiration 1h
max_qos 1

# Plans and receipts are small and somebody waits for each.
set_tcp_nodelay true
sys_interval 0

log_dest stderr
log_type error
log_type warning
log_type notice
log_type information
log_timestamp_format %Y-%m-%dT%H:%M:%S
connection_messages false
"""


OPEN = "allow_anonymous true"
GUARDED = """\
# Who has no certificate of the federation's authority, or a revoked one, is not let in;
# who is in has the name of its certificate, which nobody else can take.
allow_anonymous false
cafile {authority}
certfile {server}
keyfile {server}
crlfile {revocations}
acl_file {access_list}
require_certificate true
use_identity_as_username true
use_username_as_clientid true
"""
ACCESS = """\
user coordinator
topic readwrite fl/1/{federation}/#
{revoked}
pattern write fl/1/{federation}/d/%u/up/0/ctl
pattern write fl/1/{federation}/d/%u/up/0/dat
pattern write fl/1/{federation}/d/%u/st
pattern read fl/1/{federation}/d/%u/in
pattern read fl/1/{federation}/c/#
pattern read fl/1/{federation}/m/#
"""


@dataclass(frozen=True, slots=True)
class AccessControl:
    """Files by which a broker with TLS checks its clients.

    Attributes:
        authority: PEM of the federation's authority.
        server: PEM of the broker's key and certificate.
        revocations: PEM of the list of revoked certificates.
        access_list: Who may write and read what.
    """

    authority: bytes
    server: bytes
    revocations: bytes
    access_list: bytes


def access_list(federation: str, revoked: Iterable[str] = ()) -> str:
    """Access list: a device may use its own topics and the common ones.

    A revoked name loses its patterns too, so a link that is still open carries nothing.

    Example:
        >>> "pattern write fl/1/demo/d/%u/st" in access_list("demo")
        True
    """
    denied = "".join(f"\nuser {name}\ntopic deny #\n" for name in sorted(revoked))
    return ACCESS.format(federation=federation, revoked=denied)


def find_mosquitto() -> Path | None:
    """The mosquitto program, or None; ``PATH`` first, then the system's own folders."""
    folders = os.pathsep.join((os.environ.get("PATH", os.defpath), *SYSTEM_FOLDERS))
    found = shutil.which("mosquitto", path=folders)
    return Path(found) if found else None


def mosquitto_config(
    host: str, port: int, access_control: Mapping[str, str] | None = None
) -> str:
    """A complete configuration that listens on one address.

    Args:
        host: The address.
        port: TCP port.
        access_control: The file of each field of `AccessControl`; None lets anybody in.

    Example:
        >>> "listener 1883 127.0.0.1" in mosquitto_config("127.0.0.1", 1883)
        True
    """
    access = (
        OPEN if access_control is None else GUARDED.format_map(access_control).strip()
    )
    return CONFIG.format(host=host, port=port, access=access)


def kept_port(folder: Path) -> int | None:
    """The port that the broker of this folder had last, or None.

    Raises:
        BrokerError: The state file is damaged.
    """
    file = folder / STATE_FILE
    if not file.exists():
        return None
    try:
        port = json.loads(file.read_text())["port"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(file) from error
    if not isinstance(port, int) or not 0 < port < 65_536:
        raise _damaged(file)
    return port


def keep_port(folder: Path, port: int) -> None:
    """Remembers the port: devices elsewhere are told it once.

    Raises:
        BrokerError: The folder cannot be written.
    """
    try:
        replace_file(folder / STATE_FILE, json.dumps({"port": port}).encode())
    except CheckpointError as error:
        raise BrokerError(
            f"the broker's port cannot be kept: {error}",
            remedy="Make the folder writable, or free space on its disk.",
        ) from error


def _damaged(file: Path) -> BrokerError:
    return BrokerError(
        f"{file} does not hold a port",
        remedy="Delete the file; devices then need the new port.",
    )
