"""Loggers that are quiet for a while, and no longer."""

import logging

import pytest

from gateway.quiet import quiet


def test_loggers_are_quiet_within_and_as_they_were_after(caplog: pytest.LogCaptureFixture) -> None:
    above, beneath = logging.getLogger("noisy"), logging.getLogger("noisy.part")
    above.setLevel(logging.INFO)
    with quiet("noisy", "other"):
        beneath.error("said another way")
        beneath.critical("said all the same")
    beneath.info("said again")
    assert [record.message for record in caplog.records] == ["said all the same", "said again"]
    assert logging.getLogger("other").level == logging.NOTSET
