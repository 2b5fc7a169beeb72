"""The served model: OpenAI's API over one engine, chats and plain completions.

Nouns: the API (`create_api`), its `Limits`, and `serve`, which puts any application on a port. Knows no tensor.
"""

from gorae.server.engine_thread import EngineFailedError, EngineThread, Generation, QueueFullError, SteppingEngine
from gorae.server.limits import Limits
from gorae.server.routes import create_api
from gorae.server.schema import ApiError
from gorae.server.serve import check_address, serve, serving

__all__ = [
    "ApiError",
    "EngineFailedError",
    "EngineThread",
    "Generation",
    "Limits",
    "QueueFullError",
    "SteppingEngine",
    "check_address",
    "create_api",
    "serve",
    "serving",
]
