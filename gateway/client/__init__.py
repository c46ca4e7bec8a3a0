"""The reference device client: what SDK authors copy and Python devices use as it is."""

from gateway.client.bundled import Bundled, Limits
from gateway.client.client import Client, ModelStatus, Predicted, Status
from gateway.client.clock import Clock, ScaledClock, SystemClock

__all__ = [
    "Bundled",
    "Client",
    "Clock",
    "Limits",
    "ModelStatus",
    "Predicted",
    "ScaledClock",
    "Status",
    "SystemClock",
]
