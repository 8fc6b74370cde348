"""Probes of a pretraining run that give the values they are told, and score nothing."""

from __future__ import annotations

from densebench.evaluation.headline import Headline


def told(values, metric="miou", unit="%", direction="higher", digits=1):
    """A stand-in for `Probe` whose scores are these values in turn."""
    left = iter(values)

    class Told:
        def __init__(self, *_, **__):
            pass

        def score(self, model, step):
            return Headline(metric, "plain", next(left), unit, direction, digits, None)

    return Told
