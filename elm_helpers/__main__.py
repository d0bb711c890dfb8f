"""`python -m elm_helpers` is the `elm` command."""

import sys

from elm_helpers.cli import main

sys.exit(main())
