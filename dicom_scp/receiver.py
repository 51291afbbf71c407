"""The DICOM face of a receiver process: it stores instances, over connections that are handed to it."""

import logging

from config.model import Settings
from dicom_scp.channel import Channel, Told
from dicom_scp.handed import HandedServer, Reporter
from dicom_scp.handover import READY
from dicom_scp.server import DicomServer
from dicom_scp.spool import Spool
from indexer.answer import Finder
from indexer.catalog import Catalog

logger = logging.getLogger(__name__)

_LOOK_S = 1.0


class ReceiverServer(DicomServer):
    """Serves associations that the node's main process hands over; everything else is that one's.

    Parameters
    ----------
    finder : Finder
        Nobody asks it.
    channel : Channel
        To and from the main process.
    """

    def __init__(
        self, settings: Settings, catalog: Catalog, spool: Spool, finder: Finder, channel: Channel
    ) -> None:
        self._channel = channel
        self._reporter = Reporter(channel)
        super().__init__(settings, catalog, spool, finder, self._reporter.observers(), self._reporter)
        self.tell_of_kept(self._reporter.kept)

    def start(self) -> None:
        """Serve what is handed over from now on."""
        self._serve(HandedServer, channel=self._channel, reporter=self._reporter)
        self._channel.tell(Told({"what": READY}))
        logger.info("receives from now on")

    def wait(self) -> None:
        """Return once the main process hands nothing over any more, or is gone."""
        server = self._server
        while isinstance(server, HandedServer) and self.is_listening and not server.has_ended.wait(_LOOK_S):
            pass
