"""Ed25519 signatures over messages: made here, and believed here and nowhere else.

A signature covers the header, which names federation, source, destination, epoch and
sequence, and the digest of the body. So a message to one device or federation is none
for another, and `Recent` knows a repetition. Chunks of models are not signed one by
one: the manifest in a signed order names their digests.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from edge_sdk.wire.codec import Header, Sign, Verify

__all__ = ["KeysOf", "Recent", "Seal", "is_signed", "signer", "verifier"]

# Keys that sign messages also prove themselves in TLS; what is signed there never
# begins with this.
CONTEXT = b"flash-edge message 1\n"
WINDOW = 1024  # sequence numbers below the newest that may still arrive
BOOTS = 256  # ended lives of a peer that are remembered

KeysOf: TypeAlias = Callable[[str], Iterable[bytes]]


@dataclass(frozen=True, slots=True)
class Seal:
    """The functions that sign this side's messages and verify those of others.

    Attributes:
        sign: Signed bytes -> signature.
        verify: What `edge_sdk.wire.codec.decode` asks before it reads a body.
        number: Which of this side's keys signs right now; a device's has none.
    """

    sign: Sign
    verify: Verify
    number: Callable[[], int] = lambda: 0


def signer(key_of: Callable[[], Ed25519PrivateKey]) -> Sign:
    """Signs with the key that is current at that moment."""
    return lambda signed: key_of().sign(CONTEXT + signed)


def verifier(
    keys_of: KeysOf, *, held: Callable[[str, bytes], None] = lambda _who, _key: None
) -> Verify:
    """A function that tells whether a message is signed by the source it names.

    Args:
        keys_of: Source -> the raw 32-byte public keys accepted from it right now; none
            for a stranger or somebody revoked.
        held: Told the source and the key when a signature holds.
    """

    def verify(header: Header, signed: bytes, signature: bytes) -> bool:
        for key in keys_of(header.source):
            if is_signed(key, signed, signature):
                held(header.source, key)
                return True
        return False

    return verify


def is_signed(key: bytes, signed: bytes, signature: bytes) -> bool:
    """Return whether the raw Ed25519 key has signed what a `signer` was given."""
    try:
        public = Ed25519PublicKey.from_public_bytes(key)
        public.verify(signature, CONTEXT + signed)
    except (InvalidSignature, ValueError):
        return False
    return True


@dataclass
class _Window:
    """Sequence numbers that arrived from one peer: one bit each, up to `top`."""

    boot: int
    top: int = 0
    seen: int = 0
    ended: deque[int] = field(default_factory=lambda: deque(maxlen=BOOTS))
    echoes: int = 0  # new words of lives that had ended
    latest: int = 0  # sequence number of the latest of them
    epoch: int = 0  # the newest that it has heard, or is in


class Recent:
    """Tells a message that was received before, or is far too old, from a new one.

    A broker may deliver twice, and one that is not ours may do so on purpose. Only
    messages whose signature holds may be shown here, so the sources are bounded.
    """

    def __init__(self) -> None:
        self._windows: dict[str, _Window] = {}

    def resume(self, source: str, boot: int, seq: int) -> None:
        """Takes up from an earlier life: what a peer had said up to then is not new."""
        self._windows[source] = _Window(boot, seq, (1 << WINDOW) - 1)

    def latest(self, source: str) -> tuple[int, int] | None:
        """Boot and highest sequence number heard of a peer; None before the first."""
        window = self._windows.get(source)
        return None if window is None else (window.boot, window.top)

    def echoes(self, source: str) -> int:
        """Number of new messages of a peer's earlier lives, after they had ended.

        Its last words may come late; beyond some, two processes have one identity.
        """
        window = self._windows.get(source)
        return window.echoes if window is not None else 0

    def is_over(self, header: Header) -> bool:
        """Return whether a message is of a life of its sender that has ended.

        Of a life that is not known its epoch tells: who starts anew has kept the newest
        that it heard. So what was recorded before this side's own start, when it knew
        of other lives, is not taken for the newest one.
        """
        window = self._windows.get(header.source)
        if window is None or header.boot == window.boot:
            return False
        return header.boot in window.ended or header.epoch < window.epoch

    def take(self, header: Header) -> bool:
        """Record a message; return whether it is new.

        Example:
            >>> recent = Recent()
            >>> one = Header("hello", "f", "pi-1", "coordinator", 1, seq=7, boot=3)
            >>> recent.take(one), recent.take(one)
            (True, False)
        """
        window = self._windows.setdefault(header.source, _Window(header.boot))
        if header.boot != window.boot:
            if self.is_over(header):
                # A repetition has a number that was heard; a process that lives on
                # counts up.
                if header.boot in window.ended:
                    window.echoes += header.seq > window.latest
                    window.latest = max(window.latest, header.seq)
                return False
            window.ended.append(window.boot)
            window.latest = max(window.latest, window.top)
            window.boot, window.top, window.seen = header.boot, 0, 0
        window.epoch = max(window.epoch, header.epoch)
        ahead = header.seq - window.top
        if ahead > 0:
            # A jump beyond the window forgets it: an int of any size must not grow.
            shifted = window.seen << ahead if ahead < WINDOW else 0
            window.seen = (shifted | 1) & ((1 << WINDOW) - 1)
            window.top = header.seq
            return True
        bit = 1 << -ahead if -ahead < WINDOW else 0
        if not bit or window.seen & bit:
            return False
        window.seen |= bit
        return True
