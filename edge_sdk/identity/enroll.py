"""Enrols this device: a key made here, a certificate from the coordinator.

The private key never leaves the folder. The coordinator's listener is asked twice: once
without belief, for the authority's certificate, which must have the pin of the token;
then through TLS that this authority vouches for, and only then the secret is sent.
"""

from __future__ import annotations

import datetime as dt
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from device_profiles.toml_text import quoted
from edge_sdk.errors import IdentityError, RemoteProtocolError
from edge_sdk.identity.exchange import (
    AskAuthority,
    AuthorityIs,
    Enrol,
    Enrolled,
    Refused,
    ask,
)
from edge_sdk.identity.folder import NewDevice
from edge_sdk.identity.keys import certificate_pem
from edge_sdk.identity.token import Token, pin_of
from edge_sdk.transport.tcp import connection_to, cut_after

__all__ = ["enroll", "settings_text"]

WAIT_S = 20.0
NOT_YET, OVER = 9, 10  # OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and _HAS_EXPIRED


def enroll(
    token: Token,
    folder: Path,
    *,
    before_end: Callable[[Enrolled], None] = lambda _: None,
) -> Enrolled:
    """Enrols a device in an identity folder; after a cut, the same command continues.

    Args:
        token: What the operator gave.
        folder: Where its identity will lie.
        before_end: Told what the coordinator answered while the same command could
            still be given again: what has to be there with the identity is kept here.

    Raises:
        IdentityError: If the coordinator cannot be reached, is not the pinned one, or
            refuses; or the folder holds a device already.
    """
    device = NewDevice(folder)
    try:
        authority = _authority(token)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=certificate_pem(authority).decode())
        with _link(token, context) as link:
            answer = ask(link, Enrol(token.secret, device.request()))
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in (NOT_YET, OVER):
            over = "is over" if error.verify_code == OVER else "is not valid yet"
            today = dt.datetime.now(dt.timezone.utc).date()
            raise IdentityError(
                f"by this board's clock, which says {today}, the certificate of the "
                f"coordinator at {token.host}:{token.port} {over}",
                remedy="Set the clock (timedatectl set-ntp true, or date -s), then use "
                "the same token again. If it is right, restart the coordinator.",
            ) from error
        raise IdentityError(
            f"the server at {token.host}:{token.port} is not the coordinator of this "
            f"token: {error.verify_message}",
            remedy="Check the address; ask the operator for a new token.",
        ) from error
    except (OSError, RemoteProtocolError) as error:
        raise IdentityError(
            f"no enrolment at {token.host}:{token.port}: {error}",
            remedy="Check that `flash-coordinator run` runs there and that its "
            "enrolment port is open, then use the same token again.",
        ) from error
    match answer:
        case Enrolled():
            before_end(answer)
            device.finish(answer, authority)
            return answer
        case Refused(why, remedy):
            raise IdentityError(why, remedy=remedy)
        case _:
            raise IdentityError("the coordinator's answer has another type")


def settings_text(
    answer: Enrolled, *, identity: str, data: str, state: str, profile: str
) -> str:
    """A whole `device.toml` for what was enrolled."""
    lines = {
        "name": answer.name,
        "federation": answer.federation,
        "broker": answer.broker,
        "identity": identity,
        "task": answer.task,
        "data": data,
        "state": state,
        "profile": profile,
    }
    return "".join(f"{key} = {quoted(value)}\n" for key, value in lines.items())


def _authority(token: Token) -> bytes:
    """The authority's certificate, which anybody may show but only one has the pin."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with _link(token, context) as link:
        answer = ask(link, AskAuthority())
    if not isinstance(answer, AuthorityIs):
        raise RemoteProtocolError("it does not say which authority it is of")
    if pin_of(answer.certificate) != token.pin:
        raise IdentityError(
            f"the server at {token.host}:{token.port} is not the coordinator of this "
            "token: its authority has another fingerprint",
            remedy="Check the address; ask the operator for a new token.",
        )
    return answer.certificate


@contextmanager
def _link(token: Token, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    with (
        connection_to(token.host, token.port, WAIT_S) as raw,
        cut_after(raw, WAIT_S),
        context.wrap_socket(raw, server_hostname=token.host) as link,
    ):
        yield link
