"""The other side of worker.py, in the process itself: a peer does what it is asked, a line of JSON at a time.

Imports nothing of ours, so that it serves any engine and any commit.
"""

import json
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any


def answer(make_peer: Callable[..., Any]) -> None:
    """Make the peer as the command line says, tell how long that took, then do what is asked until nothing more is."""
    began = perf_counter()
    peer = make_peer(sys.argv[1], **json.loads(sys.argv[2]))
    print(json.dumps(perf_counter() - began), flush=True)
    for what, options in map(json.loads, sys.stdin):
        print(json.dumps(getattr(peer, what)(**options)), flush=True)
