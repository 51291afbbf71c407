"""Reading Orthanc's list of changes, from where it was left; anew where it is not the same list any more."""

import logging
import time
from collections.abc import Iterator, Sequence

from indexer.catalog import OrthancStudies
from indexer.catalog.orthanc_studies import Cursor, News
from node.orthanc.client import Change, Changes, OrthancClient

log = logging.getLogger(__name__)

STABLE_CHECK_S = 15.0
"""A study with new instances is looked at so often until Orthanc says that it is stable.

The change `StableStudy` comes sooner, but never for a study that was not stable yet when Orthanc was restarted.
"""
_PAGE = 1000
_STOCK_BLOCK = 500


class ChangeReader:
    """Enters the studies that are new or have changed into the catalog."""

    def __init__(self, studies: OrthancStudies, client: OrthancClient) -> None:
        self._studies = studies
        self._client = client

    def read_on(self) -> bool:
        """Read one page of changes, or take stock where that is not possible; whether there is more to read.

        Raises
        ------
        Transient
            Orthanc or the catalog cannot be reached; nothing was missed.
        """
        cursor = self._studies.cursor(self._client.server)
        if cursor is None:
            self.take_stock()
            return True
        overlap = 1 if cursor.mark else 0
        page = self._client.changes(cursor.sequence - overlap, _PAGE)
        if _is_another_list(cursor, page):
            log.warning(
                "Orthanc's list of changes was cleared or is another database's: all of its studies are compared"
            )
            self.take_stock()
            return True
        fresh = page.entries[overlap:]
        if fresh:
            newest = Cursor(fresh[-1].sequence, fresh[-1].mark)
            self._studies.enter(self._client.server, list(self._news(fresh)), newest)
        return not page.is_last_page

    def take_stock(self) -> None:
        """Enter every study that was not taken over as it is now; changes are read from here on.

        Raises
        ------
        Transient
            As `read_on`.
        """
        server, newest = self._client.server, self._client.last_change()
        mark = newest.entries[-1].mark if newest.entries else ""
        public_ids = self._client.study_ids()
        for start in range(0, len(public_ids), _STOCK_BLOCK):
            block = self._client.studies_of(public_ids[start : start + _STOCK_BLOCK])
            news = [News(one.public_id, time.time(), one.last_update) for one in block]
            self._studies.enter(server, news, None)
        self._studies.enter(server, [], Cursor(newest.last, mark))

    def _news(self, changes: Sequence[Change]) -> Iterator[News]:
        now = time.time()
        for one in changes:
            if one.kind == "StableStudy":
                yield News(one.public_id, now)
        touched = list(dict.fromkeys(one.public_id for one in changes if one.kind == "NewInstance"))
        if touched:
            for study in self._client.studies_of(touched):
                yield News(study.public_id, now + STABLE_CHECK_S)


def _is_another_list(cursor: Cursor, page: Changes) -> bool:
    """Whether the change that was read last is not where it was."""
    if not cursor.mark:
        return page.last < cursor.sequence
    first = page.entries[0] if page.entries else None
    return first is None or (first.sequence, first.mark) != (cursor.sequence, cursor.mark)
