"""Run the command line as `python -m gateway.cli`, which is how the supervisor starts its children."""

import sys

from gateway.cli import main

if __name__ == "__main__":
    sys.exit(main())
