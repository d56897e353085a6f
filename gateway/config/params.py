"""What of `litellm_params` is passed on to the servers, with each request."""

import re

from gateway.config import litellm
from gateway.config.reader import Value, matching, nearest
from gateway.messages import Scalar

# Given once for all calls they would change, without a word, what a caller asked for.
_OF_EACH_CALL = (
    *("dimensions", "documents", "encoding_format", "input", "inputs", "modality", "output_dimension"),
    *("query", "return_documents", "texts", "top_k", "top_n"),
)
_ADDRESS = ("base_url", "url")
_SECRET_NAME = re.compile(r"(^|[_-])(key|token|secret|password|authorization)$", re.IGNORECASE)
_PARAMS_MAX = 16  # As many as a caller may send, see DESIGN "HTTP".


def read_params(params: Value) -> dict[str, Scalar]:
    """`extra_body`, and each key that is neither ours nor LiteLLM's."""
    found = {}
    # Passed on, a slip of the hand would be ignored by the server, and the setting lost without a word.
    known = (*litellm.PARAMS, *_OF_EACH_CALL, *litellm.PARAMS_IDLE)
    for key, value in params.mapping().items():
        if key in litellm.PARAMS:
            continue
        if why := matching(key, litellm.PARAMS_IDLE):
            value.notes.idle(value.path, why)
        elif refusal := _refusal(key, known):
            value.problem(refusal)
        else:
            found[key] = value.scalar()
    for key, value in params["extra_body"].mapping().items():
        if refusal := _refusal(key):
            value.problem(refusal)
        else:
            found[key] = value.scalar()
    if len(found) > _PARAMS_MAX:
        params.problem(f"expected at most {_PARAMS_MAX} parameters for the servers, got {len(found)}")
    return found


def _refusal(key: str, known: tuple[str, ...] = ()) -> str | None:
    if key in _OF_EACH_CALL:
        return "belongs in each call, not in the configuration"
    if key in litellm.PARAMS:
        return "belongs in litellm_params itself"
    hint = "did you mean api_base?" if key in _ADDRESS else nearest(key, known, cutoff=0.8)
    if hint:
        return f"unknown key; {hint}"
    if _SECRET_NAME.search(key):
        return "looks like a secret, and those are not passed on; the server's key is api_key"
    return None
