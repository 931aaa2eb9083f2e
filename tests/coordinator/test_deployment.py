"""The density whose model each board deploys best."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from coordinator.views.deployment import advised_densities, deployment_text
from coordinator.views.scores import ShownMetric

VALUES = st.floats() | st.none()
SCORES = st.dictionaries(
    st.sampled_from([0.01, 0.05, 0.1, 0.2, 0.5, 1.0]),
    st.fixed_dictionaries({"own": VALUES}),
)


def known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


@given(SCORES, st.booleans())
def test_nobody_is_told_to_deploy_a_larger_or_a_worse_model(scores, higher) -> None:
    metric = ShownMetric("own", is_share=False, higher_is_better=higher)
    advised = advised_densities(scores, metric)
    assert advised.keys() == scores.keys()
    for own, other in advised.items():
        assert other <= own
        mine, its = scores[own]["own"], scores[other]["own"]
        if not known(mine):
            assert other == own
            continue
        if other != own:
            assert its > mine if higher else its < mine
        for density, row in scores.items():  # none that it may deploy is better
            if density <= own and known(row["own"]):
                assert row["own"] <= its if higher else row["own"] >= its
                assert row["own"] != its or density >= other or other == own
    assert bool(deployment_text(scores, metric)) == any(
        own != other for own, other in advised.items()
    )


def test_the_words_name_both_models_and_their_scores() -> None:
    scores = {0.05: {"accuracy": 0.42}, 0.1: {"accuracy": 0.41}, 0.2: {"accuracy": 0.5}}
    assert deployment_text(scores) == (
        "the model of 0.05 (42.00 %) serves boards at 0.1 better than their own "
        "(41.00 %)"
    )
    assert deployment_text({0.1: {"loss": 2.0}, 0.2: {"loss": 2.5}}) == (
        "the model of 0.1 (2) serves boards at 0.2 better than their own (2.5)"
    )
    assert deployment_text({}) == ""
