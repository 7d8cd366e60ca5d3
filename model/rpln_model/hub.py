"""Tells, once in a process, whether the hub can be reached. The hub's client tries for minutes before it gives up."""

import functools
import http.client
import logging
import ssl
import urllib.error
import urllib.request
from typing import Final

from huggingface_hub import constants

_log = logging.getLogger(__name__)

_SECONDS: Final = 5


@functools.cache
def uses_cache_only() -> bool:
    """Return whether only files in the hub's cache can be used: HF_HUB_OFFLINE is set, or the hub does not answer.

    The latter is said once, as a warning of the logger. A certificate that is not accepted here is an answer: the hub's
    client has its own certificates, and says what is wrong with them.
    """
    if constants.HF_HUB_OFFLINE:
        return True
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")  # noqa: S310 - the address of the hub
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS):  # noqa: S310 - the address of the hub
            return False
    except urllib.error.HTTPError:
        return False  # an answer, too
    except (OSError, http.client.HTTPException) as error:
        if isinstance(getattr(error, "reason", error), ssl.SSLError):
            return False
        _log.warning("%s cannot be reached (%s): only files in the cache are used.", constants.ENDPOINT, error)
        return True
