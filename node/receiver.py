"""A receiver process: stores what is sent over connections that the node's main process has accepted.

Started by `node.receivers` as ``python -m node.receiver``, with its end of the channel to the main process as its
standard input; it ends when that is closed, and with its parent.
"""

import gc
import logging
import os
import signal
import socket
import sys

from config.errors import PacsimileError
from config.model import Settings
from dicom_scp.channel import Channel
from dicom_scp.receiver import ReceiverServer
from node import logs
from node.processes import end_with_parent, serve_promptly
from node.storage import open_catalog, open_spool
from node.together import Elsewhere

log = logging.getLogger(__name__)


def main() -> int:
    """Receive until the main process says no more; exit status 1 where that cannot begin."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # these may reach the whole group; the main process decides
    end_with_parent()
    serve_promptly()
    channel = Channel(socket.socket(fileno=os.dup(0)))
    told = channel.hear()
    if told is None:
        return 0
    settings = Settings.model_validate_json(told.data)
    logs.configure(settings, f"receiver-{told.message['number']}")
    try:
        with open_catalog(settings) as catalog:
            spool = open_spool(settings, catalog, settings.storage.reserve_mib)
            server = ReceiverServer(settings, catalog, spool, Elsewhere(), channel)
            server.start()
            gc.collect()
            gc.freeze()
            server.wait()
            server.stop()
    except (PacsimileError, OSError) as error:
        log.error("the receiver cannot go on: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
