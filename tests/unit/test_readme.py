"""What the README and the configuration page say is what the code does: settings, dependencies, links and commands."""

import re
import tomllib
from pathlib import Path
from typing import Final

from gateway.cli import _parser as parser
from gateway.client.limits import FIELDS
from gateway.config import KEYS, variable
from gateway.config_table import markdown_table

ROOT: Final = Path(__file__).resolve().parents[2]
README: Final = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_markdown_table_is_the_one_that_the_code_makes() -> None:
    page = (ROOT / "deploy" / "configuration.md").read_text(encoding="utf-8")
    _, _, rest = page.partition("<!-- configuration: made by python -m gateway.config -->\n")
    shown, end, _ = rest.partition("<!-- end of configuration -->")
    assert end
    assert shown.strip() == markdown_table(KEYS, variable).strip()


def test_the_table_of_the_clients_limits_is_the_one_that_the_code_makes() -> None:
    page = (ROOT / "gateway" / "client" / "LIMITS.md").read_text(encoding="utf-8")
    _, _, rest = page.partition("<!-- limits: made by python -m gateway.client -->\n")
    assert rest.partition("<!-- end of limits -->")[0].strip() == markdown_table(FIELDS).strip()


def test_every_dependency_says_what_it_is_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(name for extra in extras if extra != "dev" for name in extras[extra])]
    _, _, table = README.partition("## What it is built on")
    missing = [name for name in (re.split(r"[\[<>=; ]", each)[0] for each in wanted) if name not in table]
    assert missing == []


def test_every_link_leads_to_a_file() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_command_in_it_exists() -> None:
    known = {name for action in parser()._actions if isinstance(action.choices, dict) for name in action.choices}
    used = set(re.findall(r"^(?:(?:export )?\w+=\$\()?backhaul (\w+)", README, re.MULTILINE))
    assert used
    assert used <= known
