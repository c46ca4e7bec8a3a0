"""Let only questions through to the warehouse: statements that read tables, and nothing that reaches beyond it.

* The server enforces most of it (`readonly = 1`), but not all: it lets `KILL QUERY` pass, `DESCRIBE` of a file, and the
  function `file`; and `python` ends the embedded engine. So such names are refused here, before they are sent.
* A guard for the hands of those who may ask, not a wall against them: whoever knows the password need not come this
  way. The wall is a user that the server itself keeps to reading.
"""

import re
from typing import Final

_OPENINGS: Final = ("SELECT", "WITH", "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "EXISTS")
# What may stand between a name and its bracket: blanks as ClickHouse knows them, and comments.
_BLANK: Final = r"(?:[\s\u180e\u200b-\u200d\u2060\ufeff]|/\*.*?\*/|(?:--|#|//)[^\n]*\n)*"
_OPENING: Final = re.compile(rf"{_BLANK}\(*{_BLANK}(\w+)", re.DOTALL)
_REACHING: Final = re.compile(
    rf"(?<!\w)(file|fileCluster|url|urlCluster|(?:s3|gcs|oss|cosn|hdfs|azureBlobStorage|iceberg|deltaLake|hudi|paimon)\w*"
    r"|remote|remoteSecure|cluster|clusterAllReplicas|mysql|postgresql|mongodb|redis|sqlite|jdbc|odbc|executable|python"
    rf"|arrowFlight|ytsaurus|catboostEvaluate)[`\"]?{_BLANK}\(",
    re.DOTALL | re.IGNORECASE,
)
# A quoted name may be written with escapes, and then be any of these.
_DISGUISED: Final = re.compile(rf"[`\"][^`\"\n]*\\[^`\"\n]*[`\"]{_BLANK}\(", re.DOTALL)


def why_not(query: str) -> str | None:
    """Say why a statement may not be sent; None where it may."""
    opening = _OPENING.match(query)
    word = opening.group(1).upper() if opening else query.split(maxsplit=1)[0]
    if word not in _OPENINGS:
        return f"only questions are taken ({', '.join(_OPENINGS)}), not {word}"
    if reaching := _REACHING.search(query):
        return f"{reaching.group(1)}(...) reaches beyond the warehouse"
    if _DISGUISED.search(query):
        return "the name of a function is written with escapes"
    return None
