"""The page behind an address: by loopback alone unless told otherwise, and with bounds on what it is sent."""

import ipaddress
import os
import pathlib
import signal
import socket
import sys
from typing import Any

import fastapi
import gradio as gr
import uvicorn

from rqjax.demo.limits import Limits
from rqjax.demo.page import CSS, theme
from rqjax.demo.upload import BYTES
from rqjax.errors import InputError

ENDING = 2
"""Seconds that open pages have when the server ends."""


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens there; with port 0 at one that is free. Raises InputError where none can."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        reason = error.strerror or os.strerror(error.errno or 0)
        raise InputError(
            f"nothing can listen at port {port} of {host} ({reason}): choose others with --host and --port"
        ) from None


def address_of(listener: socket.socket) -> str:
    """The address that a browser finds a socket by."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def application(blocks: gr.Blocks, folder: pathlib.Path, *, loopback: bool) -> Any:
    """The page as an ASGI application. `folder`, GRADIO_TEMP_DIR, holds what is uploaded and shown for a while."""
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        footer_links=[],
        run_history=False,
        max_file_size=BYTES,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
        theme=theme(),
        css=CSS,
    )
    return Limits(app, folder, loopback=loopback)


def serve(app: Any, listener: socket.socket) -> None:
    """Answers until the process is told to end by Ctrl-C (KeyboardInterrupt) or SIGTERM (SystemExit)."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that the folder of uploads is removed
    config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=ENDING, server_header=False)
    uvicorn.Server(config).run(sockets=[listener])
