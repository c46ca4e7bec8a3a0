"""The path of a batch, in order, and what the gateway promises at each step.

    device                gateway                                              log            warehouse
    ──────                ───────                                              ───            ─────────
    POST /v1/batches ──▶  admit ─▶ decode ─▶ decide ─▶ publish ─(durable)───▶  batches   ──▶  events, batches
                                      │                   │                    dead_letters ─▶ dead_letters
                    ◀──  200 reply ◀──┴───────────────────┘

1. **Admit** (`front`, `admission`). A batch that comes whole is met before aiohttp, any other request by it. The app
   key names the app; media type, encoding and length are judged before a body is read that is not here yet. *A stranger
   costs a hash look-up, never a parse*; unknown keys share one look at the store a second.
2. **Decode** (`decode`). The body is inflated under a cap and validated whole in one typed pass. Only when that fails
   is each event judged alone. *One bad event never sinks its batch; every event ends as accepted or refused.*
3. **Decide** (`releases.decide`). From an immutable snapshot of signed catalogues and rollouts: what this device should
   run. Pure, microseconds, no I/O. *The gateway chooses among signed releases; it cannot make one.*
4. **Publish** (`publish`). The body, untouched, and a dead letter for each refused event go to the log. *200 is sent
   only after all of it is durable*: in one synced commit of the embedded log, or on every in-sync broker of Kafka,
   letters first, so that a batch never stands there without them. A batch without events, the update check, has nothing
   to lose and is published behind its answer (`checks`).
5. **Reply** (`ingest`). What was refused, when to flush next, and model news only when there is news.

A batch that fails as a whole is answered with a problem document that says whether to drop, split or retry it
(`problems`). What happens after the log is told in `consumers`; what the device does with the reply, in `client`.

Whether it holds is tried on phones that are made up: `client.fleet` lives them with real clients or simulates them by
the million, `demo` shows the whole path on one machine, `rehearsal` sets real clients beside the simulation and beside
the sample that the field copies.
"""
