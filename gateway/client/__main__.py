"""`python -m gateway.client`: print the table of LIMITS.md."""

import sys

from gateway.client.limits import FIELDS
from gateway.config_table import markdown_table

if __name__ == "__main__":
    sys.stdout.write(markdown_table(FIELDS))
