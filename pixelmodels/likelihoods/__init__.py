"""Output distributions of one pixel; a new one is a file here and a line in `LIKELIHOODS`."""

from __future__ import annotations

from pixelmodels.likelihoods.base import Likelihood, LikelihoodConfig
from pixelmodels.plain import load
from pixelmodels.shapes import ImageSpec

__all__ = ["LIKELIHOODS", "Likelihood", "LikelihoodConfig", "build_likelihood", "likelihood_class"]

LIKELIHOODS = {
    "bernoulli": "pixelmodels.likelihoods.bernoulli:Bernoulli",
    "categorical": "pixelmodels.likelihoods.categorical:Categorical",
    "discretized_logistic_mixture": "pixelmodels.likelihoods.discretized_logistic_mixture:DiscretizedLogisticMixture",
}


def likelihood_class(name: str) -> type[Likelihood]:
    """The class registered under `name`; `UserError` with the choices if there is none."""
    found: type[Likelihood] = load(LIKELIHOODS, name, "likelihood")
    return found


def build_likelihood(config: LikelihoodConfig, spec: ImageSpec) -> Likelihood:
    """The likelihood of a config for images of `spec`; `UserError` where the two do not fit."""
    return likelihood_class(config.name)(spec, config)
