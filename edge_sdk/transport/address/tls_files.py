"""TLS files of a link to a broker, each read by itself: errors name the file."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from edge_sdk.errors import BrokerError

__all__ = ["Tls"]


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS files of a link to a broker, in PEM.

    Attributes:
        authority: Whom to believe; None for the system's authorities.
        certificate: Our own certificate, for mutual TLS.
        key: Its key, if it is not in the same file.
    """

    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """A context that checks the broker's certificate and name.

        Raises:
            BrokerError: If a file cannot be used; names it.
        """
        for file in (self.authority, self.certificate, self.key):
            if file is not None:
                _look(file)
        try:
            context = ssl.create_default_context(
                cafile=None if self.authority is None else str(self.authority)
            )
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise _wrong(f"{self.authority} holds no certificate in PEM") from error
        try:
            self.load(context)
        except (OSError, ValueError) as error:
            key = self.key or self.certificate
            why = f"it has no certificate, or {key} no key without a pass phrase"
            if "MISMATCH" in str(error):
                why = f"the key in {key} is not that of the certificate"
            raise _wrong(f"{self.certificate} cannot be shown: {why}") from error
        return context

    def load(self, context: ssl.SSLContext) -> None:
        """Reads our certificate again: it is renewed while we run."""
        if self.certificate is not None:
            # Without a pass phrase OpenSSL would ask for one at the terminal.
            context.load_cert_chain(self.certificate, self.key, password="")


def _look(file: Path) -> None:
    try:
        with file.open("rb") as opened:
            opened.read(1)
    except OSError as error:
        raise _wrong(f"{file} cannot be read: {error.strerror}") from error


def _wrong(what: str) -> BrokerError:
    return BrokerError(
        f"the files for TLS cannot be used: {what}",
        remedy="Correct broker_ca, broker_cert or broker_key, or the file; a device "
        "without them enrols again: flash-edge enroll TOKEN",
    )
