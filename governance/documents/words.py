"""What a mistyped word was most likely meant to be.

Contract: pure; used by every message about an unknown key, name or value.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches


def nearest(word: str, valid: Sequence[str]) -> str | None:
    """The valid word that `word` was most likely meant to be, whatever its case, dashes and underscores."""
    plain = {name.lower().replace("-", "_"): name for name in reversed(valid)}
    found = get_close_matches(word.lower().replace("-", "_"), list(plain), n=1, cutoff=0.6)
    return plain[found[0]] if found else None


def suggest(word: str, valid: Sequence[str], kind: str) -> str:
    """The end of a message about an unknown word: the nearest valid one, or all of them."""
    if not valid:
        return f"there are no {kind}"
    close = nearest(word, valid)
    if close is not None:
        return f"did you mean `{close}`?"
    shown = ", ".join(f"`{name}`" for name in valid[:24])
    return f"{kind}: {shown}" + (", ..." if len(valid) > 24 else "")
