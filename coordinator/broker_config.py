"""What our own broker is told: where mosquitto lies, its config, the port it keeps."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from edge_sdk.checkpoint import replace_file
from edge_sdk.errors import BrokerError, CheckpointError

__all__ = ["find_mosquitto", "keep_port", "kept_port", "mosquitto_config"]

STATE_FILE = "broker.json"

# Debian installs it where an ordinary user's PATH does not look.
SYSTEM_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")

CONFIG = """\
# Written by flash-coordinator at every start; edits are lost.
listener {port} {host}
allow_anonymous true

# The ledger and the devices' journals hold what must last: a restarted broker starts
# empty, and coordinator and devices publish again what is still wanted.
persistence false

# By default message 1001 for a slow receiver is dropped and still acknowledged.
# What may be under way is bounded by the coordinator's upload credit instead.
max_queued_messages 0
max_inflight_messages 64

# A chunk is 64 KiB; anything far larger is a mistake, refused before it takes memory.
max_packet_size 1048576

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


def find_mosquitto() -> Path | None:
    """The mosquitto program, or None; ``PATH`` first, then the system's own folders."""
    folders = os.pathsep.join((os.environ.get("PATH", os.defpath), *SYSTEM_FOLDERS))
    found = shutil.which("mosquitto", path=folders)
    return Path(found) if found else None


def mosquitto_config(host: str, port: int) -> str:
    """A complete configuration that listens on one address.

    Example:
        >>> "listener 1883 127.0.0.1" in mosquitto_config("127.0.0.1", 1883)
        True
    """
    return CONFIG.format(host=host, port=port)


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
