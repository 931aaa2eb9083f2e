"""Access rules of a federation in the words of other brokers; pure text.

Our own mosquitto gets an access list at each start. Elsewhere the operator enters what
each device may write and read: its own topics, and those that all devices read. What a
broker lets through beyond that is found by the signatures.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType

from coordinator.broker.config import access_list
from edge_sdk.wire import topics

__all__ = ["POLICIES", "policy_for"]

_ANY = "device-name"  # a device's name stands here before it is replaced


def policy_for(kind: str, federation: str) -> str:
    """The rules for one kind of broker, as text to copy.

    Args:
        kind: A key of `POLICIES`.
        federation: The federation's name.

    Example:
        >>> "pattern write fl/1/demo/d/%u/st" in policy_for("mosquitto", "demo")
        True
    """
    return POLICIES[kind](federation)


def _writes(federation: str, device: str) -> list[str]:
    """Topics that a device publishes to; the last one is retained."""
    found = [topics.upload(federation, _ANY, 0, data=data) for data in (False, True)]
    found.append(topics.status(federation, _ANY))
    return [topic.replace(_ANY, device) for topic in found]


def _reads(federation: str, device: str, everything: str = "#") -> list[str]:
    """Topics and filters that a device subscribes to."""
    prefix = topics.announcement(federation).removesuffix("c/ann")
    inbox = topics.inbox(federation, _ANY).replace(_ANY, device)
    return [inbox, f"{prefix}c/{everything}", f"{prefix}m/{everything}"]


def _all(federation: str, everything: str = "#") -> str:
    """Filter for every topic of the federation, which are the coordinator's."""
    return topics.announcement(federation).removesuffix("c/ann") + everything


def _mosquitto(federation: str) -> str:
    return (
        "# acl_file of mosquitto. The user name is the device's name, the "
        "coordinator's is\n# coordinator; with certificates, set "
        "use_identity_as_username true.\n" + access_list(federation)
    )


def _aws_iot(federation: str) -> str:
    """Two IoT Core policies; a device's thing, client id and name are the same."""
    thing = "${iot:Connection.Thing.ThingName}"

    def arn(kind: str, names: list[str]) -> list[str]:
        return [f"arn:aws:iot:REGION:ACCOUNT:{kind}/{name}" for name in names]

    def allow(action: str, kind: str, names: list[str]) -> dict[str, object]:
        found = {"Effect": "Allow", "Action": action, "Resource": arn(kind, names)}
        return dict(found)

    writes = _writes(federation, thing)
    reads = _reads(federation, thing, "*")
    device = [
        {
            **allow("iot:Connect", "client", [thing]),
            "Condition": {"Bool": {"iot:Connection.Thing.IsAttached": "true"}},
        },
        allow("iot:Publish", "topic", writes),
        allow("iot:RetainPublish", "topic", writes[-1:]),
        allow("iot:Subscribe", "topicfilter", reads),
        allow("iot:Receive", "topic", reads),
    ]
    mine = [_all(federation, "*")]
    coordinator = [
        allow("iot:Connect", "client", [f"{federation}-coordinator"]),
        *(allow(f"iot:{do}", "topic", mine) for do in ("Publish", "RetainPublish")),
        allow("iot:Subscribe", "topicfilter", mine),
        allow("iot:Receive", "topic", mine),
    ]
    both = {
        f"flash-edge-{federation}-device": {
            "Version": "2012-10-17",
            "Statement": device,
        },
        f"flash-edge-{federation}-coordinator": {
            "Version": "2012-10-17",
            "Statement": coordinator,
        },
    }
    return json.dumps(both, indent=2) + "\n"


def _event_grid(federation: str) -> str:
    """Commands of the Azure CLI; clients have an attribute ``role``."""
    name = "${client.authenticationName}"
    base = f"flash-{federation}"
    here = '-g "$GROUP" --namespace-name "$NAMESPACE"'

    def space(end: str, templates: list[str]) -> str:
        given = " ".join(f"'{template}'" for template in templates)
        return (
            f"az eventgrid namespace topic-space create {here} \\\n"
            f"  -n {base}-{end} --topic-templates {given}\n"
        )

    def group(role: str) -> str:
        return (
            f"az eventgrid namespace client-group create {here} \\\n"
            f"  -n {base}-{role} --group-query \"attributes.role = '{role}'\"\n"
        )

    def bind(role: str, do: str, end: str) -> str:
        return (
            f"az eventgrid namespace permission-binding create {here} \\\n"
            f"  -n {base}-{role}-{do.lower()} --client-group-name {base}-{role} \\\n"
            f"  --permission {do} --topic-space-name {base}-{end}\n"
        )

    return "".join(
        (
            "# Set GROUP and NAMESPACE. A device's authentication name is its name; "
            "clients have\n# the attribute role: device, or coordinator.\n",
            *(group(role) for role in ("device", "coordinator")),
            space("device-writes", _writes(federation, name)),
            space("device-reads", _reads(federation, name)),
            space("all", [_all(federation)]),
            bind("device", "Publisher", "device-writes"),
            bind("device", "Subscriber", "device-reads"),
            bind("coordinator", "Publisher", "all"),
            bind("coordinator", "Subscriber", "all"),
        )
    )


def _emqx(federation: str) -> str:
    """Rules of ``acl.conf``; the serverless console takes the same as rows."""
    user = "${username}"

    def rule(who: str, do: str, names: list[str]) -> str:
        listed = ", ".join(f'"{name}"' for name in names)
        return f"{{allow, {who}, {do}, [{listed}]}}.\n"

    return "".join(
        (
            "%% acl.conf of EMQX; in its console, one row of Authorization for each "
            "topic.\n%% The user name is the device's name, the coordinator's is "
            "coordinator.\n",
            rule('{user, "coordinator"}', "all", [_all(federation)]),
            rule("all", "publish", _writes(federation, user)),
            rule("all", "subscribe", _reads(federation, user)),
            "{deny, all}.\n",
        )
    )


def _hivemq(federation: str) -> str:
    """Roles of the file RBAC extension; the cloud's console takes the same as rows."""
    user = "${{username}}"

    def permission(topic: str, do: str) -> str:
        return (
            "      <permission>\n"
            f"        <topic>{topic}</topic>\n"
            f"        <activity>{do}</activity>\n"
            "      </permission>\n"
        )

    device = [permission(topic, "PUBLISH") for topic in _writes(federation, user)]
    device += [permission(topic, "SUBSCRIBE") for topic in _reads(federation, user)]

    def role(name: str, permissions: list[str]) -> str:
        return (
            f"    <role>\n      <id>{name}</id>\n      <permissions>\n"
            + "".join(permissions).replace("      <", "        <")
            + "      </permissions>\n    </role>\n"
        )

    return (
        "<!-- Roles of HiveMQ; in the cloud's console, one permission for each topic. "
        "The\n     user name is the device's name, the coordinator's is coordinator. "
        "-->\n<file-rbac>\n  <roles>\n"
        + role("device", device)
        + role("coordinator", [permission(_all(federation), "ALL")])
        + "  </roles>\n</file-rbac>\n"
    )


def _cloudflare(federation: str) -> str:
    """An on-publish hook: such a broker has no rules per topic."""
    names = _writes(federation, "${message.clientId}")
    own = ", ".join(f"`{name}`" for name in names)
    return (
        "// On-publish hook of a broker without access lists: drops what a client "
        "must not write.\n// A device's client id is its name. What a client reads "
        "cannot be bounded here.\nexport default {\n"
        "  pubsub: (messages) => messages.filter((message) =>\n"
        f'    message.clientId === "{federation}-coordinator"\n'
        f'      ? message.topic.startsWith("{_all(federation, "")}")\n'
        f"      : [{own}]\n          .includes(message.topic)),\n"
        "};\n"
    )


POLICIES: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {
        "mosquitto": _mosquitto,
        "aws-iot": _aws_iot,
        "event-grid": _event_grid,
        "emqx": _emqx,
        "hivemq": _hivemq,
        "cloudflare": _cloudflare,
    }
)
