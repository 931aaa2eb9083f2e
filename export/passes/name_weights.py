"""Gives what layers multiply with the names of the weights it is made of."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import onnx

from export.passes import PassResult
from export.passes.graph import attribute, producers, rename

__all__ = ["TRANSPOSED", "NameWeights"]

TRANSPOSED = ".transposed"  # suffix of a weight stored as (in, out)
_STORED = ".stored"  # suffix of a weight that is only read to compute another


@dataclass(frozen=True)
class NameWeights:
    """Renames what a Conv, Gemm or MatMul multiplies with after its masked weight.

    A linear layer on inputs of three axes is exported as MatMul with its weight
    transposed, ``val_8``, which becomes ``fc.weight.transposed``; a weight that is
    scaled first becomes ``fc.weight``. Names follow the graph's edges, never values:
    two layers may hold equal ones. Runs before `FoldConstants`.

    Attributes:
        layers: Names of the masked weights, as initializers have them.
        unused: Filled while running: those that no output depends on.
    """

    layers: Collection[str]
    unused: set[str] = field(default_factory=set)

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        """Renames values in place."""
        made = producers(model)
        reached = set(_upstream(made, [value.name for value in model.graph.output]))
        self.unused.update(set(self.layers) - reached)
        computed: dict[str, str] = {}  # value to new name
        for node in model.graph.node:
            if node.op_type not in {"Conv", "Gemm", "MatMul"}:
                continue
            for name in node.input[:2]:
                found = _made_of(model, made, name, self.layers)
                if found is not None and found not in computed.values():
                    computed.setdefault(name, found)
        names = dict(computed)
        taken = set(computed.values()) & set(self.layers)
        names |= {layer: layer + _STORED for layer in taken}
        rename(model, names)
        note = f"{len(computed)} computed weights named"
        return PassResult(model, bool(computed), note)


def _upstream(made: dict[str, onnx.NodeProto], values: list[str]) -> Iterator[str]:
    """The values, and all that they are computed from."""
    stack, seen = list(values), set(values)
    while stack:
        name = stack.pop()
        yield name
        node = made.get(name)
        for source in node.input if node is not None else ():
            if source not in seen:
                seen.add(source)
                stack.append(source)


def _made_of(
    model: onnx.ModelProto,
    made: dict[str, onnx.NodeProto],
    name: str,
    layers: Collection[str],
) -> str | None:
    """The name for a value that constants alone give, one of them a masked weight."""
    if name not in made:
        return None
    every = list(_upstream(made, [name]))
    given = {value.name for value in model.graph.input}
    masked = [n for n in every if n in layers]
    if len(masked) != 1 or given.intersection(every):
        return None
    # Every step between them is followed: turned twice is not turned.
    turned, at = False, name
    while at != masked[0]:
        node = made[at]
        if node.op_type == "Transpose":
            if list(attribute(node, "perm", [1, 0])) != [1, 0]:
                return None
            turned = not turned
        at = next(n for n in node.input if masked[0] in _upstream(made, [n]))
    return masked[0] + TRANSPOSED if turned else masked[0]
