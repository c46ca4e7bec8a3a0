"""The keyring as the device keeps it: on disk before it counts, read again at every start; and the time it goes by.

* A list whose roots the app no longer has is as good as none: an app update may bring other roots.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
from msgspec.structs import replace

from gateway.client.keyring import Keyring, KeysCode, judge_keys, read_keys_again
from gateway.client.limits import Limits
from gateway.client.moment import agreed, judged
from gateway.client.storage import Storage, StorageFailed, write_keys, write_mark
from schemas.wire import SignedKeys

logger = logging.getLogger(__name__)

_encode: Final = msgspec.json.Encoder().encode
_signed: Final = msgspec.json.Decoder(SignedKeys)


class Trust:
    """Whom one device believes, and how that changes."""

    def __init__(
        self, storage: Storage, roots: Mapping[str, bytes], threshold: int, *, built_ms: int, limits: Limits
    ) -> None:
        self._storage = storage
        self._limits = limits
        self._built_ms = built_ms
        self._mark_ms = 0
        self._accepted: SignedKeys | None = None
        self.ring = Keyring(roots, threshold)

    def restore(self) -> None:
        """Take up the list that was written; what cannot be read now is sent again."""
        try:
            self._mark_ms = max(self._mark_ms, self._storage.mark_ms())
            text = self._storage.keys()
            signed = None if text is None else _signed.decode(text)
        except (StorageFailed, ValueError):
            logger.warning("the key list cannot be read", exc_info=True)
            return
        if signed is not None and signed != self._accepted:
            self._accepted = signed
            listed = read_keys_again(signed, self.ring.roots, self.ring.threshold)
            self.ring = replace(self.ring, listed=listed, document=b"" if listed is None else signed.document)

    def time(self, device_ms: int, server_ms: int | None, issued: Iterable[int]) -> int:
        """Return the time by which documents expire, and remember what both clocks vouch for.

        `issued` says when the catalogues that count were issued: a key that is revoked takes its times with it.
        """
        listed = 0 if self.ring.listed is None else self.ring.listed.issued_at
        now_ms = judged(device_ms, server_ms, max(self._built_ms, self._mark_ms, listed, *issued), self._limits)
        step_ms = self._limits.clock_mark_seconds * 1000
        if server_ms is not None and (mark_ms := agreed(device_ms, server_ms)) >= self._mark_ms + step_ms:
            self._mark_ms = mark_ms
            try:
                with self._storage.transaction() as tx:
                    write_mark(tx, mark_ms)
            except StorageFailed:
                logger.warning("the time could not be written", exc_info=True)
        return now_ms

    def accept(self, signed: SignedKeys, *, app: str, now_ms: int) -> KeysCode | None:
        """Judge a list and keep it. Return the code; None where it is the one that is kept already."""
        if signed == self._accepted and self.ring.listed is not None:
            return None
        verdict = judge_keys(signed, self.ring, app=app, now_ms=now_ms)
        if verdict.keys is not None:
            try:
                with self._storage.transaction(durable=True) as tx:
                    write_keys(tx, _encode(signed))
            except StorageFailed:
                # In memory it counts all the same: what was revoked must stop. After a restart it is sent again.
                logger.warning("the key list could not be written", exc_info=True)
            self._accepted = signed
            self.ring = replace(self.ring, listed=verdict.keys, document=signed.document)
        return verdict.code
