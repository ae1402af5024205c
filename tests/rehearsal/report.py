"""Formats the results of a rehearsal."""

from collections.abc import Sequence

from tabulate import tabulate

from tests.rehearsal.run import NO_DENSEPOSE, Outcome

HEADERS = ("config", "weights", "loss", "s/it", "AP or mIoU", "predictions", "outcome")


def table(outcomes: Sequence[Outcome]) -> str:
    """Format outcomes as a Markdown table with one row each."""
    rows = [
        (
            outcome.config,
            outcome.weights,
            outcome.loss,
            outcome.seconds_per_iteration,
            ", ".join(f"{task} {_number(value)}" for task, value in outcome.metrics.items()) or None,
            outcome.predictions,
            outcome.outcome,
        )
        for outcome in outcomes
    ]
    return tabulate(rows, headers=HEADERS, floatfmt=".2f", tablefmt="github", missingval="-")


def summary(outcomes: Sequence[Outcome], seconds: float) -> str:
    """Return the numbers of outcomes on one line."""
    ok = sum(outcome.outcome == "ok" for outcome in outcomes)
    left_out = sum(outcome.outcome.startswith("not run") for outcome in outcomes)
    why = f", {left_out} not run ({NO_DENSEPOSE})" if left_out else ""
    return f"{ok} of {len(outcomes)} ok{why}, {seconds:.0f} s"


def _number(value: float | None) -> str:
    return "nan" if value is None else f"{value:.1f}"
