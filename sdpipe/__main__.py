"""``python -m sdpipe``."""

import sys

from sdpipe.cli import main

if __name__ == "__main__":
    sys.exit(main())
