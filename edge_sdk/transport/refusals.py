"""Words for a broker's refusals: by its reason codes, and by what OpenSSL says."""

from __future__ import annotations

from paho.mqtt.reasoncodes import ReasonCode

from edge_sdk.errors import BrokerError
from edge_sdk.terminal.sanitize import plain

__all__ = [
    "PASSING",
    "in_tls_words",
    "in_words",
    "may_pass",
    "name_of",
    "nobody",
    "unreached",
    "with_remedy",
]

# Reasons of a CONNACK that end without a person, MQTT 5.0, section 2.4: unavailable,
# busy, shutting down, quota, rate of connections.
PASSING = (0x88, 0x89, 0x8B, 0x97, 0x9F)
# What OpenSSL says while a clock is wrong, or of a server that is just being started.
PASSING_TLS = ("has expired", "not yet valid", "UNEXPECTED_EOF", "BAD_CERTIFICATE")

SAID = 200  # characters of a broker's own words that a message repeats
# What a person can do about a broker's reason; MQTT 5.0, section 2.4, and CONNACK of
# 3.1.1, which paho translates.
REMEDIES = {
    "Bad user name or password": "check user and password in the broker's URL",
    "Not authorized": "check user and password in its URL, and its access list",
    "Client identifier not valid": "the broker wants another client id",
    "Session taken over": "another client has connected with this client id",
    "Unspecified "
    "error": "it was cut without a reason; if that continues, another board "
    "or process uses a copy of this identity",
    "Server shutting down": "the broker is being stopped; it is asked until it is back",
    "Administrative action": "a person or a rule of the broker has ended the link",
    "Connection rate exceeded": "the broker limits how often a client connects",
    "Maximum connect time": "the broker ends links of this age; the next one is made",
    "Use another server": "the broker wants us at another address, which is followed "
    "over TLS: write the one that it names in broker, or ask who runs it",
    "Server moved": "the broker has another address now, which is followed over TLS: "
    "write the one that it names in broker, or ask who runs it",
    "Bad authentication method": "it wants a sign-in that we do not know: have it take "
    "user and password, or certificates",
    "Packet too large": "raise the broker's limit for packets, to 128 KiB if you can "
    "(max_packet_size, message_size_limit)",
    "Quota exceeded": "the broker's quota is used up; raise it, or its disk is full",
    "Server unavailable": "the broker has no room for more clients, or is going down",
    "Server busy": "the broker has no room for more clients",
    "Unsupported protocol version": "it speaks neither MQTT 5 nor 3.1.1",
    "Banned": "the broker has banned us",
    "Topic name invalid": "the broker does not take this topic; allow it there",
    "Topic filter invalid": "the broker does not take this filter; allow it there",
    "QoS not supported": "name the broker in broker_profile, or raise its highest QoS",
    "Retain not supported": "allow retained messages, or name it in broker_profile",
    "Implementation specific error": "look for our client id in the broker's log",
    "Keep alive timeout": "the link or this machine stood still for too long",
    "Message rate too high": "the broker limits our rate; raise its limit",
    "Wildcard subscription not supported": "a coordinator needs topic filters with +; "
    "allow them, or take another broker",
}


# What OpenSSL says -> what it means here.
TLS = (
    (
        "CERTIFICATE_REVOKED",
        "the broker refuses this certificate: it was revoked. Ask the operator for a "
        "token, then: flash-edge enroll TOKEN",
    ),
    (
        "CERTIFICATE_EXPIRED",
        "the broker refuses this certificate: it is over. Have the operator revoke "
        "this device and let it in again: flash-edge enroll TOKEN",
    ),
    (
        "CERTIFICATE_REQUIRED",
        "the broker asks for a certificate: flash-edge enroll TOKEN",
    ),
    (
        "BAD_CERTIFICATE",
        "the broker does not take this certificate: by the broker's clock it is not "
        "valid yet (set that clock), or the broker cannot read it",
    ),
    (
        "UNKNOWN_CA",
        "the broker does not know the authority of this certificate: have it believe "
        "that authority, or show a certificate of one that it believes",
    ),
    (
        "certificate has expired",
        "by this machine's clock the broker's certificate is over: set the clock "
        "(timedatectl set-ntp true); if it is right, restart the coordinator",
    ),
    (
        "certificate is not yet valid",
        "by this machine's clock the broker's certificate is not valid yet: set the "
        "clock (timedatectl set-ntp true)",
    ),
    (
        "mismatch, certificate is not valid for",
        "the broker's certificate is for another name than the one in the URL: write "
        "the name that it has, or have it made for this one",
    ),
    *(
        (
            sign,
            "the broker's certificate is of an authority that is not known here: name "
            "its PEM in broker_ca, or write ?ca=system behind the URL if it is public",
        )
        for sign in ("unable to get local issuer", "self-signed", "self signed")
    ),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "the broker's certificate is not believed: it is another federation's, has "
        "another name, or this clock runs ahead",
    ),
    (
        "no application protocol",
        "what listens there does not take the protocol that the TLS handshake names "
        "(ALPN): write ?alpn=NAME behind the URL, by the broker's manual; mqtt as a "
        "rule",
    ),
    *(
        (
            sign,
            "what listens there does not speak TLS: name the broker's TLS port (8883 "
            "as a rule), or mqtt:// where the link is meant to be plain",
        )
        for sign in ("WRONG_VERSION_NUMBER", "UNEXPECTED_EOF", "handshake operation")
    ),
)


def name_of(reason: int) -> str:
    """Name of an MQTT 5.0 reason code in any packet; its number if it has none."""
    return next(iter(ReasonCode.names.get(reason, {})), f"reason {reason}")


def in_tls_words(text: str) -> str:
    """The meaning of an error of OpenSSL; its own text where none is known."""
    return next((words for sign, words in TLS if sign in text), text)


def may_pass(text: str) -> bool:
    """Return whether what OpenSSL says may end without a person.

    Example:
        >>> may_pass("certificate is not yet valid"), may_pass("self-signed")
        (True, False)
    """
    return any(sign in text for sign in PASSING_TLS)


def unreached(error: Exception) -> str:
    """The reason why there is no link, and what to do; our own words as they are.

    Example:
        >>> unreached(ConnectionRefusedError(111, "Connection refused"))
        "Connection refused: check the broker's URL, the firewall, and that it runs"
    """
    said = getattr(error, "strerror", None)
    check = "check the broker's URL, the firewall, and that it runs"
    return f"{said}: {check}" if said else str(error)


def in_words(code: ReasonCode, given: object = None) -> str:
    """A reason code's name, what a person can do about it, and the broker's own words.

    Args:
        code: The reason.
        given: paho's properties of its packet; None without any.
    """
    server = plain(str(getattr(given, "ServerReference", "")))[:SAID]
    said = plain(str(getattr(given, "ReasonString", "")))[:SAID]
    named = f"; it names {server}" if server else ""
    return with_remedy(code.getName()) + named + (f"; it says: {said}" if said else "")


def with_remedy(name: str) -> str:
    """The name of a reason code, and what a person can do about it."""
    remedy = REMEDIES.get(name, "")
    return f"{name} ({remedy})" if remedy else name


def nobody(url: str, refusal: str | None, silent: str) -> BrokerError:
    """The error of who needs a broker now and has no link to it.

    Args:
        url: Its address.
        refusal: Reason why it refuses us; None if it does not.
        silent: Reason why nobody is reached, or what else listens there; may be empty.
    """
    if refusal is not None:
        return BrokerError(
            f"the MQTT broker at {url} refuses us: {refusal}",
            remedy="Do what its reason asks for, or name another broker.",
        )
    return BrokerError(
        f"no MQTT broker answers at {url}" + (f": {silent}" if silent else ""),
        remedy="Check the address, the firewall, and that the broker runs.",
    )
