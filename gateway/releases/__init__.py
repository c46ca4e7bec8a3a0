"""Which release a device may run and which it is told to run: signed offline, chosen online.

* `publish` writes artifacts first and the signed catalogue last; the gateway holds no signing key.
* `snapshot` reads the store in the background; `decide` chooses from the snapshot, pure, with no I/O.
* Every document is numbered and written only if that number does not exist yet.
"""
