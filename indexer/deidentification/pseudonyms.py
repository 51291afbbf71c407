"""Names, UIDs and dates in place of true ones: the same for the same secret, and not to be undone without it."""

import hashlib
import hmac
from datetime import date, timedelta
from uuid import UUID

SECRET_BYTES = 32
_LONGEST_SHIFT_DAYS = 3650
_LEAST_SHIFT_DAYS = 30


class Pseudonyms:
    """Makes pseudonyms under a secret.

    Parameters
    ----------
    secret : bytes
        At least `SECRET_BYTES`; whoever has it can tell which pseudonym a known name or UID gets.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) < SECRET_BYTES:
            raise ValueError(f"expected a secret of {SECRET_BYTES} bytes or more, got {len(secret)}")
        self._secret = secret

    def patient(self, key: str) -> str:
        """Name and ID of a patient."""
        return f"ANON-{self._digest('patient', key).hex()[:12].upper()}"

    def uid(self, uid: str) -> str:
        """UID of the form ``2.25.…`` (PS3.5 B.2): references among exported instances still hold."""
        return f"2.25.{UUID(bytes=self._digest('uid', uid)[:16], version=5).int}"

    def shifted(self, key: str, day: str) -> str:
        """A date as ``YYYYMMDD``, moved back by the patient's number of days; empty where it is none."""
        try:
            there = date(int(day[:4]), int(day[4:6]), int(day[6:8]))
            back = self.shift_days(key)
            return (there - timedelta(days=back)).strftime("%Y%m%d") if there.year > 1 + back // 365 else ""
        except (ValueError, OverflowError):
            return ""

    def shift_days(self, key: str) -> int:
        """Days by which all dates of a patient are moved back."""
        number = int.from_bytes(self._digest("days", key)[:8], "big")
        return _LEAST_SHIFT_DAYS + number % (_LONGEST_SHIFT_DAYS - _LEAST_SHIFT_DAYS)

    def _digest(self, purpose: str, value: str) -> bytes:
        return hmac.new(self._secret, f"{purpose}\0{value}".encode("utf-8", "replace"), hashlib.sha256).digest()
