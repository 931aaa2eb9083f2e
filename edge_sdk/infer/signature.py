"""Signatures of bundles: Ed25519 over the digest of the manifest, beside it.

The manifest names the SHA-256 of every file, so one signature covers all. A signature
says that the holder of a key made the bundle; whose key that is, the reader must know:
a bundle that carries its own key proves nothing more.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import (
    load_pem_private_key,
    load_pem_public_key,
)

from edge_sdk.errors import ExportError, IdentityError

__all__ = ["SIGNATURE", "check_signature", "read_key", "read_public_key", "sign"]

SIGNATURE = "manifest.sig"
# What is signed begins so: the same key may sign messages, which begin otherwise.
_CONTEXT = b"flash-edge bundle 1\n"
_MOST = 4096  # bytes of a signature file


def sign(manifest: bytes, key: Ed25519PrivateKey) -> str:
    """The text of ``manifest.sig`` for a manifest's bytes."""
    signature = key.sign(_signed(manifest))
    public = key.public_key().public_bytes_raw()
    fields = {"algorithm": "Ed25519", "key": public.hex(), "signature": signature.hex()}
    return json.dumps(fields, indent=2) + "\n"


def check_signature(
    folder: Path, manifest: bytes, *, trusted: bytes | None = None
) -> bytes | None:
    """Checks a bundle's signature, if it has one or must have one.

    Args:
        folder: The bundle.
        manifest: The bytes of its manifest.
        trusted: The raw 32-byte public key that must have signed; None for any.

    Returns:
        The raw public key that signed; None for an unsigned bundle.

    Raises:
        ExportError: If the signature is damaged or false, or is not by `trusted`.
    """
    path = folder / SIGNATURE
    if not path.exists():
        if trusted is None:
            return None
        raise ExportError(
            f"{folder} is not signed, and a signature by {trusted.hex()[:16]} is asked",
            remedy="Build it again with --key, or verify it without.",
        )
    try:
        with path.open("rb") as file:
            fields = json.loads(file.read(_MOST))
        key, signature = (
            bytes.fromhex(fields["key"]),
            bytes.fromhex(fields["signature"]),
        )
        Ed25519PublicKey.from_public_bytes(key).verify(signature, _signed(manifest))
    except InvalidSignature as error:
        raise ExportError(
            f"{folder}: the signature does not belong to this manifest",
            remedy="The bundle was changed after it was signed: fetch it again.",
        ) from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ExportError(f"{path} is damaged: {error}") from error
    if trusted is not None and key != trusted:
        raise ExportError(
            f"{folder} is signed by {key.hex()[:16]}, not by {trusted.hex()[:16]}",
            remedy="Ask whoever built it for their public key.",
        )
    return key


def read_key(path: Path) -> Ed25519PrivateKey:
    """A private key from an unencrypted PEM file.

    Raises:
        IdentityError: If it cannot be read or is of another kind.
    """
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise IdentityError(
            f"{path} holds no private key: {error}",
            remedy="Name a PEM file; openssl genpkey -algorithm ed25519 -out key.pem "
            "makes one.",
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise IdentityError(
            f"{path} holds a key that is not Ed25519",
            remedy="openssl genpkey -algorithm ed25519 -out key.pem",
        )
    return key


def read_public_key(path: Path) -> bytes:
    """The raw 32 bytes of a public key, from the PEM file of either half.

    Raises:
        IdentityError: If it cannot be read or is of another kind.
    """
    try:
        content = path.read_bytes()
        if b"PRIVATE KEY" in content:
            return read_key(path).public_key().public_bytes_raw()
        key = load_pem_public_key(content)
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise IdentityError(f"{path} holds no public key: {error}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise IdentityError(f"{path} holds a key that is not Ed25519")
    return key.public_bytes_raw()


def _signed(manifest: bytes) -> bytes:
    return _CONTEXT + hashlib.sha256(manifest).digest()
