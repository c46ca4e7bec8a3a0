"""The reference device client: what SDK authors copy and Python devices use as it is.

The life of an event, and what is promised at each step:

1. **Predict** (`client`, `running`, `decision`). What runs answers; if it cannot, the previous release, the bundle or a
   plain no does, in the same call. *No network, and no error of ours, on this path.*
2. **Record** (`queue`, `storage`). The event and the count that it was produced are one transaction. *Every event
   produced is queued, delivered or counted as dropped, also after kill -9; a full disk costs events, counted as soon as
   it takes anything again while the app lives.* A device file that is damaged, or from a newer client, is set aside by
   one of the app's processes, and the others go on with the new one (`turn`, `salvage`): its events are counted as
   dropped, its models, floors and keys stay. Of what cannot be read of it any more, everything is lost: the count as
   well, and a floor, until the next catalogue brings it back.
3. **Flush** (`policy`, `timer`, `sender`). By count, age, background or lease, as the last reply said. *A batch is
   fixed on disk before it is sent, and sent as that, dated anew each time, until it is answered; one sender per
   device.* With low power only `background` flushes; on an expensive network large downloads wait.
4. **Answer** (`transport`, `policy`). *A batch is forgotten only after the reply to it, or when the contract says so.*
5. **Update** (`verify`, `updates`, `slot`, `kept`, `state`, `tries`, `downloads`, `artifacts`, `compiled`). A reply may
   bring a signed catalogue and say what to use of it. *Nothing runs that is not listed, whole, and proven here by its
   probes; whatever came over the air is on trial as long as it runs: what fails gives way in the same call, and what
   ends processes, in its load or any prediction, ends two at most; what is revoked stops in this session.*

Times and dice come through `clock` and `random.Random`; models run behind the port in `runtimes`. `sync` is the same
for programs without asyncio.
"""

from gateway.client.bundled import Bundled
from gateway.client.client import Client, ModelStatus, Predicted, Status
from gateway.client.clock import Clock, ScaledClock, SystemClock
from gateway.client.limits import Limits
from gateway.client.runtimes.coreml import CoreMLRuntime
from gateway.client.sync import SyncClient
from schemas.releases import Parameters

__all__ = [
    "Bundled",
    "Client",
    "Clock",
    "CoreMLRuntime",
    "Limits",
    "ModelStatus",
    "Parameters",
    "Predicted",
    "ScaledClock",
    "Status",
    "SyncClient",
    "SystemClock",
]
