"""The path of a record: from the log to the warehouse, once, whatever dies in between.

1. **Plan.** Before a consumer writes a range of the log it stores the range as a plan. The first plan for a place wins,
   whoever wrote it, so *ranges never overlap, not even with a consumer that was thought dead*.
2. **Write.** The range goes to ClickHouse as one insert of whole batch documents under a token made from the plan; the
   server explodes them into rows. *A replay completes what is missing and repeats nothing.*
3. **Resends.** A batch that a device sent again stands twice on the log. *The lowest place on the log wins; a range's
   own half-finished rows do not count against it.*
4. **Commit.** Last, the consumer's position moves past the range, and the log may forget it.

What no consumer can read becomes a dead letter with its reason and origin, and the rest goes on.
"""
