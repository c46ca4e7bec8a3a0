"""The crash campaign on the reference client: `make crashes`.

* A device's app is ended at every change to its files in an update, and again at changes of the recovery; writes are
  torn, the disk is full from each change on, and each change fails once by itself.
* So are updates by patches and packed downloads, and their ways out; updates on which the network, a forger, the clock
  or the SDK plays a trick besides; and an update that a second process of the app lives through.
* After each, fresh starts are judged from outside: by the scores that answer, by what the gateway received, by the
  files.
* `operations.c` counts the changes and does the damage, `phone` is the app, `place` the gateway and the device's
  directory around it, `points` what is done, `ways` what the network does, `verdict` what must hold then.
"""
