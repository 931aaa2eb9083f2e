"""The page of golden bytes, from one message of every kind; written with the site."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from edge_sdk.wire.codec import Header, encode, pack, tag_of
from edge_sdk.wire.messages import Message, TaskAck

ROOT = Path(__file__).parents[2]
HEAD = """# Golden bytes

What is on the wire, byte for byte, for who writes another implementation, as the
code of this version packs it. `tests/wire` holds the digests: where one changes, the
protocol has a new version. Meaning and order: [protocol](protocol.md).

## An envelope

Federation `demo`, from `pi-1` to `coordinator`, epoch 2, sequence 3, boot 4, round 5;
body TASK-ACK of task `1-abc`; the signature is the one byte 07. All of it is msgpack:
`94` is an array of four, `c4` a byte string.
"""


def render(messages: Sequence[Message]) -> str:
    """The page."""
    header = Header(
        type="task-ack",
        federation="demo",
        source="pi-1",
        destination="coordinator",
        epoch=2,
        seq=3,
        boot=4,
        round_no=5,
    )
    packet = encode(header, TaskAck("1-abc"), sign=lambda _: b"\x07")
    parts = [HEAD, _block(packet), "\n## Every message's body\n"]
    for message in messages:
        parts += [f"\n### {tag_of(message).upper()}\n", _block(pack(message))]
    return "\n".join(parts) + "\n"


def _block(content: bytes) -> str:
    lines = textwrap.wrap(content.hex(" "), 3 * 32)
    return "\n".join(["```text", *lines, "```"])


def sample() -> list[Message]:
    """One of every message, as the tests of the wire have them."""
    spec = spec_from_file_location("wire_conftest", ROOT / "tests/wire/conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = module_from_spec(spec)
    spec.loader.exec_module(module)
    found: list[Message] = module.messages.__wrapped__()
    return found
