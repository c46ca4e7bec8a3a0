"""Have the brokers lose what a consumer group has committed, as faults of theirs do."""

import asyncio
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError, NoError, NotCoordinatorForGroupError, for_code
from aiokafka.protocol.admin import DeleteGroupsRequest

_NON_EMPTY_GROUP: Final = 68
_GROUP_ID_NOT_FOUND: Final = 69
_RETRY_SECONDS: Final = 0.2


async def forget_group(client_options: dict[str, Any], group: str, seconds: float = 60.0) -> None:
    """Delete the group with its offsets, as soon as its last member is gone. Raises KafkaError, or TimeoutError."""
    admin = AIOKafkaAdminClient(**client_options)
    await admin.start()
    try:
        async with asyncio.timeout(seconds):
            while await _refused(admin, group):  # noqa: ASYNC110 - brokers are asked
                await asyncio.sleep(_RETRY_SECONDS)
    finally:
        await admin.close()


async def _refused(admin: AIOKafkaAdminClient, group: str) -> bool:
    coordinator = await admin.find_coordinator(group)
    answer = await admin._send_request_to_node(coordinator, DeleteGroupsRequest([group]))
    ((_, code),) = answer.results
    if code in (_NON_EMPTY_GROUP, GroupCoordinatorNotAvailableError.errno, NotCoordinatorForGroupError.errno):
        return True
    if code not in (NoError.errno, _GROUP_ID_NOT_FOUND):
        raise for_code(code)(f"deleting group {group}")
    return False
