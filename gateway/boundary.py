"""Answer every request, whatever is raised: failures of any kind become a problem document in this one place.

* Every answer is counted here, under its route, status and problem code.
"""

import logging
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from gateway import problems
from gateway.metrics import Metrics

log: Final = logging.getLogger(__name__)

# Only ever counted; the number is nginx's for the same thing.
_HUNG_UP: Final = 499


class Boundary:
    """The outermost layer of one application."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer a request."""
        code = ""
        try:
            response = await handler(request)
        except Exception as error:  # the boundary: nothing may pass unanswered
            if isinstance(error, ConnectionError) and request.transport is None:
                # The device hung up and nobody will read this; raised, it would be logged as our failure.
                response, code = web.Response(status=_HUNG_UP), "hung_up"
            else:
                response, code = _problem_response(error)
        resource = request.match_info.route.resource
        self._metrics.answered(resource.canonical if resource else "", response.status, code)
        return response


def failure_of(error: Exception) -> problems.RequestFailed:
    """Return the failed request that an exception means."""
    if isinstance(error, problems.RequestFailed):
        return error
    if isinstance(error, web.HTTPMethodNotAllowed):
        failed = problems.MethodNotAllowed("the path does not take this method")
        failed.headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
        return failed
    if isinstance(error, web.HTTPNotFound):
        return problems.NothingThere("nothing is at this path")
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return problems.BatchTooLarge("the body is too large")
    log.error("a request failed", exc_info=error)
    return problems.Internal()


def _problem_response(error: Exception) -> tuple[web.Response, str]:
    # In a function of its own: a name for the failure in the frame that caught it would close a cycle through its
    # traceback, and megabytes of inflated body would wait for the garbage collector.
    failed = failure_of(error)
    headers = {**failed.headers, hdrs.CONTENT_TYPE: problems.MEDIA_TYPE}
    return web.Response(status=failed.status, headers=headers, body=failed.document()), failed.code
