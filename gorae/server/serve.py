"""Puts an application on a port, until Ctrl-C or for as long as a block runs; knows nothing of what it serves."""

import errno
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread

import uvicorn
from starlette.types import ASGIApp

SHUTDOWN_SECONDS = 3  # what replies still streaming get after Ctrl-C


def serve(
    app: ASGIApp, host: str = "127.0.0.1", port: int = 8000, *, on_ready: Callable[[str], None] | None = None
) -> None:
    """Serve `app` until Ctrl-C; `on_ready` gets the address once it is bound (port 0 takes any free one).

    Raises ValueError, naming port and remedy, when the address cannot be had.
    """
    listener = _listen(host, port)
    if on_ready:
        name = f"[{host}]" if ":" in host else host
        on_ready(f"http://{name}:{listener.getsockname()[1]}")
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=SHUTDOWN_SECONDS)
    with suppress(KeyboardInterrupt):  # uvicorn shuts down first, then raises it again
        uvicorn.Server(config).run(sockets=[listener])


@contextmanager
def serving(app: ASGIApp) -> Iterator[str]:
    """Serve `app` to this machine from a thread while the block runs; yield its address, on any free port."""
    listener = _listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=SHUTDOWN_SECONDS))
    thread = Thread(target=server.run, kwargs={"sockets": [listener]}, name="gorae-server")
    thread.start()  # the port is bound: who connects before the server is ready waits
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def check_address(host: str, port: int) -> None:
    """Raise the ValueError that `serve` would, before the work of which the result is to be served."""
    _listen(host, port).close()


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise ValueError(f"port {port} does not exist; choose one from 0 (any free one) to 65535")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            reason = f"port {port} on {host} is taken by another program; stop it, or choose another such as {port + 1}"
        elif error.errno == errno.EACCES:
            reason = f"port {port} on {host} is reserved for the administrator; choose one above 1023 such as 8000"
        else:
            reason = f"{host} is no address of this machine ({error}); use 127.0.0.1, or 0.0.0.0 for all its addresses"
        raise ValueError(reason) from error
