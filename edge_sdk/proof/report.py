"""A verified proof in words: who trained what, when, on how much, by which consent."""

from __future__ import annotations

from edge_sdk.proof.verify import Verified

__all__ = ["as_text"]

SHOWN = 20  # devices


def as_text(found: Verified) -> str:
    """The result of a verification, for people."""
    lines = [
        "the proof does not hold" if found.found else "the proof holds",
        f"  federation  {found.federation}",
        f"  made        {found.made}",
        f"  log         {found.records} records from number {found.first}, "
        f"{found.rounds} rounds with a model",
    ]
    lines += [f"  wrong       {sentence}" for sentence in found.found]
    lines += [f"  note        {sentence}" for sentence in found.notes]
    for device, part in sorted(found.devices.items())[:SHOWN]:
        lines.append(
            f"  {device}  {part['rounds']} updates of {part['examples']} examples, "
            f"rounds {part['first']} to {part['last']}"
            + "".join(f", consent: {label}" for label in part["consents"])
        )
    if len(found.devices) > SHOWN:
        lines.append(f"  and {len(found.devices) - SHOWN} devices more")
    return "\n".join(lines)
