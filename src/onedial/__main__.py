"""`python -m onedial` is the command line."""

import sys

from onedial.cli.main import main

sys.exit(main())
