"""Values by their place and rank, windows, angles: each trains as torch does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from beside_torch import Case, loaded
from plain_models import N, Plain, classes, copies, error_of, tokens
from torch import nn

from edge_sdk.errors import EngineError
from edge_sdk.kernels.library import unavailable_reason
from edge_sdk.program.capture import capture
from edge_sdk.sparse import Mask

pytestmark = pytest.mark.skipif(bool(unavailable_reason()), reason="no kernels")

UPPER = torch.triu_indices(8, 8, offset=1)
Run = Callable[[Any, torch.Tensor], Any]


class Both(NamedTuple):
    """A prediction and how sure it is."""

    mean: torch.Tensor
    spread: torch.Tensor


def plain(run: Run, shape: tuple[int, ...] = (6,), **layers: Any) -> Case:
    """A function of a linear layer's eight results."""
    wide = {"head": nn.Linear(4, 4), **layers}
    return classes(Plain(run, body=nn.Linear(shape[-1], 8), **wide), *shape)


def between(of: Callable[[torch.Tensor], torch.Tensor], **layers: Any) -> Case:
    """A function between two layers."""
    return plain(lambda m, x: m.head(of(m.body(x))), **layers)


def products(z: torch.Tensor) -> torch.Tensor:
    return (z.unsqueeze(2) * z.unsqueeze(1))[:, UPPER[0], UPPER[1]]


def largest(z: torch.Tensor) -> torch.Tensor:
    best = z[:, :4].max(1, keepdim=True)
    return best.values.expand(-1, 4) * F.one_hot(best.indices.squeeze(1), 4)


def chosen(z: torch.Tensor) -> torch.Tensor:
    share, which = F.softmax(z, 1).topk(2, 1)
    gates = torch.zeros_like(z).scatter(1, which, share)
    return (gates / gates.sum(1, keepdim=True))[:, :4]


def softmax_of(z: torch.Tensor, rest: float) -> torch.Tensor:
    largest, which = z.topk(2, 1)
    return F.softmax(torch.full_like(z, rest).scatter(1, which, largest), 1)


def places_in(z: torch.Tensor) -> torch.Tensor:
    return (torch.sigmoid(z) * 3.99).long()


def with_buffer(name: str, value: torch.Tensor, run: Run, **layers: Any) -> Case:
    case = plain(run, **layers)
    case.model.register_buffer(name, value)
    return case


def likely() -> Case:
    """A mean and a variance as named predictions."""

    def run(m: Any, x: torch.Tensor) -> Both:
        mean, spread = m.body(x).chunk(2, 1)
        return Both(mean, F.softplus(spread))

    def loss(out: Both, y: torch.Tensor) -> torch.Tensor:
        return F.gaussian_nll_loss(out.mean, y, out.spread, full=True, eps=1e-3)

    model = Plain(run, body=nn.Linear(6, 8))
    return Case(model, torch.randn(N, 6), torch.randn(N, 4), loss)


def patches() -> Case:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        seen = F.unfold(x, 3, padding=1, stride=2).transpose(1, 2)
        found: torch.Tensor = m.head(torch.tanh(m.body(seen))).mean(1)
        return found

    layers = {"body": nn.Linear(18, 6), "head": nn.Linear(6, 4)}
    return classes(Plain(run, **layers), 2, 6, 7)


def overlapping() -> Case:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        seen = nn.Unfold((2, 3), dilation=(2, 1))(x)
        seen = m.body(seen.transpose(1, 2)).transpose(1, 2)
        whole = F.fold(seen, (6, 7), (2, 3), dilation=(2, 1))
        found: torch.Tensor = m.head(whole.flatten(1))
        return found

    layers = {"body": nn.Linear(12, 12), "head": nn.Linear(84, 4)}
    return classes(Plain(run, **layers), 2, 6, 7)


def relative_positions() -> Case:
    """Attention's scores with a table's entries, by a buffer of places."""

    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.embedding(x)
        more = m.table[m.places.view(-1)].view(3, 3, 2).permute(2, 0, 1)
        scores = (y @ y.transpose(1, 2)).unsqueeze(1) + more
        found: torch.Tensor = m.head((scores.softmax(-1).mean(1) @ y).mean(1))
        return found

    layers = {"embedding": nn.Embedding(5, 4), "head": nn.Linear(4, 4)}
    model = Plain(run, table=nn.Parameter(torch.randn(5, 2)), **layers)
    apart = torch.arange(3)[:, None] - torch.arange(3)[None, :] + 2
    model.register_buffer("places", apart)
    return tokens(model, 3, 5)


MODELS: dict[str, Callable[[], Case]] = {
    "gaussian": likely,
    "patches": patches,
    "patches put together": overlapping,
    "relative positions": relative_positions,
    "a buffer of places": lambda: with_buffer(
        "order",
        torch.tensor([3, 0, 3, 7]),
        lambda m, x: m.head(torch.tanh(m.body(x))[:, m.order]),
    ),
    "many places": lambda: with_buffer(
        "order",
        torch.randint(0, 8, (70,)),
        lambda m, x: m.head(torch.tanh(m.body(x))[:, m.order]),
        head=nn.Linear(70, 4),
    ),
    "a table of places": lambda: with_buffer(
        "order",
        torch.tensor([[1, 5], [2, 2], [0, 7]]),
        lambda m, x: m.head(torch.tanh(m.body(x))[:, m.order].flatten(1)),
        head=nn.Linear(6, 4),
    ),
    "pairs of products": lambda: between(products, head=nn.Linear(28, 4)),
    "angles": lambda: between(
        lambda z: torch.atan2(z[:, :4], z[:, 4:]) + z[:, :4].atan()
    ),
    "the four largest": lambda: between(lambda z: z.topk(4).values),
    "the smallest": lambda: between(lambda z: z.topk(4, dim=1, largest=False)[0]),
    "sorted": lambda: between(
        lambda z: torch.sort(z, dim=1, descending=True)[0], head=nn.Linear(8, 4)
    ),
    "the middle": lambda: between(lambda z: z.view(-1, 2, 4).median(1).values),
    "largest and its place": lambda: between(largest),
    "a hard choice": lambda: between(
        lambda z: z[:, :4] * (z[:, 4:].argmax(1, keepdim=True) + 1)
    ),
    "a mixture of the two largest": lambda: between(chosen),
    "softmax of the two largest": lambda: between(
        lambda z: softmax_of(z[:, :4], float("-inf"))
    ),
    "added up by place": lambda: between(
        lambda z: torch.zeros(len(z), 4).scatter_add(1, places_in(z), z)
    ),
    "put into values": lambda: between(
        lambda z: z.scatter(1, z[:, :2].argsort(1), torch.tanh(z[:, :2]))[:, :4]
    ),
    "by label": lambda: Case(
        nn.Linear(6, 4),
        torch.randn(N, 6),
        torch.randint(0, 4, (N,)),
        lambda out, y: -F.log_softmax(out, 1)[torch.arange(len(y)), y].mean(),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_it_trains_as_torch_does(name: str) -> None:
    assert error_of(MODELS[name]) < 1e-4


def test_named_predictions_are_a_tuple() -> None:
    """As they are to metrics of the torch engine."""
    case = likely()
    found = loaded(case, Mask({})).predict(case.inputs.numpy())
    assert isinstance(found, tuple)
    expected = case.model.eval()(case.inputs)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(one), two, rtol=1e-4, atol=1e-5)


def test_places_are_exact_where_values_are_equal() -> None:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        best = x.topk(3, dim=1).indices
        return m.layer(x) + torch.cat([x.argmax(1, keepdim=True), best], 1)

    model = Plain(run, layer=nn.Linear(5, 4))
    x = torch.tensor([[1.0, 3, 3, 2, 0], [0, -1, 5, 4, 3], [7, 1, 2, 6, 5]])
    case = Case(model, x, torch.arange(3), F.cross_entropy)
    found = loaded(case, Mask({})).predict(x.numpy()) - model.layer(x).detach().numpy()
    assert found.round(3).tolist() == [[1, 1, 2, 3], [2, 2, 3, 4], [0, 0, 3, 4]]


def strongest(m: Any, x: torch.Tensor) -> torch.Tensor:
    """Zeros but for the two largest of eight."""
    h = m.body(x)
    mask = torch.zeros_like(h).scatter_(1, h.topk(2, dim=1).indices, 1.0)
    return m.head((h * mask)[:, ::2] + mask[:, :4])


def one_hot(m: Any, x: torch.Tensor) -> torch.Tensor:
    """Tokens of a sequence as rows with a two; each row may be named again."""
    rows = torch.zeros(x.size(0), x.size(1), 5).scatter(2, x.unsqueeze(2), 2.0)
    seen = torch.zeros(x.size(0), 5).scatter_(1, x, 1.0)
    return m.layer(rows).mean(1) + seen[:, :4]


def angles(m: Any, x: torch.Tensor) -> torch.Tensor:
    """Of sines and cosines, as margins between classes have them."""
    h = torch.tanh(m.body(x))
    return m.head(torch.acos(h[:, :4]) + torch.asin(h[:, 4:]))


def of_nothing(m: Any, x: torch.Tensor) -> torch.Tensor:
    """Norms, distances, deviations and angles of zeros, which have no gradient."""
    h = F.relu(m.body(x) - 0.5)
    some, other = h[:, :4], h[:, [4, 4, 5, 6]]
    apart = torch.cdist(some.unsqueeze(1), other.unsqueeze(1)).squeeze(1)
    whole = h.norm(dim=1, keepdim=True) + h.std(1, keepdim=True) + apart
    alike = F.cosine_similarity(some, other, dim=1).unsqueeze(1)
    return m.head(F.normalize(some, dim=1)) + whole + alike + torch.atan2(some, other)


def last_steps(m: Any, x: torch.Tensor) -> torch.Tensor:
    """The last step of each padded sequence, by its length, in both ways to say it."""
    lengths = (x[:, :, 0] > 0).sum(1).clamp(min=1)
    steps = m.rnn(x)[0]
    picked = steps.gather(1, (lengths - 1).view(-1, 1, 1).expand(-1, 1, 4)).squeeze(1)
    return m.head(steps[torch.arange(len(x)), lengths - 1] * picked)


def waves(m: Any, x: torch.Tensor) -> torch.Tensor:
    """Filters by their cut-off, as SincNet makes them: one tap is sinc of zero."""
    taps = torch.arange(-3, 4)
    filters = 2 * m.cut.abs() * torch.sinc(2 * m.cut.abs() * taps)
    return m.head(F.conv1d(x.unsqueeze(1), filters.unsqueeze(1)).amax(2))


MARKED: dict[str, Callable[[], Case]] = {
    "last_steps": lambda: classes(
        Plain(last_steps, rnn=nn.GRU(3, 4, batch_first=True), head=nn.Linear(4, 4)),
        6,
        3,
    ),
    "waves": lambda: classes(
        Plain(waves, cut=nn.Parameter(torch.rand(4, 1)), head=nn.Linear(4, 4)), 12
    ),
    "strongest": lambda: plain(strongest),
    "one_hot": lambda: tokens(Plain(one_hot, layer=nn.Linear(5, 4)), 6, 5),
    "angles": lambda: plain(angles),
    "of_nothing": lambda: plain(of_nothing),
}


@pytest.mark.parametrize("name", MARKED)
def test_marks_angles_and_norms_of_nothing_train_as_torch_does(name: str) -> None:
    error = error_of(MARKED[name])
    assert error < 1e-4  # and is a number: of 0 / 0 it would be none


def test_norms_of_nothing_are_met() -> None:
    torch.manual_seed(11)
    case = plain(of_nothing)
    with torch.no_grad():
        h = F.relu(case.model.body(case.inputs) - 0.5)  # type: ignore[operator]
    assert bool((h == 0).all(1).any())


REFUSED: dict[str, tuple[Callable[[], Case], str]] = {
    "values of another shape": (
        lambda: between(
            lambda z: torch.zeros_like(z).scatter_(1, z[:, :2].argsort(1), z)[:, :4]
        ),
        r"scatter_.*places of another shape than the values",
    ),
    "a product of values": (
        lambda: between(
            lambda z: z.scatter(1, z[:, :8].long(), z, reduce="multiply")[:, :4]
        ),
        r"scatter.*puts values by multiply",
    ),
    "over the batch": (
        lambda: between(lambda z: (z - z.topk(2, dim=0)[0].mean(0))[:, :4]),
        r"topk.*works along the batch",
    ),
    "too many": (
        lambda: copies(Plain(lambda m, x: m.a(x).sort(1)[0], a=nn.Linear(20, 20)), 20),
        r"sort.*more than 16 values in their order",
    ),
    "places of the batch's own": (
        lambda: between(lambda z: z[torch.arange(N).flip(0), :4]),
        r"index.*works along the batch",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_place_is_refused_by_name(name: str) -> None:
    make, said = REFUSED[name]
    case = make()
    with pytest.raises(EngineError, match=rf"the model: {said}") as caught:
        capture(case.model, case.loss, case.inputs, case.targets)
    assert caught.value.help
