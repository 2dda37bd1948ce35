"""scikit-learn's transformers that mix columns or make many of one; contract as in `importing_steps.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from governance.features import importing_steps
from governance.features.flows import Flow, Script, Unsupported
from governance.features.importing_text import hashing_vectorizer

_numbers = importing_steps.numbers


def _group(into: str, names: list[str], script: Script, *, finite: bool) -> list[Flow]:
    """What a step leaves under one name."""
    size = len(names)
    return [
        Flow(script.fresh(name), "number", finite=finite, present=True, group=(into, place, size))
        for place, name in enumerate(names)
    ]


def _projected(
    flows: list[Flow], script: Script, into: str, weights: npt.NDArray[np.float64], rest: dict[str, list[float]]
) -> list[Flow]:
    into = script.fresh(into)
    script.steps.append(
        ("project", {"columns": [flow.name for flow in flows], "weights": weights.tolist(), **rest, "into": into})
    )
    script.summed.add(into)
    return _group(into, [f"{into}_{at}" for at in range(len(weights))], script, finite=False)


def pca(est: Any, flows: list[Flow], script: Script) -> list[Flow]:
    """Onto the components, centred after the projection, maybe whitened."""
    flows = _numbers(flows, script, est, present=True)
    weights = np.asarray(est.components_, dtype=np.float64)
    rest = {"centre": (np.reshape(est.mean_, (1, -1)) @ weights.T)[0].tolist()}
    if est.whiten:
        scale = np.sqrt(est.explained_variance_)
        if scale.min() < 1e-7 * scale.max():
            raise Unsupported(
                f"{type(est).__name__}: it whitens a component of no variance; fit it with fewer components"
            )
        rest["scale"] = scale.tolist()
    return _projected(flows, script, "pca", weights, rest)


def projection(est: Any, flows: list[Flow], script: Script) -> list[Flow]:
    """Onto the components, as they are."""
    flows = _numbers(flows, script, est, present=True)
    weights = est.components_
    weights = np.asarray(weights.toarray() if hasattr(weights, "toarray") else weights, dtype=np.float64)
    return _projected(flows, script, "svd" if type(est).__name__ == "TruncatedSVD" else "projection", weights, {})


def normalizer(est: Any, flows: list[Flow], script: Script) -> list[Flow]:
    """Rows over their norm."""
    flows = _numbers(flows, script, est, present=True)
    into = script.fresh("normalised")
    names = [flow.name for flow in flows]
    script.steps.append(("normalise", {"columns": names, "norm": est.norm, "into": into}))
    return _group(into, [f"{into}_{name}" for name in names], script, finite=True)


def spline_transformer(est: Any, flows: list[Flow], script: Script) -> list[Flow]:
    """The basis functions of a B-spline for each column."""
    what = "SplineTransformer"
    if est.degree < 1:
        raise Unsupported(f"{what}: degree 0; KBinsDiscretizer does the same")
    if est.degree == 1 and est.extrapolation == "linear" and len(flows) > 1:
        # scikit-learn takes other knots for the ends of all columns but the first.
        raise Unsupported(f"{what}: linear extrapolation of degree 1 over several columns; take a transformer for each")
    zeros = getattr(est, "handle_missing", "error") == "zeros"
    # Where it takes missing values it looks at no other, either.
    flows = importing_steps.all_numbers(flows, est) if zeros else _numbers(flows, script, est, present=True)
    found = []
    for flow, one in zip(flows, est.bsplines_, strict=True):
        parameters: dict[str, Any] = {
            "knots": one.t.tolist(),
            "degree": int(est.degree),
            "extrapolation": "refuse" if est.extrapolation == "error" else est.extrapolation,
        }
        if not est.include_bias:
            parameters["bias"] = False
        if zeros:
            parameters["missing"] = "zeros"
        made = script.apply("spline", flow, **parameters)
        size = one.c.shape[1] - (not est.include_bias)
        base = flow.alias or flow.name
        found += _group(made.name, [f"{base}_sp_{at}" for at in range(size)], script, finite=False)
    return found


STEPS: Final[dict[str, Callable[[Any, list[Flow], Script], list[Flow]]]] = {
    **importing_steps.STEPS,
    "PCA": pca,
    "IncrementalPCA": pca,
    "TruncatedSVD": projection,
    "GaussianRandomProjection": projection,
    "SparseRandomProjection": projection,
    "Normalizer": normalizer,
    "SplineTransformer": spline_transformer,
    "HashingVectorizer": hashing_vectorizer,
}
"""All that are taken, by class name, of scikit-learn's own classes."""
