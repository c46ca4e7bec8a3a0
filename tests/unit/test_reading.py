"""What `backhaul sql` sends to the warehouse, and what it does not."""

import pytest

from gateway.cli.reading import why_not


@pytest.mark.parametrize(
    "query",
    [
        "SELECT type, model, score, outcome, signals FROM events",
        "  -- what came\n SELECT count() FROM events",
        "/* what came */ select 1",
        "(SELECT 1) UNION ALL (SELECT 2)",
        "WITH 1 AS a SELECT a",
        "SHOW TABLES",
        "DESCRIBE TABLE events",
        "desc events",
        "EXPLAIN SELECT 1",
        "EXISTS TABLE events",
        "SELECT cutURL('http://x/file', 1), file FROM (SELECT 1 AS file) WHERE file IN (1)",
        'SELECT profile(1), `a b`, "c" FROM numbers(3)',
        r"SELECT extract(reason, '^\\w+') FROM dead_letters",
    ],
)
def test_a_question_is_sent(query: str) -> None:
    assert why_not(query) is None


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("INSERT INTO FUNCTION file('x.csv') SELECT 1", "not INSERT"),
        ("CREATE TEMPORARY TABLE t (a Int8)", "not CREATE"),
        ("DROP TABLE IF EXISTS events", "not DROP"),
        ("KILL QUERY WHERE 1", "not KILL"),
        ("SYSTEM FLUSH LOGS", "not SYSTEM"),
        ("SET max_threads = 1", "not SET"),
        ("USE system", "not USE"),
        ("/* SELECT */ DROP TABLE events", "not DROP"),
        ("-- SELECT\nDROP TABLE events", "not DROP"),
        ("'SELECT'", "only questions"),
        ("SELECT * FROM file('/etc/passwd', 'LineAsString')", "file(...) reaches beyond"),
        ("SELECT FILE ('/etc/passwd')", "reaches beyond"),
        ("SELECT `file`('/etc/passwd')", "reaches beyond"),
        ("SELECT \"file\" /* ( */ ('/etc/passwd')", "reaches beyond"),
        ("SELECT file -- one\n('/etc/passwd')", "reaches beyond"),
        ("SELECT file\u200b('/etc/passwd')", "reaches beyond"),
        (r"SELECT `fil\x65`('/etc/passwd')", "with escapes"),
        ("DESCRIBE TABLE file('/etc/passwd', 'CSV')", "reaches beyond"),
        ("EXPLAIN SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')", "url(...) reaches beyond"),
        ("SELECT * FROM s3Cluster('c', 'http://x/')", "reaches beyond"),
        ("SELECT * FROM icebergS3('http://x/')", "reaches beyond"),
        ("SELECT * FROM remote('127.0.0.1:1', system.one)", "reaches beyond"),
        ("SELECT * FROM python('x')", "reaches beyond"),
    ],
)
def test_what_is_more_than_a_question_is_not_sent(query: str, why: str) -> None:
    assert why in (why_not(query) or "")
