"""scikit-learn's transformers of texts; contract as in `importing_steps.py`."""

from __future__ import annotations

from typing import Any

from governance.features.flows import Flow, Script, Unsupported

_PATTERN = r"(?u)\b\w\w+\b"
_MOST_BUCKETS = 1 << 16


def hashing_vectorizer(est: Any, flows: list[Flow], script: Script) -> list[Flow]:
    """N-grams by hash. Missing texts, which it refuses, are empty ones: requests cannot tell them apart."""
    what = "HashingVectorizer"
    given = {
        "tokenizer": est.tokenizer is not None,
        "preprocessor": est.preprocessor is not None,
        "strip_accents": est.strip_accents is not None,
        "analyzer": est.analyzer not in ("word", "char", "char_wb"),
        "token_pattern": est.analyzer == "word" and est.token_pattern != _PATTERN,
        "input": est.input != "content",
    }
    own = [name for name, other in given.items() if other]
    if own:
        raise Unsupported(f"{what}: `{own[0]}` of its own")
    if est.n_features > _MOST_BUCKETS:
        raise Unsupported(f"{what}: more than {_MOST_BUCKETS} columns; fit it with n_features={_MOST_BUCKETS} or fewer")
    if len(flows) != 1 or flows[0].kind != "string":
        raise Unsupported(f"{what}: it takes one column of text")
    parameters: dict[str, Any] = {
        "analyzer": est.analyzer,
        "least": int(est.ngram_range[0]),
        "most": int(est.ngram_range[1]),
        "buckets": int(est.n_features),
        "signed": bool(est.alternate_sign),
        "binary": bool(est.binary),
        "norm": est.norm or "none",
        "lowercase": bool(est.lowercase),
    }
    stop_words = est.get_stop_words() if est.analyzer == "word" else None
    if stop_words:
        parameters["stop_words"] = sorted(stop_words)
    made = script.apply("ngrams", flows[0], **parameters)
    names = [f"{flows[0].alias or flows[0].name}_{at}" for at in range(est.n_features)]
    size = len(names)
    return [
        Flow(script.fresh(name), "hashed", finite=True, present=True, group=(made.name, place, size))
        for place, name in enumerate(names)
    ]
