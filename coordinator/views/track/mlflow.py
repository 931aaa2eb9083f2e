"""A run's figures as a run of MLflow's, found again by its name and beginning."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from coordinator.views.run_view import RunView
from coordinator.views.track.points import Point
from coordinator.views.units import flat
from edge_sdk.errors import SettingsError

__all__ = ["MLflow", "opened"]

RUN, LAST = "flash_edge.run", "flash_edge.last_round"


class MLflow:
    """One run in the experiment that has the federation's name.

    Args:
        uri: The tracking server's; None as MLflow itself finds it.
        federation: Name of the experiment.
        began: When the first round was opened, ISO 8601; finds the run again.
        settings: Logged as parameters of a new run.

    Raises:
        SettingsError: If MLflow refuses.
    """

    def __init__(
        self, uri: str | None, federation: str, began: str, settings: Mapping[str, Any]
    ) -> None:
        try:
            self._client = MlflowClient(tracking_uri=uri)
            known = self._client.get_experiment_by_name(federation)
            experiment = (
                self._client.create_experiment(federation)
                if known is None
                else known.experiment_id
            )
            runs = self._client.search_runs(
                [experiment], filter_string=f"tags.`{RUN}` = '{began}'"
            )
            run = runs[0] if runs else self._begin(experiment, federation, began)
            self._id = run.info.run_id
            self.last = int(run.data.tags.get(LAST, -1))
            if not runs:
                params = [Param(key, value) for key, value in flat(settings) if value]
                self._client.log_batch(self._id, params=params)
        except MlflowException as error:
            raise _refused(error) from error

    def _begin(self, experiment: str, federation: str, began: str) -> Any:
        return self._client.create_run(
            experiment, run_name=f"{federation} {began[:19]}", tags={RUN: began}
        )

    def write(self, round_no: int, found: list[Point]) -> None:
        """Adds one round's figures; with them goes the number of the round.

        Raises:
            SettingsError: If MLflow refuses.
        """
        try:
            self._client.log_batch(
                self._id,
                metrics=[
                    Metric(p.name, p.value, int(1000 * p.at), round_no) for p in found
                ],
                tags=[RunTag(LAST, str(round_no))],
            )
        except MlflowException as error:
            raise _refused(error) from error

    def close(self, *, is_over: bool) -> None:
        """End writing; a run that is over is marked finished.

        Raises:
            SettingsError: If MLflow refuses.
        """
        try:
            if is_over:
                self._client.set_terminated(self._id)
        except MlflowException as error:
            raise _refused(error) from error


def opened(
    _folder: Path,
    where: str | None,
    view: RunView,
    settings: Mapping[str, Any],
) -> MLflow:
    """The MLflow run of a run."""
    return MLflow(where, view.run.federation, view.rounds[0].opened, settings)


def _refused(error: MlflowException) -> SettingsError:
    return SettingsError(
        f"MLflow refuses: {error.message.strip().splitlines()[0]}",
        remedy="Name a tracking server with --where, or in MLFLOW_TRACKING_URI.",
    )
