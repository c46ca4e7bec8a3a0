"""The keyring as the device keeps it: on disk before it counts, read again at every start.

* A list whose roots the app no longer has is as good as none: an app update may bring other roots.
"""

import logging
from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec.structs import replace

from gateway.client.keyring import Keyring, KeysCode, judge_keys, read_keys_again
from gateway.client.storage import Storage, StorageFailed, write_keys
from schemas.wire import SignedKeys

logger = logging.getLogger(__name__)

_encode: Final = msgspec.json.Encoder().encode
_signed: Final = msgspec.json.Decoder(SignedKeys)


class Trust:
    """Whom one device believes, and how that changes."""

    def __init__(self, storage: Storage, roots: Mapping[str, bytes], threshold: int) -> None:
        self._storage = storage
        self._accepted: SignedKeys | None = None
        self.ring = Keyring(roots, threshold)

    def restore(self) -> None:
        """Take up the list that was written; what cannot be read now is sent again."""
        try:
            text = self._storage.keys()
            signed = None if text is None else _signed.decode(text)
        except (StorageFailed, ValueError):
            logger.warning("the key list cannot be read", exc_info=True)
            return
        if signed is not None and signed != self._accepted:
            self._accepted = signed
            self.ring = replace(self.ring, listed=read_keys_again(signed, self.ring.roots, self.ring.threshold))

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
            self._accepted, self.ring = signed, replace(self.ring, listed=verdict.keys)
        return verdict.code
