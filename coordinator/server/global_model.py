"""The chain of global models: where it starts, what each round makes of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np

from coordinator.algorithms.base import Algorithm, MaskFamily, RoundContext
from coordinator.algorithms.evidence import (
    CandidateMasks,
    Trained,
    WarmUpResult,
)
from coordinator.algorithms.findings import returned_findings, trained_findings
from coordinator.algorithms.mean import Coverage, Model
from coordinator.algorithms.methods.equal_counts import data_free
from coordinator.algorithms.privacy import ledger_secret, with_privacy
from coordinator.algorithms.slots import named_slots
from coordinator.algorithms.trimmed_mean import trimmed_mean
from coordinator.checkpoints.models import ModelStore, model_name
from coordinator.ledger import UpdateRow
from coordinator.rounds.data_statistics.joined import STATISTICS
from coordinator.rounds.data_statistics.question import with_statistics
from coordinator.rounds.frozen_entries import fixed_weights, with_fixed
from coordinator.rounds.model_check import (
    Unsound,
    collapsed,
    impossible_model,
    spoilers,
)
from coordinator.rounds.round_step import (
    findings_at_hand,
    first_model,
    mean_step,
    next_step,
    start_model,
    warm_up_family,
    with_parts,
    with_state,
)
from coordinator.rounds.tasks import mask_seed
from coordinator.server.evaluation import Probe
from coordinator.server.run_memory import RunMemory, StoredUpdates, load_model, maskable
from coordinator.server.secure.sums import summed_rows
from coordinator.settings import RunSettings
from edge_sdk.errors import AlgorithmError, MaskMismatchError, RunError
from edge_sdk.tasks.cost import weight_uses
from edge_sdk.tasks.graph.units import with_units
from edge_sdk.tasks.task import Task
from edge_sdk.training.total_rate import total_rate

__all__ = ["GlobalModel"]

Step: TypeAlias = tuple[Model, MaskFamily, Coverage]


class GlobalModel:
    """The global model and its masks, as the ledger and the checkpoints have them.

    Args:
        settings: The run.
        task: Its task.
        algorithm: A trimmed mean of the settings takes the place of its aggregate.
        ledger: Where counts and frozen updates are.
        probe: Scores a round's model before it counts; None takes it unscored.
        digests: Whether the ledger keeps the digests of checkpoints, too.
        secret: Gives the key of a private run's noise; None for the ledger's own.

    Attributes:
        coverage: How many devices held each weight, of the round that grew last.
    """

    def __init__(
        self,
        settings: RunSettings,
        task: Task,
        algorithm: Algorithm,
        ledger: RunMemory,
        probe: Probe | None = None,
        *,
        digests: bool = True,
        secret: Callable[[], bytes] | None = None,
    ) -> None:
        if settings.aggregate == "trimmed-mean":
            robust = partial(trimmed_mean, trim=settings.gate.trim)
            algorithm = replace(algorithm, aggregate=robust)
        model = task.model()
        key = secret or partial(ledger_secret, ledger)
        algorithm = with_privacy(algorithm, settings, model.state_dict(), key)
        self._settings, self._task = settings, task
        self._algorithm, self._ledger = algorithm, ledger
        self.layers = with_units(model, maskable(task, model, ledger, begin=True))
        kept = ledger if digests else None
        self._store = ModelStore(ledger.folder, settings.task, self.layers, kept)
        self.coverage: Coverage | None = None
        self.model: Model | None = None
        self.family: MaskFamily | None = None
        self._fixed = fixed_weights(task, settings.seed)
        self._warm_up: tuple[Model, MaskFamily] | None = None
        self._probe = None if task.personal else probe  # it has none of these parts
        self._made: tuple[int, list[str], Step] | None = None
        self._scored: tuple[Model, float] | None = None  # the loss of a model

    def load(self) -> None:
        """Takes up the chain where the ledger says it stands."""
        found = load_model(self._store, self._ledger, self.layers, self._settings.seed)
        if found is not None:
            model, self.family = found
            model = with_parts(self._task, model)
            self.model = with_state(self._algorithm, self._task, model)

    def base_of(self, no: int) -> tuple[Model, MaskFamily]:
        """Model and masks that a round starts from; the warm-up is round 0.

        Raises:
            RunError: If there is no model yet.
        """
        settings = self._settings
        if no == 0:
            if self._warm_up is None:
                family = warm_up_family(
                    self._algorithm, self.layers, settings.densities, settings.seed
                )
                found = self._ledger.get(STATISTICS)
                first = start_model(self._task, settings.seed, family, found)
                self._warm_up = first, family
            return self._warm_up
        if self.model is None or self.family is None:
            raise RunError(f"round {no} has no model to start from")
        return self.model, self.family

    def plan_masks(self, findings: WarmUpResult | None = None) -> None:
        """Draws the run's masks and the model that training starts from.

        Args:
            findings: The warm-up's; None where devices have none to do.
        """
        self._plan(self._algorithm, findings)

    def plan_without_data(self) -> None:
        """As `plan_masks`, with a profile that needs no warm-up: nobody could do it."""
        self._plan(data_free(self._algorithm), None)

    def _plan(self, algorithm: Algorithm, findings: WarmUpResult | None) -> None:
        settings = self._settings
        densities, seed = settings.densities, settings.seed
        if findings is None:
            findings = findings_at_hand(
                algorithm, self._task, self.layers, densities, seed
            )
        at = mask_seed(seed, warm_up=False)
        family = named_slots(algorithm).plan(self.layers, densities, findings, at)
        first = first_model(algorithm, self._task, seed, family, findings)
        self.model = with_statistics(self._task, first, self._ledger.get(STATISTICS))
        self.family, self._warm_up = family, None
        if self.family.seed is None:
            self._store.save_family(0, self.family)
        self._store.save(model_name(0), self.model, 0)
        self._ledger.put("evidence", None if findings is None else dict(findings.kept))
        self._ledger.put("layers", {layer.name: layer.numel for layer in self.layers})
        for key, value in self.family.plan().items():
            self._ledger.put(key, value)

    def grow(self, no: int, rows: Sequence[UpdateRow]) -> str:
        """The next model from a round's frozen rows; returns its checkpoint's name.

        A pure function of rows and base: a crash in here repeats it, byte by byte.
        """
        if no == 0:
            first, family = self.base_of(0)
            if isinstance(self._algorithm.evidence, Trained):
                updates = StoredUpdates(self._ledger, rows, family)
                self.plan_masks(trained_findings(first, updates))
                return model_name(0)
            blobs = ((self._ledger.blob(r.blob), r.scale) for r in rows)
            weights, told = [float(r.weight) for r in rows], self._algorithm.evidence
            findings = returned_findings(told, blobs, weights, self.layers, family.top)
            candidates = isinstance(told, CandidateMasks)
            self.plan_masks(replace(findings, model=first) if candidates else findings)
            return model_name(0)
        model, family, held = self._next(no, rows)
        if family is not self.family:
            self._store.save_family(no, family)
        name = self._store.save(model_name(no), model, no)
        self.model, self.family, self.coverage = model, family, held
        self._made = None
        self._store.prune(no)
        return name

    def unsound(self, no: int, rows: Sequence[UpdateRow]) -> Unsound | None:
        """The reason why the model of these rows is refused; None if it is sound.

        Asked before `grow`. Repeating it gives the same answer.

        Raises:
            AlgorithmError: If no device spoils it: their mean is sound, and what the
                algorithm makes of them is not.
        """
        if no == 0:  # evidence: the gate and the plan's floors bound what it can do
            return None
        first, before = self._losses(no)

        def loss_of(kept: Collection[str]) -> float:
            some = [row for row in rows if row.device in kept]
            try:
                return self._judge(self._step(no, some)[0])[0]
            except AlgorithmError:  # it may need more updates than these
                return math.nan

        def sound(after: float) -> bool:
            return math.isfinite(after) and not collapsed(first, before, after)

        model = self._next(no, rows)[0]
        after, why = self._judge(model)
        if not why and not collapsed(first, before, after):
            self._scored = model, after  # the next round's base
            return None
        why = why or f"the loss would go from {before:.3g} to {after:.3g}"
        if self._settings.privacy.on:  # whose it is is not known, or would tell of them
            return Unsound(why, ())
        named = spoilers([row.device for row in rows], loss_of, sound)
        if len(named) in (0, len(rows)) and sound(self._loss_of_mean(no, rows)):
            raise AlgorithmError(
                f"slot aggregate of algorithm {self._algorithm.name!r} spoils the "
                f"model: {why}; the mean of the same updates does not"
            )
        return Unsound(why, named)

    def _loss_of_mean(self, no: int, rows: Sequence[UpdateRow]) -> float:
        """Loss of the plain mean of these rows; NaN where it is no sound model."""
        base, family = self.base_of(no)
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                own = StoredUpdates(self._ledger, rows, family)
                model = mean_step(base, family, own)
        except MaskMismatchError:  # masks move in this round: there is no plain mean
            return math.nan
        return self._judge(with_fixed(model, base, self._fixed))[0]

    def _judge(self, model: Model) -> tuple[float, str]:
        """A model's loss, NaN where it has none, and what of it cannot be."""
        wrong = impossible_model(model)
        if wrong:
            return math.nan, wrong
        loss = None if self._probe is None else self._probe.loss(model)
        return (0.0 if loss is None else loss), ""

    def _losses(self, no: int) -> tuple[float, float]:
        """Of the run's first model and of a round's base; NaN where it is not known."""
        base, _ = self.base_of(no)
        if self._scored is None or self._scored[0] is not base:
            loss = None if self._probe is None else self._probe.loss(base)
            self._scored = base, math.nan if loss is None else loss
        if math.isnan(before := self._scored[1]):
            return math.nan, math.nan
        first = self._ledger.get("first_loss")
        if first is None:  # the first round, or the first since this is kept
            self._ledger.put("first_loss", first := before)
        return float(first), before

    def _next(self, no: int, rows: Sequence[UpdateRow]) -> Step:
        """The model after these rows; made once for `unsound` and `grow`."""
        made = no, [row.task for row in rows]
        if self._made is None or self._made[:2] != made:
            self._made = *made, self._step(no, rows)
        return self._made[2]

    def _step(self, no: int, rows: Sequence[UpdateRow]) -> Step:
        base, family = self.base_of(no)
        known = self._ledger.last_counted(no) if self._algorithm.init_state else {}
        if self._settings.privacy.secure_aggregation:
            rows = summed_rows(self._ledger, no, rows)
        training, rounds = self._settings.training, self._settings.rounds
        place = self._ledger.place(no)
        rate_now = training.rate_at(place, rounds)
        rate = partial(total_rate, rate_now, momentum=training.momentum)
        updates = StoredUpdates(self._ledger, rows, family, rate, known)
        with np.errstate(over="ignore", invalid="ignore"):  # it is judged, then counts
            over, most = rounds or training.horizon, max(self._settings.densities)
            moment = RoundContext(place, over, most)
            parts = self._algorithm, base, family, updates, moment
            model, after, held = next_step(*parts, lambda: weight_uses(self._task))
        return with_fixed(model, base, self._fixed), after, held

    def deploy(
        self,
        no: int,
        scores: Mapping[float, Mapping[str, float]],
        made: tuple[Model, MaskFamily] | None = None,
    ) -> dict[float, Path]:
        """Writes one checkpoint per density, to export from; `made` is its model."""
        model, family = made or self.base_of(no)
        return self._store.deploy(model, family, no, scores)
