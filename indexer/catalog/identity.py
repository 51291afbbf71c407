"""Who this archive is, to others: a UID of its own, made once."""

import uuid

from sqlalchemy import Engine

from indexer.catalog.engine import JOURNAL_LOCK, lock, reading, writing
from indexer.catalog.journal import get_meta, set_meta

_KEY = "device_uid"


def device_uid(engine: Engine) -> str:
    """UID of the archive, the same as long as its catalog lives (PS3.16 TID 1004, Device Observer UID).

    Derived from a random UUID (PS3.5 B.2).
    """
    with reading(engine) as connection:
        known = get_meta(connection, _KEY)
    if known is not None:
        return known
    with writing(engine) as connection:
        lock(connection, JOURNAL_LOCK)
        known = get_meta(connection, _KEY)
        if known is None:
            known = f"2.25.{uuid.uuid4().int}"
            set_meta(connection, _KEY, known)
        return known
