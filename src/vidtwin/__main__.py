"""`python -m vidtwin`."""

import sys

from vidtwin.cli import main

sys.exit(main())
